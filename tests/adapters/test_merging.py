"""Merging: the plain model says what the adapter model said, or nothing has happened."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import (
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoraConfig,
    OFTConfig,
    PeftModel,
    PromptTuningConfig,
    get_peft_model,
)
from torch import nn
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from hf_transfer.adapters import merging
from hf_transfer.adapters.merging import TOLERANCES, disagreement, logits_of, merge_adapter
from hf_transfer.attach import attach
from hf_transfer.objectives import L2SP
from hf_transfer.trial_inputs import inputs_of
from tests.models import batch_for, bert_config, lora, tiny_bert, tiny_llama, tiny_resnet, tiny_vit, tiny_wav2vec2


TARGETS = ["query", "value", "intermediate.dense"]
HEAD = {"modules_to_save": ["classifier"]}
CONFIGS = {
    "lora": lambda: LoraConfig(r=2, target_modules=TARGETS, lora_dropout=0.5, **HEAD),
    "lora_bias": lambda: LoraConfig(r=2, target_modules=TARGETS, lora_bias=True, **HEAD),
    "rslora": lambda: LoraConfig(r=2, target_modules=TARGETS, use_rslora=True, **HEAD),
    "pissa": lambda: LoraConfig(r=2, target_modules=TARGETS, init_lora_weights="pissa", **HEAD),
    "dora": lambda: LoraConfig(r=2, target_modules=TARGETS, use_dora=True, **HEAD),
    "ia3": lambda: IA3Config(target_modules=TARGETS, feedforward_modules=["intermediate.dense"], **HEAD),
    "loha": lambda: LoHaConfig(r=2, target_modules=TARGETS, **HEAD),
    "oft": lambda: OFTConfig(r=0, oft_block_size=4, target_modules=["query", "value"], **HEAD),
    "ln_tuning": lambda: LNTuningConfig(target_modules=["LayerNorm"], **HEAD),
}


def adapted(config, model: nn.Module | None = None, dtype: torch.dtype = torch.float32) -> PeftModel:
    """A model with an adapter that changes what it says."""
    torch.manual_seed(0)
    peft_model = get_peft_model((model or tiny_bert()).to(dtype), config)
    for name, parameter in peft_model.named_parameters():
        if parameter.requires_grad:
            scale = 0.05 if "oft" in name else 0.3
            parameter.data.add_(torch.randn_like(parameter.data) * scale)
    return peft_model.eval()


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


# PEFT knows linear layers best; drop when its check of layer types knows norms
pytestmark = pytest.mark.filterwarnings("ignore:Unsupported layer type .*LayerNorm:UserWarning")


@pytest.mark.parametrize(
    ("method", "dtype"),
    [
        *((method, torch.float32) for method in CONFIGS),
        *((method, torch.bfloat16) for method in CONFIGS if method not in ("lora_bias", "rslora")),
        *((method, torch.float16) for method in ("lora", "dora", "ia3")),
        ("lora", torch.float64),
    ],
)
def test_the_merged_model_agrees(method, dtype):
    model = adapted(CONFIGS[method](), dtype=dtype)
    inputs = inputs_of(model)
    with model.disable_adapter():
        bare = logits_of(model, inputs)
    expected = logits_of(model, inputs)
    merged = merge_adapter(model)
    found = logits_of(merged, inputs)
    assert disagreement(expected, found) <= TOLERANCES[dtype]
    assert disagreement(expected, bare) > 2 * TOLERANCES[torch.float16]  # the adapter does something
    assert type(merged).__name__ == "BertForSequenceClassification"
    assert all(parameter.dtype == dtype for name, parameter in merged.named_parameters() if "classifier" not in name)
    fresh = tiny_bert()
    assert list(merged.state_dict()) == list(fresh.state_dict())


def test_half_precision_is_rounded_once():
    model = adapted(LoraConfig(r=2, lora_alpha=3, target_modules=["query"]), dtype=torch.bfloat16)
    layer = model.get_submodule("base_model.model.bert.encoder.layer.0.attention.self.query")
    factors = layer.lora_B["default"].weight.double() @ layer.lora_A["default"].weight.double()
    expected = (layer.base_layer.weight.double() + layer.scaling["default"] * factors).bfloat16()
    merged = merge_adapter(model)
    weight = merged.bert.encoder.layer[0].attention.self.query.weight
    # the double sum is rounded to float32 first, which moves a tie in a thousand
    assert (weight == expected).double().mean() > 0.99


@pytest.mark.parametrize(
    ("make", "targets", "head"),
    [
        (tiny_vit, ["q_proj", "v_proj", "query", "value"], "classifier"),
        (tiny_llama, ["q_proj", "v_proj"], "score"),
        (tiny_wav2vec2, ["q_proj", "v_proj"], "classifier"),
        (tiny_resnet, ["convolution"], "classifier"),
    ],
)
def test_images_sound_and_decoders(make, targets, head):
    model = adapted(LoraConfig(r=2, target_modules=targets, modules_to_save=[head]), make())
    batch = batch_for(model, rows=3, seed=1)
    expected = logits_of(model, inputs_of(model, batch))
    merged = merge_adapter(model, batch=batch)
    assert disagreement(expected, logits_of(merged, inputs_of(merged, batch))) <= TOLERANCES[torch.float32]


def test_running_statistics_and_labels_are_in_the_checkpoint(tmp_path):
    base = tiny_resnet(id2label={0: "ant", 1: "bee", 2: "cat"}, label2id={"ant": 0, "bee": 1, "cat": 2})
    norms = [name for name, module in base.named_modules() if isinstance(module, nn.BatchNorm2d)]
    model = adapted(LoraConfig(r=2, target_modules=["convolution"], modules_to_save=[*norms, "classifier.1"]), base)
    model.train()
    model(pixel_values=torch.randn(8, 3, 16, 16) * 3 + 1)
    model.eval()
    inputs = inputs_of(model)
    expected = logits_of(model, inputs)
    merge_adapter(model).save_pretrained(tmp_path)
    opened = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert disagreement(expected, logits_of(opened, inputs)) <= TOLERANCES[torch.float32]
    assert opened.config.id2label == {0: "ant", 1: "bee", 2: "cat"}
    assert not opened.resnet.embedder.embedder.normalization.running_mean.eq(0).all()


def test_the_checkpoint_opens_as_a_plain_one_and_trains(tmp_path):
    model = adapted(CONFIGS["lora"]())
    inputs = inputs_of(model)
    expected = logits_of(model, inputs)
    merged = merge_adapter(model)
    assert all(parameter.requires_grad for parameter in merged.parameters())
    assert not hasattr(merged, "peft_config")
    merged.save_pretrained(tmp_path)
    opened, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert disagreement(expected, logits_of(opened, inputs)) <= TOLERANCES[torch.float32]
    merged(**batch_without_domain(merged)).loss.backward()
    assert merged.bert.encoder.layer[0].attention.self.query.weight.grad.abs().sum() > 0


def batch_without_domain(model: nn.Module) -> dict[str, torch.Tensor]:
    batch = batch_for(model)
    del batch["domain"]
    return batch


def test_modes_stay_as_they_were():
    model = adapted(CONFIGS["lora"]()).train()
    model.get_submodule("base_model.model.bert.embeddings").eval()
    merged = merge_adapter(model)
    assert merged.training and merged.bert.encoder.training and not merged.bert.embeddings.training


def test_what_the_class_itself_freezes_stays_frozen():
    base = tiny_wav2vec2()
    names = [name for name, parameter in base.named_parameters() if not parameter.requires_grad]
    merged = merge_adapter(adapted(LoraConfig(r=2, target_modules=["q_proj"]), base))
    assert [name for name, parameter in merged.named_parameters() if not parameter.requires_grad] == names


@pytest.mark.parametrize(
    ("method", "dtype"),
    [("lora", torch.bfloat16), ("dora", torch.float32), ("oft", torch.bfloat16), ("ln_tuning", torch.float32)],
)
def test_a_merge_that_disagrees_leaves_everything_as_it_was(method, dtype, monkeypatch):
    model = adapted(CONFIGS[method](), dtype=dtype)
    inputs = inputs_of(model)
    before, expected = state_of(model), logits_of(model, inputs)
    parameters = {name: (id(one), one.data_ptr(), one.requires_grad) for name, one in model.named_parameters()}
    monkeypatch.setattr(merging, "TOLERANCES", dict.fromkeys(TOLERANCES, -1.0))
    with pytest.raises(ValueError, match=r"logits differ .* rounding in \w+ explains .* left unmerged"):
        merge_adapter(model)
    after = model.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)
    found = {name: (id(one), one.data_ptr(), one.requires_grad) for name, one in model.named_parameters()}
    assert found == parameters
    assert torch.equal(logits_of(model, inputs), expected)
    monkeypatch.undo()
    assert disagreement(expected, logits_of(merge_adapter(model), inputs)) <= TOLERANCES[dtype]


def test_an_error_amid_the_merge_leaves_everything_as_it_was(monkeypatch):
    from peft.tuners.lora import Linear

    model = adapted(CONFIGS["lora"]())
    inputs = inputs_of(model)
    before, expected, done = state_of(model), logits_of(model, inputs), []
    merge = Linear.merge

    def broken(self, **options):
        done.append(self)
        if len(done) == 4:
            raise NotImplementedError("no such thing")
        return merge(self, **options)

    monkeypatch.setattr(Linear, "merge", broken)
    with pytest.raises(ValueError, match=r"method LORA cannot be merged .*no such thing.*save_adapter"):
        merge_adapter(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(logits_of(model, inputs), expected)


def test_a_wrong_merge_is_noticed(monkeypatch):
    from peft.tuners.lora import Linear

    model = adapted(CONFIGS["lora"]())
    delta = Linear.get_delta_weight
    monkeypatch.setattr(Linear, "get_delta_weight", lambda self, adapter: delta(self, adapter) * 1.01)
    with pytest.raises(ValueError, match="logits differ"):
        merge_adapter(model)


def test_weights_are_merged_in_place_without_a_copy_of_the_base():
    model = adapted(CONFIGS["lora"]())
    embeddings = model.get_base_model().bert.embeddings.word_embeddings.weight
    query = model.get_base_model().bert.encoder.layer[0].attention.self.query.base_layer.weight
    merged = merge_adapter(model)
    assert merged is model.get_base_model()
    assert merged.bert.embeddings.word_embeddings.weight is embeddings
    assert merged.bert.encoder.layer[0].attention.self.query.weight is query


def test_tied_weights_stay_tied():
    base = tiny_bert()
    base.bert.encoder.layer[1].attention.self.query.weight = base.bert.encoder.layer[0].attention.self.query.weight
    model = adapted(LoraConfig(r=2, target_modules=["key"]), base)
    layers = merge_adapter(model).bert.encoder.layer
    assert layers[0].attention.self.query.weight is layers[1].attention.self.query.weight


def test_what_is_merged_already_is_not_merged_again():
    model = adapted(CONFIGS["lora"]())
    expected = logits_of(model, inputs_of(model))
    model.merge_adapter()
    assert disagreement(expected, logits_of(merge_adapter(model), inputs_of(model))) <= TOLERANCES[torch.float32]


def test_several_active_adapters_are_merged_together():
    model = adapted(LoraConfig(r=2, target_modules=["query"]))
    model.add_adapter("b", LoraConfig(r=3, target_modules=["value"], init_lora_weights=False))
    model.base_model.set_adapter(["default", "b"])
    expected = logits_of(model, inputs_of(model))
    merged = merge_adapter(model)
    assert disagreement(expected, logits_of(merged, inputs_of(merged))) <= TOLERANCES[torch.float32]


def test_plain_models_are_refused():
    with pytest.raises(TypeError, match="`BertForSequenceClassification` is no `PeftModel`.*add_adapter"):
        merge_adapter(tiny_bert())


def test_prompts_are_refused():
    model = get_peft_model(tiny_bert(), PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2))
    with pytest.raises(ValueError, match="PROMPT_TUNING cannot be merged .*inputs beside the weights.*load_adapter"):
        merge_adapter(model)


def test_attached_objectives_are_refused():
    model = adapted(CONFIGS["lora"]())
    attachment = attach(model, [L2SP(weight=0.1)])
    with pytest.raises(ValueError, match=r"Objectives are attached .* Detach them first"):
        merge_adapter(model)
    attachment.detach()
    merge_adapter(model)


def test_adapters_that_are_switched_off_are_refused():
    model = adapted(CONFIGS["lora"]())
    with model.disable_adapter(), pytest.raises(ValueError, match="switched off.*enable_adapter_layers"):
        merge_adapter(model)


def test_quantised_bases_are_refused():
    model = adapted(CONFIGS["lora"]())
    model.get_base_model().is_quantized = True
    with pytest.raises(ValueError, match=r"quantised .* rounded to few bits .* full precision"):
        merge_adapter(model)


def test_logits_that_are_not_finite_are_refused():
    model = adapted(CONFIGS["lora"]())
    next(p for p in model.parameters() if p.requires_grad).data.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"not finite: .* NaN in the adapter's weights"):
        merge_adapter(model)


def test_a_batch_of_other_columns_is_refused():
    with pytest.raises(ValueError, match="has pixel_values, of which BertForSequenceClassification reads no tensor"):
        merge_adapter(adapted(CONFIGS["lora"]()), batch={"pixel_values": torch.zeros(1)})


def test_models_without_logits_are_refused():
    from transformers import BertModel

    model = lora(BertModel(bert_config()), ["query"])
    with pytest.raises(ValueError, match="and no `logits`: whether it still says the same cannot be told"):
        merge_adapter(model)


def test_disagreement():
    a = torch.tensor([[1.0, -8.0]])
    assert disagreement(a, a) == 0
    assert disagreement(a, a + torch.tensor([[0.0, 2.0]])) == 0.25
    assert disagreement(a, torch.tensor([[1.0, float("nan")]])) == float("inf")
    assert disagreement(a, a[:, :1]) == float("inf")
    assert disagreement(torch.zeros(1), torch.zeros(1)) == 0


def test_an_adapter_model_can_be_copied_before():
    model = adapted(CONFIGS["lora"]())
    twin = copy.deepcopy(model)
    merge_adapter(model)
    assert any("lora" in name for name in twin.state_dict())
