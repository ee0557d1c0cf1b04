"""Export: the graph says what the model says, for other shapes too, or nothing is written."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile

import pytest
import torch
from torch import nn

from hf_transfer import export
from hf_transfer.adapters.merging import disagreement, logits_of
from hf_transfer.attach import attach
from hf_transfer.export import TOLERANCES, export_model
from hf_transfer.exported import load_export
from hf_transfer.objectives import L2SP
from tests.models import batch_for, lora, tiny_bert, tiny_gpt2, tiny_resnet, tiny_vit, tiny_wav2vec2
from tests.test_series_models import CLASSIFIERS, rows_for


class Processor:
    def save_pretrained(self, folder):
        (folder / "processor.json").write_text("{}")


def inputs(model: nn.Module, rows: int) -> dict[str, torch.Tensor]:
    batch = batch_for(model, rows, seed=3)
    return {name: value for name, value in batch.items() if name not in ("labels", "domain")}


def check(model, folder, format):
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = export_model(model.train(), folder, Processor(), format=format)
    assert path.is_file() and (folder / "processor.json").is_file() and model.training
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert not [entry for entry in folder.parent.iterdir() if entry.suffix == ".tmp"]
    described = json.loads((folder / "export.json").read_text())
    assert 0 <= described["difference"] <= described["tolerance"] == TOLERANCES[torch.float32]
    exported = load_export(folder)
    assert exported.config.id2label == model.config.id2label
    for rows in (1, 7):
        shown = inputs(model, rows)
        if "pixel_values" in shown:
            shown["pixel_values"] = torch.randn(rows, 3, *export.inputs_of(model)["pixel_values"].shape[2:])
        if "input_values" in shown:
            shown["input_values"] = torch.randn(rows, 8_000)
        assert disagreement(logits_of(model, shown), exported(**shown, labels=None)) <= TOLERANCES[torch.float32]
    return exported


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """An exported model, its folder, and the batch it was traced with."""
    folder = tmp_path_factory.mktemp("export") / "vit"
    model = tiny_vit()
    batch = inputs(model, 2)
    export_model(model, folder, format="torch_export", batch=batch)
    return model, folder, batch


@pytest.mark.parametrize("make", [lambda: tiny_bert(num_hidden_layers=1), tiny_resnet])
def test_torch_export(make, tmp_path):
    check(make(), tmp_path / "out", "torch_export")


def test_a_classifier_of_series(tmp_path):
    """What it returns has another name than `logits`."""
    model = CLASSIFIERS[0]().eval()
    export_model(model, tmp_path, format="torch_export", batch=rows_for(model))
    shown = {"past_values": rows_for(model, rows=7, seed=1)["past_values"]}
    assert disagreement(model(**shown).prediction_logits, load_export(tmp_path)(**shown)) <= TOLERANCES[torch.float32]


@pytest.mark.slow
@pytest.mark.parametrize("make", [tiny_bert, tiny_vit, tiny_gpt2, tiny_wav2vec2])
def test_onnx(make, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    check(make(), tmp_path / "out", "onnx")


def test_the_archive_holds_no_pickle_and_no_rows(written, tmp_path):
    _, folder, batch = written
    with zipfile.ZipFile(folder / "model.pt2") as archive:
        contents = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    assert not any(content[:2] in (b"PK", b"\x80\x02", b"\x80\x04") for content in contents.values())
    row = batch["pixel_values"][0].numpy().tobytes()
    assert not any(row in content for content in contents.values())
    # what `torch.export.save` alone would write is refused
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), tmp_path / "model.pt2")
    with pytest.raises(ValueError, match=r"model.pt2 holds pickled data \(.*sample_inputs.*export_model"):
        load_export(tmp_path)


def test_a_graph_that_disagrees_is_not_written(written, tmp_path, monkeypatch):
    _, folder, _ = written
    shutil.copytree(folder, tmp_path / "out")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    # the graph of a model with other weights
    torch.manual_seed(7)
    monkeypatch.setattr(export, "_traced", lambda *_: torch.export.load(folder / "model.pt2"))
    with pytest.raises(ValueError, match="logits of the exported graph differ .* Nothing was written"):
        export_model(tiny_vit(), tmp_path / "out", format="torch_export")
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_code_that_depends_on_values_is_refused(tmp_path):
    model = tiny_vit()
    forward = model.forward

    def choosing(pixel_values, return_dict=None):
        return forward(pixel_values if pixel_values.sum() > 0 else -pixel_values)

    model.forward = choosing
    with pytest.raises(ValueError, match="ViTForImageClassification cannot be traced .*depends on the values"):
        export_model(model, tmp_path / "out", format="torch_export")
    assert not list(tmp_path.iterdir())


def test_adapters_are_refused(tmp_path):
    model = lora(tiny_vit(), ["query", "q_proj"], "classifier")
    with pytest.raises(TypeError, match="has adapters: .*merge_adapter"):
        export_model(model, tmp_path, format="torch_export")


def test_attached_objectives_are_refused(tmp_path):
    model = tiny_vit()
    with attach(model, [L2SP(weight=0.1)]), pytest.raises(ValueError, match="Objectives are attached"):
        export_model(model, tmp_path, format="torch_export")


def test_unknown_formats_are_refused(tmp_path):
    with pytest.raises(ValueError, match='format="tflite" is not known here.*onnx, torch_export'):
        export_model(tiny_vit(), tmp_path, format="tflite")  # pyright: ignore[reportArgumentType]


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match="`onnx` is not installed.*pip install onnx onnxscript onnxruntime"):
        export_model(tiny_vit(), tmp_path)


def test_bfloat16_is_refused_for_onnx(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "onnx_packages", lambda: None)
    with pytest.raises(ValueError, match="is in bfloat16, for which ONNX Runtime lacks"):
        export_model(tiny_vit().bfloat16(), tmp_path)


def test_folders_without_an_export_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no export.json"):
        load_export(tmp_path)
    (tmp_path / "export.json").write_text('{"format": "tflite"}')
    with pytest.raises(ValueError, match="of the format `tflite`, which is not known here"):
        load_export(tmp_path)


def test_missing_inputs_are_named(written):
    with pytest.raises(ValueError, match="reads pixel_values, and pixel_values is missing"):
        load_export(written[1])(input_ids=torch.zeros(1))
