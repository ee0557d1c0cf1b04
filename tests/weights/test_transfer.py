"""Transfer of parameters: what fits and nothing else, from every kind of checkpoint, all or nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    MixtralConfig,
    MixtralForSequenceClassification,
    ResNetModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    ViTForImageClassification,
    ViTModel,
)

from hf_transfer import L2SP, DomainAdversarial, attach
from hf_transfer.weights import TransferReport, transfer_parameters
from tests.models import (
    TINY,
    batch_for,
    bert_config,
    lora,
    tiny_bert,
    tiny_llama,
    tiny_resnet,
    tiny_token_bert,
    tiny_vit,
)


NAMED = {"id2label": {0: "ant", 1: "bee", 2: "wasp"}, "label2id": {"ant": 0, "bee": 1, "wasp": 2}}


def named(make, **options) -> Any:
    model = make(**options)
    model.config.id2label = dict(NAMED["id2label"])
    return model


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def check_exact(report: TransferReport, model: nn.Module, before: dict, source: dict) -> None:
    """The report against the tensors themselves, name by name."""
    now = state(model)
    listed = [entry.name for kind in (report.copied, report.resized, report.skipped) for entry in kind]
    assert sorted(listed) == sorted(now)
    for entry in report.copied:
        assert torch.equal(now[entry.name], source[entry.source].to(now[entry.name].dtype)), entry
    for entry in report.skipped:
        assert torch.equal(now[entry.name], before[entry.name]) and entry.reason, entry
    used = {entry.source for kind in (report.copied, report.resized, report.skipped) for entry in kind}
    assert used - {""} | {entry.source for entry in report.unused} == source.keys()
    parameters = dict(model.named_parameters())
    assert report.num_parameters == sum(parameter.numel() for parameter in parameters.values())
    assert report.num_transferred == sum(parameters[e.name].numel() for e in report.copied if e.name in parameters)


def reasons(entries) -> dict[str, str]:
    return {entry.name or entry.source: entry.reason for entry in entries}


# -- what fits


@pytest.mark.parametrize("name", TINY)
def test_from_a_model_of_the_same_kind_everything_but_an_unnamed_head(name):
    torch.manual_seed(1)
    source, model = TINY[name](), TINY[name]()
    for of in (source, model):
        of.config.id2label = {number: f"{id(of)} {number}" for number in range(3)}
    with torch.no_grad():
        for buffer in source.buffers():
            buffer.add_(1)
    before, there = state(model), state(source)
    report = transfer_parameters(model, source)
    check_exact(report, model, before, there)
    assert {entry.part for entry in report.skipped} == {"head"} and not report.unused
    report = transfer_parameters(model, source, head=True)
    assert report.coverage == 1 and not report.skipped and same(state(model), there)


@pytest.mark.parametrize("make", [tiny_bert, tiny_vit, tiny_resnet, tiny_llama])
@pytest.mark.parametrize("kind", ["folder", "shards", "file", "state dict", "model"])
def test_every_kind_of_checkpoint_gives_the_same(tmp_path, make, kind):
    source, model = make(), make()
    before, there = state(model), state(source)
    options = {"max_shard_size": "10KB"} if kind == "shards" else {}
    source.save_pretrained(tmp_path, **options)
    assert (tmp_path / "model.safetensors.index.json").is_file() == (kind == "shards")
    checkpoint = {
        "folder": tmp_path,
        "shards": str(tmp_path),
        "file": tmp_path / "model.safetensors",
        "state dict": source.state_dict(),
        "model": source,
    }[kind]
    report = transfer_parameters(model, checkpoint, head=True)
    assert same(state(model), there) and report.coverage == 1 and not report.unused
    assert not same(before, there)


def test_renamed_keys_say_so(tmp_path):
    source, model = tiny_vit(), tiny_vit()
    source.save_pretrained(tmp_path)
    report = transfer_parameters(model, tmp_path)
    (entry,) = [entry for entry in report.copied if entry.name == "vit.layers.1.attention.q_proj.weight"]
    assert entry.source == "vit.encoder.layer.1.attention.attention.query.weight"
    assert entry.reason == "renamed by transformers" and entry.part == "block.1"


def test_experts_are_stacked_as_transformers_does(tmp_path):
    config = MixtralConfig(
        vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=2, pad_token_id=0,
    )  # fmt: skip
    source, model = MixtralForSequenceClassification(config), MixtralForSequenceClassification(config)
    source.save_pretrained(tmp_path)
    report = transfer_parameters(model, tmp_path)
    assert same(state(model), state(source)) and report.coverage == 1 and not report.unused
    assert any(entry.reason == "converted by transformers" and ", " in entry.source for entry in report.copied)


@pytest.mark.parametrize("how", ["model", "folder", "state dict"])
@pytest.mark.parametrize(("make", "base"), [(tiny_bert, BertModel), (tiny_vit, ViTModel), (tiny_resnet, ResNetModel)])
def test_base_models_into_classifiers_and_back(tmp_path, make, base, how):
    def given(model):
        if how != "folder":
            return model if how == "model" else model.state_dict()
        model.save_pretrained(tmp_path / type(model).__name__)
        return tmp_path / type(model).__name__

    source, model = base(make().config), make()
    report = transfer_parameters(model, given(source))
    inner = getattr(model, model.base_model_prefix).state_dict()
    assert all(
        torch.equal(value, source.state_dict()[name]) for name, value in inner.items() if name in source.state_dict()
    )
    assert {"another base-model prefix"} <= set(reasons(report.copied).values())
    assert {entry.part for entry in report.skipped} == {"head"}
    again = base(make().config)
    report = transfer_parameters(again, given(model))
    assert report.coverage == 1 if make is not tiny_vit else report.coverage > 0.9  # ViTModel has a pooler of its own
    assert {entry.source.partition(".")[0] for entry in report.unused} == {"classifier"}


@pytest.mark.parametrize("how", ["folder", "state dict", "model"])
def test_another_family_with_the_same_names(tmp_path, how):
    sizes = {key: bert_config().to_dict()[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers",
             "num_attention_heads", "intermediate_size", "max_position_embeddings", "type_vocab_size")}  # fmt: skip
    source, model = RobertaForSequenceClassification(RobertaConfig(**sizes)), tiny_bert()
    source.save_pretrained(tmp_path)
    checkpoint = {"folder": tmp_path, "state dict": source.state_dict(), "model": source}[how]
    report = transfer_parameters(model, checkpoint)
    assert torch.equal(
        model.bert.encoder.layer[2].output.dense.weight, source.roberta.encoder.layer[2].output.dense.weight
    )
    assert {entry.part for entry in report.skipped} == {"neck", "head"}
    assert reasons(report.unused)["classifier.dense.weight"] == "no such tensor in the model"


def test_masked_language_model_head_is_left_out_and_ties_are_kept():
    source, model = BertForMaskedLM(bert_config()), tiny_bert()
    report = transfer_parameters(model, source)
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, source.cls.predictions.decoder.weight)
    left = reasons(report.unused)
    assert all(name.startswith("cls.predictions") for name in left)
    back = BertForMaskedLM(bert_config())
    report = transfer_parameters(back, source.state_dict(), head=True)
    assert report.coverage == 1 and back.cls.predictions.decoder.weight is back.bert.embeddings.word_embeddings.weight
    assert same(state(back), state(source))
    assert sum(entry.is_parameter for entry in report.copied) == len(list(back.parameters()))


def test_into_tied_tensors_from_two_of_their_own():
    untied = BertForMaskedLM(bert_config(tie_word_embeddings=False))
    model = BertForMaskedLM(bert_config())
    report = transfer_parameters(model, untied)
    assert torch.equal(model.cls.predictions.decoder.weight, untied.bert.embeddings.word_embeddings.weight)
    assert reasons(report.unused)["cls.predictions.decoder.weight"] == (
        "the model keeps it as bert.embeddings.word_embeddings.weight, which takes another tensor"
    )


def test_models_of_another_depth():
    source, model = tiny_bert(num_hidden_layers=2), tiny_bert()
    before = state(model)
    report = transfer_parameters(model, source)
    check_exact(report, model, before, state(source))
    assert {entry.part for entry in report.skipped} == {"block.2"}
    report = transfer_parameters(tiny_bert(num_hidden_layers=1), source)
    assert {entry.source.split(".")[3] for entry in report.unused} == {"1"}


def test_values_are_converted_to_the_types_of_the_model():
    source, model = tiny_resnet(), tiny_resnet().bfloat16()
    source.train()(pixel_values=batch_for(source)["pixel_values"])
    transfer_parameters(model, source)
    for name, value in model.state_dict().items():
        assert torch.equal(value, source.state_dict()[name].to(value.dtype)), name
        assert value.dtype in (torch.bfloat16, torch.int64)
    assert model.resnet.embedder.embedder.normalization.num_batches_tracked == 1


def test_plain_modules_and_their_state_dicts():
    source, model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)), nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 5))
    before = state(model)
    report = transfer_parameters(model, source.state_dict())
    check_exact(report, model, before, state(source))
    assert list(reasons(report.copied)) == ["0.weight", "0.bias"]


def test_tensors_of_the_model_itself_may_change_places():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    before = state(model)
    own = model.state_dict()
    swapped = {name: own[f"{1 - int(name[0])}{name[1:]}"] for name in own}
    transfer_parameters(model, swapped)
    assert all(torch.equal(value, before[f"{1 - int(name[0])}{name[1:]}"]) for name, value in state(model).items())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_state_dicts_of_wrapped_models(prefix):
    source, model = tiny_bert(), tiny_bert()
    transfer_parameters(model, {f"{prefix}{name}": value for name, value in source.state_dict().items()}, head=True)
    assert same(state(model), state(source))
    transfer_parameters(model, nn.DataParallel(source))


# -- the head


def test_a_head_goes_along_where_the_class_names_agree(tmp_path):
    source, model = named(tiny_bert), named(tiny_bert)
    source.save_pretrained(tmp_path)
    for checkpoint in (source, tmp_path):
        report = transfer_parameters(model, checkpoint)
        assert torch.equal(model.classifier.weight, source.classifier.weight)
        assert reasons(report.copied)["classifier.weight"] == "same class names"


def test_placeholder_names_agree_and_it_is_said():
    report = transfer_parameters(tiny_bert(), tiny_bert())
    assert reasons(report.copied)["classifier.bias"] == "same class names (placeholders)"


def test_two_default_names_are_not_in_the_file_and_agree(tmp_path):
    source, model = tiny_bert(num_labels=2), tiny_bert(num_labels=2)
    source.save_pretrained(tmp_path)
    assert "id2label" not in (tmp_path / "config.json").read_text()
    assert not transfer_parameters(model, tmp_path).skipped


def test_a_head_with_other_names_stays_and_the_report_says_which():
    source, model = named(tiny_bert), named(tiny_bert)
    source.config.id2label[1] = "hornet"
    before = model.classifier.weight.detach().clone()
    report = transfer_parameters(model, source)
    assert torch.equal(model.classifier.weight, before)
    assert reasons(report.skipped)["classifier.weight"] == (
        "other class names: output 1 is `hornet` in the checkpoint, `bee` here; head=True copies it"
    )
    transfer_parameters(model, source, head=True)
    assert torch.equal(model.classifier.weight, source.classifier.weight)


def test_a_state_dict_tells_no_names():
    model = tiny_bert()
    report = transfer_parameters(model, tiny_bert().state_dict())
    assert "nothing tells the class names" in reasons(report.skipped)["classifier.weight"]
    assert reasons(transfer_parameters(model, tiny_bert(), head=False).skipped)["classifier.bias"] == "head=False"


def test_a_head_of_another_size_stays_whole():
    report = transfer_parameters(tiny_bert(num_labels=5), tiny_bert(), head=True)
    assert reasons(report.skipped) == {
        "classifier.weight": "another shape: (3, 16) in the checkpoint, (5, 16) here",
        "classifier.bias": "another shape: (3,) in the checkpoint, (5,) here",
    }


# -- the first blocks


@pytest.mark.parametrize("make", [tiny_bert, tiny_vit, tiny_resnet, tiny_llama])
@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_only_the_first_blocks(make, blocks):
    source, model = make(), make()
    with torch.no_grad():
        for tensor in (*source.parameters(), *source.buffers()):
            tensor.add_(1)
    before = state(model)
    report = transfer_parameters(model, source, blocks=blocks)
    check_exact(report, model, before, state(source))
    assert {entry.part for entry in report.copied} == {"embeddings", *(f"block.{number}" for number in range(blocks))}
    changed = {name for name, value in state(model).items() if not torch.equal(value, before[name])}
    assert changed == {entry.name for entry in report.copied}
    assert all(f"first {blocks} blocks" in entry.reason for entry in report.skipped)
    if make is tiny_resnet:
        assert any(name.endswith("running_mean") for name in changed)


@pytest.mark.parametrize(("blocks", "message"), [
    (4, "blocks=4, but the model has 3 blocks.*at most 3"), (-1, "blocks=-1 is negative.*counted from the bottom"),
])  # fmt: skip
def test_wrong_numbers_of_blocks(blocks, message):
    model = tiny_bert()
    before = state(model)
    with pytest.raises(ValueError, match=message):
        transfer_parameters(model, tiny_bert(), blocks=blocks)
    assert same(state(model), before)


def test_more_blocks_than_the_checkpoint_has():
    model = tiny_bert()
    before = state(model)
    with pytest.raises(ValueError, match="blocks=3, but BertForSequenceClassification has nothing for block.2.*fewer"):
        transfer_parameters(model, tiny_bert(num_hidden_layers=2), blocks=3)
    assert same(state(model), before)
    transfer_parameters(model, tiny_bert(num_hidden_layers=2), blocks=2)


def test_blocks_of_a_model_without_a_head_need_a_classifier():
    with pytest.raises(ValueError, match="without a head there is no place"):
        transfer_parameters(BertModel(bert_config()), tiny_bert(), blocks=1)


# -- under PEFT, and with objectives


def test_under_lora_into_the_base_layers_as_if_before():
    source, plain = named(tiny_bert), named(tiny_bert)
    model = lora(plain, ["query"], "classifier")
    adapters = {name: value.clone() for name, value in model.state_dict().items() if "lora_" in name}
    report = transfer_parameters(model, source)
    assert report.coverage == 1 and "bert.encoder.layer.0.attention.self.query.weight" in reasons(report.copied)
    batch = {key: value for key, value in batch_for(source).items() if key != "domain"}
    torch.testing.assert_close(model.eval()(**batch).logits, source.eval()(**batch).logits, rtol=0, atol=0)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in adapters.items())
    inner = model.get_base_model().classifier
    for copy in (inner.original_module, inner.modules_to_save["default"]):  # also with the adapter switched off
        assert torch.equal(copy.weight, source.classifier.weight)
    assert inner.modules_to_save["default"].weight.requires_grad


def test_under_lora_with_blocks():
    source, model = tiny_vit(), lora(tiny_vit(), ["q_proj"], "classifier")
    report = transfer_parameters(model, source, blocks=1)
    assert {entry.part for entry in report.copied} == {"embeddings", "block.0"}


def test_trained_adapters_are_refused():
    model = lora(tiny_bert(), ["query"], "classifier")
    with torch.no_grad():
        model.get_base_model().bert.encoder.layer[1].attention.self.query.lora_B["default"].weight.add_(0.1)
    before = state(model)
    with pytest.raises(ValueError, match="layer.1.attention.self.query.*present weights.*before `get_peft_model`"):
        transfer_parameters(model, tiny_bert())
    assert same(state(model), before)


@pytest.mark.parametrize("options", [{"use_dora": True}, {"init_lora_weights": "pissa"}])
def test_adapters_computed_from_the_weights_are_refused(options):
    with pytest.raises(ValueError, match="computed from its present weights.*before `get_peft_model`"):
        transfer_parameters(lora(tiny_bert(), ["query"], "classifier", **options), tiny_bert())


def test_the_embeddings_of_a_model_with_adapted_embeddings():
    model = get_peft_model(tiny_bert(), LoraConfig(r=2, target_modules=["word_embeddings"]))
    source = tiny_bert()
    transfer_parameters(model, source)
    base = model.get_base_model().bert.embeddings.word_embeddings.base_layer
    assert torch.equal(base.weight, source.bert.embeddings.word_embeddings.weight)


def test_attached_objectives_are_neither_source_nor_target():
    source, model = tiny_bert(), tiny_bert()
    attach(source, [DomainAdversarial(hidden_size=4), L2SP()])
    attach(model, [DomainAdversarial(hidden_size=4)])
    own = state(model.transfer_objectives)
    for checkpoint in (source, source.state_dict()):
        report = transfer_parameters(model, checkpoint, head=True)
        assert report.coverage == 1 and not report.unused
    assert same(state(model.transfer_objectives), own)


# -- refusals: nothing is changed


def test_no_name_in_common():
    model = tiny_bert()
    before = state(model)
    with pytest.raises(
        ValueError, match=r"No tensor of ResNetF.* has a name of the model: .*nearest here: .*same family"
    ):
        transfer_parameters(model, tiny_resnet())
    with pytest.raises(ValueError, match=r"a.weight \(nearest here: .*weight\)"):
        transfer_parameters(model, {"a.weight": torch.zeros(3)})
    assert same(state(model), before)


def test_names_in_common_but_no_shape():
    with pytest.raises(
        ValueError, match="Nothing of BertFor.* can be copied: its 57 tensors.*another shape.*Build it"
    ):
        transfer_parameters(tiny_bert(), tiny_bert(hidden_size=32, intermediate_size=64, num_labels=5))


def test_nothing_is_written_if_reading_fails(tmp_path, monkeypatch):
    source, model = tiny_bert(), tiny_bert()
    source.save_pretrained(tmp_path)
    before = state(model)

    def fail(self, names):
        raise OSError("the disk is gone")

    monkeypatch.setattr("hf_transfer.weights.source.Source.read", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        transfer_parameters(model, tmp_path)
    assert same(state(model), before)


def test_wrapped_and_empty_models_are_refused():
    with pytest.raises(TypeError, match="wrapped in DataParallel.*bare model"):
        transfer_parameters(nn.DataParallel(tiny_bert()), tiny_bert())
    with torch.device("meta"):
        model = tiny_bert()
    with pytest.raises(ValueError, match="on the meta device.*real weights"):
        transfer_parameters(model, tiny_bert())


def test_a_poor_match_is_logged(caplog):
    source = {"bert.pooler.dense.bias": torch.ones(16)}
    report = transfer_parameters(tiny_bert(), source)
    assert report.num_transferred == 16 and "come from state dict" in caplog.text


# -- and on


@pytest.mark.parametrize("make", [tiny_bert, tiny_vit, tiny_resnet])
def test_the_result_is_saved_and_loaded_as_usual(tmp_path, make):
    auto = {"tiny_bert": BertForSequenceClassification, "tiny_vit": ViTForImageClassification}
    model = make()
    transfer_parameters(model, make(), blocks=1)
    model.save_pretrained(tmp_path)
    again = auto.get(make.__name__, type(model)).from_pretrained(tmp_path)
    assert same(state(model), state(again))


def test_token_classifier_from_a_sequence_classifier():
    source, model = tiny_bert(), tiny_token_bert()
    report = transfer_parameters(model, source)
    assert [entry.source for entry in report.unused] == ["bert.pooler.dense.weight", "bert.pooler.dense.bias"]
    assert report.skipped == []  # placeholder names: heads of one size
