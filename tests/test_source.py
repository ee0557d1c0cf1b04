"""The source model: what it returns, that nothing trains, moves or saves it, and what is refused."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn
from transformers import BertModel, LlamaForCausalLM

from hf_transfer import L2SP, attach
from hf_transfer.source import Source, accepted_inputs, inputs_of, to_device
from tests.models import TINY, batch_for, bert_config, lora, tiny_bert, tiny_llama, tiny_resnet, tiny_token_bert


def inputs_for(model: nn.Module, rows: int = 4) -> dict:
    batch = batch_for(model, rows)
    return {name: value for name, value in batch.items() if name not in ("labels", "domain")}


def state_of(model: nn.Module) -> dict:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("kind", TINY)
def test_one_forward_gives_logits_features_and_hidden_states(kind):
    model = TINY[kind]().eval()
    source = Source(model)
    inputs = inputs_for(model)
    block = source.anatomy.blocks[-1]
    seen = {}
    hook = model.get_submodule(block).register_forward_hook(lambda m, a, output: seen.update(output=output))
    with torch.no_grad():
        expected = model(**inputs).logits
    hook.remove()
    output = source(inputs, hidden_states=[block])
    torch.testing.assert_close(output.logits, expected, rtol=0, atol=0)
    torch.testing.assert_close(source.head(output.features), output.logits, rtol=1e-4, atol=1e-6)
    wanted = seen["output"][0] if isinstance(seen["output"], tuple) else seen["output"]
    assert torch.equal(output.hidden_states[block], wanted)
    assert not any(tensor.requires_grad for tensor in (output.logits, output.features, wanted.detach()))
    assert source(inputs).hidden_states == {}


def test_is_a_frozen_copy():
    model = tiny_bert().train()
    before = state_of(model)
    source = Source(model)
    assert not any(parameter.requires_grad for parameter in source.model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters()) and model.training
    assert not source.model.training
    with torch.no_grad():
        model.classifier.weight.add_(1)
    assert torch.equal(source.model.classifier.weight, before["classifier.weight"])


def test_is_no_module_and_copies_share_it():
    source = Source(tiny_bert())
    holder = nn.Linear(1, 1)
    holder.source = source
    assert set(holder.state_dict()) == {"weight", "bias"} and len(list(holder.modules())) == 1
    assert copy.deepcopy(holder).source is source and Source.of(source) is source


def test_under_peft_the_frozen_weights_are_shared_and_the_adapters_copied():
    model = lora(tiny_bert(), ["query"], "classifier")
    source = Source(model)
    own, theirs = dict(source.model.named_parameters()), dict(model.named_parameters())
    shared = {name for name in own if own[name] is theirs[name]}
    assert shared == {name for name, parameter in theirs.items() if not parameter.requires_grad}
    assert source.head.weight is not model.get_submodule(source.anatomy.head).weight
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(1)
    moved, kept = model.eval()(**inputs_for(model)).logits, source(inputs_for(model)).logits
    assert not torch.allclose(moved, kept)


def test_weights_frozen_by_hand_are_not_shared():
    model = tiny_bert()
    model.bert.requires_grad_(False)
    assert not {id(p) for p in Source(model).model.parameters()} & {id(p) for p in model.parameters()}


def test_a_dtype_of_its_own():
    model = tiny_resnet()
    source = Source(model, dtype=torch.bfloat16)
    assert {p.dtype for p in source.model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    output = source(inputs_for(model))  # pixels in float32
    assert output.logits.dtype == output.features.dtype == torch.float32
    torch.testing.assert_close(output.logits, Source(model)(inputs_for(model)).logits, rtol=0.1, atol=0.1)


def test_precision_runs_it_under_autocast():
    model = tiny_bert()
    source = Source(model)
    block = source.anatomy.blocks[0]
    query = source.model.bert.encoder.layer[0].attention.self.query
    dtypes = []
    query.register_forward_hook(lambda module, args, output: dtypes.append(output.dtype))
    source(inputs_for(model), hidden_states=[block], precision=torch.bfloat16)
    source(inputs_for(model))
    assert dtypes == [torch.bfloat16, torch.float32]


def test_moves_to_the_device_of_the_inputs():
    source = Source(tiny_bert())
    inputs = to_device(inputs_for(source.model), torch.device("meta"))
    assert source._prepared(inputs)["input_ids"].is_meta and next(source.model.parameters()).is_meta


def test_modes_like_those_of_another_model_leave_the_statistics_alone():
    model = tiny_resnet().train()
    source = Source(model)
    before = state_of(source.model)
    inputs = inputs_for(model)
    inside = source(inputs, like=model).logits
    torch.testing.assert_close(inside, model(**inputs).logits, rtol=0, atol=0)
    assert not torch.allclose(inside, source(inputs).logits)
    assert not source.model.training
    assert all(torch.equal(value, before[name]) for name, value in source.model.state_dict().items())


def test_modes_are_followed_module_by_module():
    model = tiny_resnet().train()
    source = Source(model)
    model.resnet.eval()
    inputs = inputs_for(model)
    torch.testing.assert_close(source(inputs, like=model).logits, source(inputs).logits, rtol=0, atol=0)


# what it reads


def test_flags_and_token_types_a_source_has_not_are_left_out():
    source = Source(tiny_llama())
    inputs = inputs_for(source.model)
    more = {**inputs, "token_type_ids": torch.zeros_like(inputs["input_ids"]), "output_attentions": None}
    more |= {"return_dict": False, "labels": torch.zeros(4), "num_items_in_batch": torch.tensor(3)}
    assert torch.equal(source(more).logits, source(inputs).logits)


def test_inputs_the_source_would_not_see_are_refused():
    source = Source(tiny_bert())
    inputs = {**inputs_for(source.model), "bbox": torch.zeros(4, 6, 4)}
    with pytest.raises(ValueError, match="does not take bbox.*would see other rows.*source of the same kind"):
        source(inputs)


def test_no_inputs_are_refused():
    with pytest.raises(ValueError, match="holds no inputs.*cannot look at the rows.*`model"):
        Source(tiny_bert())({})


def test_what_a_model_reads_of_a_batch():
    model = lora(tiny_bert(), ["query"])
    assert {"input_ids", "attention_mask", "labels"} <= accepted_inputs(model) and "kwargs" not in accepted_inputs(
        model
    )
    found = inputs_of(model, {**batch_for(model), "teacher_logits": torch.zeros(4)}, torch.device("cpu"))
    assert set(found) == {"input_ids", "attention_mask"}


# its head


@pytest.mark.parametrize("kind", TINY)
def test_a_copy_of_the_head_trains_alone(kind):
    source = Source(TINY[kind]())
    head = source.copy_head(source.anatomy.feature_dim)
    features = torch.randn(5, source.anatomy.feature_dim)
    torch.testing.assert_close(head(features), source.head(features))
    assert all(parameter.requires_grad for parameter in head.parameters())
    assert head.weight.data_ptr() != source.head.weight.data_ptr()
    assert head.weight.dtype == torch.float32


def test_a_convolution_as_head_becomes_a_linear_layer():
    class WithConvolution(nn.Module):
        def __init__(self):
            super().__init__()
            self.config = bert_config(num_labels=5)
            self.layers = nn.ModuleList([nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)) for _ in range(1)])
            self.classifier = nn.Conv2d(4, 5, 1)

        def forward(self, pixel_values):
            return {"logits": self.classifier(self.layers[0](pixel_values)).mean((2, 3))}

    source = Source(WithConvolution(), head="classifier")
    output = source({"pixel_values": torch.randn(2, 3, 6, 6)})
    torch.testing.assert_close(source.copy_head(4)(output.features), output.logits)


def test_features_of_another_width_are_refused():
    with pytest.raises(ValueError, match="features 16 wide.*24 wide.*cannot read them.*same architecture"):
        Source(tiny_bert()).copy_head(24)


def test_a_head_that_is_no_plain_layer_is_refused():
    source = Source(lora(tiny_bert(), ["classifier"]), head="base_model.model.classifier")
    with pytest.raises(ValueError, match="is a Linear, and only a linear layer.*merge_and_unload"):
        source.copy_head(16)


@pytest.mark.parametrize("num_labels", [2, 16])  # 16: the pooler has as many outputs
def test_a_base_model_has_no_head(num_labels):
    source = Source(BertModel(bert_config(num_labels=num_labels)))
    with pytest.raises(
        ValueError, match=r"Source\(BertModel\) has no classification head.*base model.*Give the check"
    ):
        _ = source.head


def test_the_head_of_a_language_model_is_its_output_layer():
    source = Source(LlamaForCausalLM(tiny_llama().config))
    assert source.head is source.model.lm_head and source.num_labels == source.model.config.vocab_size


def test_a_model_with_objectives_is_refused():
    model = tiny_bert()
    attach(model, [L2SP()])
    with pytest.raises(ValueError, match="Objectives are attached.*their hooks.*before `attach`"):
        Source(model)


# from a folder


def test_is_loaded_by_the_class_its_config_names(tmp_path):
    model = tiny_token_bert(num_labels=7).eval()
    model.save_pretrained(tmp_path)
    source = Source(tmp_path)
    assert (
        type(source.model) is type(model) and source.num_labels == 7 and repr(source) == f"Source({str(tmp_path)!r})"
    )
    inputs = inputs_for(model)
    torch.testing.assert_close(source(inputs).logits, model(**inputs).logits, rtol=0, atol=0)


def test_a_config_without_a_known_class_is_refused(tmp_path):
    tiny_bert().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for architectures, said in ((["BertForFun"], "`BertForFun`"), (None, "no class")):
        (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": architectures}))
        with pytest.raises(ValueError, match=f"names {said} under.*cannot be loaded.*pass the model"):
            Source(tmp_path)


def test_a_checkpoint_without_head_weights_has_no_head(tmp_path):
    BertModel(bert_config()).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["BertForSequenceClassification"]}))
    with pytest.raises(ValueError, match="has no classification head.*no weights for `classifier`"):
        _ = Source(tmp_path).head


def test_pickled_weights_are_not_loaded(tmp_path):
    model = tiny_bert()
    model.config.architectures = ["BertForSequenceClassification"]
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        Source(tmp_path)


def test_a_path_that_does_not_exist_is_refused():
    with pytest.raises(FileNotFoundError, match="does not exist.*Check the spelling"):
        Source("./no/such/model")


def test_it_leaves_the_device_where_it_was_loaded_and_stays_where_it_may_share_weights(tmp_path, monkeypatch):
    model = tiny_bert()
    model.save_pretrained(tmp_path)
    moves = []
    monkeypatch.setattr(type(model), "to", lambda self, *place: moves.append(place) or self)
    Source(model).leave_device()
    assert moves == []
    Source(tmp_path).leave_device()
    assert moves == [("cpu",)]
