"""Opening checkpoints: files, the Hub on the loopback, state dicts, models; and what is refused before it is read."""

from __future__ import annotations

import pickle

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import save_file
from torch import nn

from hf_transfer.weights import transfer_parameters
from hf_transfer.weights.source import open_source
from tests.hub_server import HubServer
from tests.models import lora, tiny_bert, tiny_resnet


# huggingface_hub 2.4 gives LFS files to httpx2 as `data=`; drop when it gives them as `content=`.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def folder(tmp_path):
    tiny_bert().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("options", [{}, {"max_shard_size": "10KB"}])
def test_shapes_without_reading_and_tensors_on_request(tmp_path, options, monkeypatch):
    model = tiny_resnet()
    model.save_pretrained(tmp_path, **options)
    source = open_source(tmp_path)
    assert source.shapes == {name: tuple(value.shape) for name, value in model.state_dict().items()}
    names = list(source.shapes)[::3]
    read = source.read(names)
    assert list(read.keys() - set(names)) == [] and len(read) == len(names)
    assert all(torch.equal(read[name], model.state_dict()[name]) for name in names)
    assert source.title == str(tmp_path) and source.settings["model_type"] == "resnet"


def test_a_file_alone(tmp_path):
    save_file({"w": torch.ones(2, 3)}, tmp_path / "my.safetensors")
    source = open_source(tmp_path / "my.safetensors")
    assert source.shapes == {"w": (2, 3)} and source.labels is None


def test_labels_are_in_the_order_of_the_outputs(tmp_path):
    model = tiny_bert(num_labels=12)
    model.config.id2label = {number: f"class {number}" for number in range(12)}
    model.save_pretrained(tmp_path)
    assert open_source(tmp_path).labels == open_source(model).labels == tuple(f"class {n}" for n in range(12))
    assert open_source(model.state_dict()).labels is None


def test_models_have_their_names_and_prefix():
    model = tiny_bert()
    source = open_source(model)
    assert source.as_module and source.prefix == "bert" and source.shapes.keys() == model.state_dict().keys()
    assert open_source(nn.DataParallel(model)).shapes == source.shapes


# -- the Hub


@pytest.fixture
def hub(tmp_path):
    with HubServer() as hub, hub.connected(tmp_path / "home"):
        yield hub


@pytest.mark.parametrize("options", [{}, {"max_shard_size": "10KB"}])
def test_from_the_hub(tmp_path, hub, options):
    source, model = tiny_bert(), tiny_bert()
    source.save_pretrained(tmp_path / "model", **options)
    api = HfApi(token=hub.token)
    api.create_repo("user/x")
    api.upload_folder(repo_id="user/x", folder_path=tmp_path / "model")
    report = transfer_parameters(model, "user/x")
    assert report.coverage == 1 and report.checkpoint == "user/x"
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_revision_of_the_hub(tmp_path, hub):
    api = HfApi(token=hub.token)
    api.create_repo("user/x")
    first, second, model = tiny_bert(), tiny_bert(), tiny_bert()
    first.save_pretrained(tmp_path / "model")
    old = api.upload_folder(repo_id="user/x", folder_path=tmp_path / "model").oid
    second.save_pretrained(tmp_path / "model")
    api.upload_folder(repo_id="user/x", folder_path=tmp_path / "model")
    transfer_parameters(model, "user/x", revision=old)
    assert torch.equal(model.bert.pooler.dense.weight, first.bert.pooler.dense.weight)
    transfer_parameters(model, "user/x")
    assert torch.equal(model.bert.pooler.dense.weight, second.bert.pooler.dense.weight)


@pytest.mark.parametrize(("file", "error", "message"), [
    ("pytorch_model.bin", ValueError, "user/x .pytorch_model.bin. is pickled.*save_pretrained"),
    ("adapter_config.json", ValueError, "user/x holds adapters.*merge_and_unload"),
    ("notes.txt", FileNotFoundError, "user/x has no model.safetensors.*Pass a folder"),
])  # fmt: skip
def test_what_the_hub_has_instead(tmp_path, hub, file, error, message):
    api = HfApi(token=hub.token)
    api.create_repo("user/x")
    api.upload_file(repo_id="user/x", path_or_fileobj=b"{}", path_in_repo=file)
    with pytest.raises(error, match=message):
        open_source("user/x")
    assert not any("pytorch_model.bin" in ask.path and ask.method == "GET" for ask in hub.requests)


def test_no_such_model_on_the_hub(hub):
    with pytest.raises(OSError, match="user/nothing"):
        open_source("user/nothing")


# -- refusals


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was opened",))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "model.pth", "last.ckpt"])
def test_pickles_are_never_opened(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(Trap()))
    for checkpoint in (tmp_path, tmp_path / name, str(tmp_path / name)):
        with pytest.raises(ValueError, match=f"{name}.* is pickled: opening such a file runs.*save_pretrained"):
            open_source(checkpoint)


def test_a_safe_file_beside_a_pickle_is_taken(folder):
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    assert open_source(folder).shapes


def test_folders_and_files_without_weights(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="has no model.safetensors and no model.safetensors.index.json.*Pass a"
    ):
        open_source(tmp_path)
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(FileNotFoundError, match="notes.txt has no model.safetensors"):
        open_source(tmp_path / "notes.txt")


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "~/nowhere", "a/b/c"])
def test_paths_that_do_not_exist_are_not_sought_on_the_hub(name):
    with pytest.raises(FileNotFoundError, match=f"The path {name} does not exist.*Check the spelling"):
        open_source(name)


def test_a_missing_shard(tmp_path):
    tiny_bert().save_pretrained(tmp_path, max_shard_size="10KB")
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {shard.name} of the .* shards.*whole checkpoint"):
        open_source(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 200, -10])
def test_a_damaged_file(folder, keep):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match="is no whole safetensors file .*Copy or download it anew"):
        open_source(folder)


def test_adapters(tmp_path):
    model = lora(tiny_bert(), ["query"], "classifier")
    model.save_pretrained(tmp_path)
    for checkpoint, title in (
        (tmp_path, str(tmp_path)),
        (tmp_path / "adapter_model.safetensors", "adapter_model"),
        (model.state_dict(), "The state dict"),
    ):
        with pytest.raises(ValueError, match=f"{title}.* holds adapters of PEFT.*PeftModel.from_pretrained"):
            open_source(checkpoint)
    with pytest.raises(ValueError, match="The source BertFor.* carries adapters.*merge_and_unload"):
        open_source(model)
    assert open_source(model.merge_and_unload()).shapes


@pytest.mark.parametrize(("mapping", "message"), [
    ({}, "it is empty"), ({"model": {"w": torch.ones(1)}, "step": 3}, "`model` is a dict"), ({"w": 3}, "`w` is a int")
])  # fmt: skip
def test_mappings_that_are_no_state_dict(mapping, message):
    with pytest.raises(ValueError, match=f"The mapping is no state dict: {message}.*inner mapping"):
        open_source(mapping)


@pytest.mark.parametrize("checkpoint", [3, None, [torch.ones(1)]])
def test_other_things(checkpoint):
    with pytest.raises(TypeError, match="The checkpoint is a .*: there are no named tensors.*Pass a folder"):
        open_source(checkpoint)


def test_objectives_in_a_state_dict_or_file_are_left_out(tmp_path):
    state = {"w": torch.ones(1), "transfer_objectives.a.w": torch.ones(1)}
    save_file(state, tmp_path / "model.safetensors")
    assert open_source(state).shapes.keys() == open_source(tmp_path).shapes.keys() == {"w"}
