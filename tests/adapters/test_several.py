"""Combining adapters: sums against closed forms in float64, heads, statistics, and what PEFT would do silently."""

from __future__ import annotations

import pytest
import torch
from peft import IA3Config, LoHaConfig, LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from hf_transfer.adapters.heads import give_head, labels_of, set_labels, switch_adapter
from hf_transfer.adapters.loading import load_adapter
from hf_transfer.adapters.merging import logits_of, merge_adapter
from hf_transfer.adapters.several import combine_adapters
from hf_transfer.trial_inputs import inputs_of
from tests.models import tiny_bert, tiny_resnet


def config(rank: int = 2, **options) -> LoraConfig:
    defaults = {"target_modules": ["query", "value"], "modules_to_save": ["classifier"], "init_lora_weights": False}
    return LoraConfig(**{"r": rank, "lora_alpha": 3, **defaults, **options})


def several(*configs, base: nn.Module | None = None, dtype: torch.dtype = torch.float64) -> PeftModel:
    """A model with the adapters `one`, `two`, ... whose heads differ."""
    torch.manual_seed(0)
    model = get_peft_model((base or tiny_bert()).to(dtype), configs[0], adapter_name="one")
    for name, one in zip(["two", "three"], configs[1:], strict=False):
        model.add_adapter(name, one)
    for name, parameter in model.named_parameters():
        if "modules_to_save" in name or "ia3" in name or "lora_B" in name:
            parameter.data.add_(torch.randn_like(parameter.data) * 0.3)
    return model.eval()


def deltas(model: PeftModel, name: str) -> dict[str, Tensor]:
    """What an adapter adds to each weight, from its factors."""
    found = {}
    for path, layer in model.get_base_model().named_modules():
        if name in getattr(layer, "lora_A", {}):
            factors = layer.lora_B[name].weight @ layer.lora_A[name].weight
            found[path] = factors.detach() * layer.scaling[name]
    return found


def head(model: PeftModel, name: str) -> nn.Module:
    return model.get_base_model().classifier.modules_to_save[name]


def test_one_adapter_with_weight_one_is_that_adapter():
    model = several(config(), config())
    inputs = inputs_of(model)
    expected = logits_of(switch_adapter(model, "two"), inputs)
    combine_adapters(model, ["two"], [1.0], name="sum")
    torch.testing.assert_close(logits_of(model, inputs), expected, rtol=1e-6, atol=1e-7)  # PEFT takes float32 roots
    assert torch.equal(head(model, "sum").weight, head(model, "two").weight)


def test_cat_is_the_sum_of_the_changes():
    model = several(config(2), config(3, lora_alpha=5))
    one, two = deltas(model, "one"), deltas(model, "two")
    combine_adapters(model, ["one", "two"], [0.25, 0.75], name="sum", method="cat")
    found = deltas(model, "sum")
    assert found.keys() == one.keys() and model.peft_config["sum"].r == 5
    for path, delta in found.items():
        torch.testing.assert_close(delta, 0.25 * one[path] + 0.75 * two[path], rtol=1e-12, atol=1e-14)


def test_cat_of_layers_that_only_one_adapter_has():
    model = several(config(2, target_modules=["query"]), config(2, target_modules=["query", "key"]))
    one, two = deltas(model, "one"), deltas(model, "two")
    combine_adapters(model, ["one", "two"], [2.0, 1.0], name="sum", method="cat")
    for path, delta in deltas(model, "sum").items():
        expected = 2 * one[path] + two[path] if path in one else two[path]
        torch.testing.assert_close(delta, expected, rtol=1e-12, atol=1e-14)


def test_svd_is_the_best_approximation():
    model = several(config(2), config(3))
    one, two = deltas(model, "one"), deltas(model, "two")
    combine_adapters(model, ["one", "two"], [0.5, 0.5], name="sum", method="svd", svd_rank=2)
    for path, delta in deltas(model, "sum").items():
        u, s, v = torch.linalg.svd(0.5 * one[path] + 0.5 * two[path])
        torch.testing.assert_close(delta, u[:, :2] @ torch.diag(s[:2]) @ v[:2], rtol=1e-5, atol=1e-6)


def test_linear_sums_the_factors():
    model = several(config(2), config(2))
    layer = model.get_base_model().bert.encoder.layer[0].attention.self.query
    scale = layer.scaling["one"]
    roots = [(weight * scale) ** 0.5 for weight in (0.3, 0.7)]
    a, b = (
        sum(r * t[n].weight for r, n in zip(roots, ["one", "two"], strict=True)) for t in (layer.lora_A, layer.lora_B)
    )
    combine_adapters(model, ["one", "two"], [0.3, 0.7], name="sum")
    torch.testing.assert_close(layer.lora_B["sum"].weight @ layer.lora_A["sum"].weight, b @ a, rtol=1e-5, atol=1e-6)


def test_rslora_keeps_its_scale():
    model = several(config(4, use_rslora=True), config(4, use_rslora=True))
    one, two = deltas(model, "one"), deltas(model, "two")
    combine_adapters(model, ["one", "two"], [1.0, 1.0], name="sum", method="cat")
    for path, delta in deltas(model, "sum").items():
        torch.testing.assert_close(delta, one[path] + two[path], rtol=1e-12, atol=1e-14)
    assert model.peft_config["one"].use_rslora


def test_pissa_does_not_change_the_base_again():
    model = several(config(init_lora_weights="pissa"), dtype=torch.float32)
    weight = model.get_base_model().bert.encoder.layer[0].attention.self.query.base_layer.weight
    before, inputs = weight.clone(), inputs_of(model)
    expected = logits_of(model, inputs)
    combine_adapters(model, ["one"], [1.0], name="sum")
    assert torch.equal(weight, before)
    torch.testing.assert_close(logits_of(model, inputs), expected, rtol=1e-4, atol=1e-5)


def test_biases_are_summed():
    model = several(config(lora_bias=True), config(lora_bias=True))
    layer = model.get_base_model().bert.encoder.layer[0].attention.self.query
    for name in ("one", "two"):
        layer.lora_B[name].bias.data.normal_()
    expected = sum(w * layer.scaling[n] * layer.lora_B[n].bias for w, n in [(0.4, "one"), (0.6, "two")])
    combine_adapters(model, ["one", "two"], [0.4, 0.6], name="sum", method="cat")
    torch.testing.assert_close(layer.lora_B["sum"].bias * layer.scaling["sum"], expected)


def test_the_head_is_the_weighted_mean():
    model = several(config(), config())
    combine_adapters(model, ["one", "two"], [1.0, 3.0], name="sum")
    for key in ("weight", "bias"):
        expected = 0.25 * getattr(head(model, "one"), key) + 0.75 * getattr(head(model, "two"), key)
        torch.testing.assert_close(getattr(head(model, "sum"), key), expected)
    assert model.active_adapters == ["sum"]


def test_an_adapter_without_a_head_counts_with_that_of_the_base():
    model = several(config(), config(modules_to_save=None))
    original = model.get_base_model().classifier.original_module
    combine_adapters(model, ["two", "one"], [0.5, 0.5], name="sum")
    torch.testing.assert_close(head(model, "sum").weight, (original.weight + head(model, "one").weight) / 2)
    assert model.peft_config["sum"].modules_to_save == ["classifier"]


def test_the_head_of_one_with_its_labels():
    model = several(config(), config())
    give_head(model, "two", ["a", "b", "c", "d"])
    with pytest.raises(ValueError, match="differ in size: they have no mean. Say whose head"):
        combine_adapters(model, ["one", "two"], [0.5, 0.5], name="sum")
    combine_adapters(model, ["one", "two"], [0.5, -0.5], name="sum", head="two")
    assert model.config.num_labels == 4 and labels_of(model, "one").num_labels == 3
    assert torch.equal(head(model, "sum").weight, head(model, "two").weight)
    assert head(model, "sum").weight is not head(model, "two").weight
    assert merge_adapter(model).config.id2label[3] == "d"


def test_running_statistics_are_averaged():
    norm = "resnet.embedder.embedder.normalization"
    options = {"target_modules": ["convolution"], "modules_to_save": [norm, "classifier.1"]}
    model = several(config(**options), config(**options), base=tiny_resnet())
    copies = model.get_base_model().get_submodule(norm).modules_to_save
    copies["one"].running_mean.fill_(1.0)
    copies["two"].running_mean.fill_(5.0)
    copies["two"].num_batches_tracked.fill_(7)
    combine_adapters(model, ["one", "two"], [0.75, 0.25], name="sum", method="cat")
    assert copies["sum"].running_mean.eq(2.0).all() and copies["sum"].num_batches_tracked == 7


def test_ia3_scales_are_summed():
    options = {"target_modules": ["query"], "feedforward_modules": [], "modules_to_save": ["classifier"]}
    model = several(IA3Config(**options), IA3Config(**options))
    layer = model.get_base_model().bert.encoder.layer[0].attention.self.query
    expected = 0.5 * layer.ia3_l["one"] + 0.5 * layer.ia3_l["two"]
    combine_adapters(model, ["one", "two"], [0.5, 0.5], name="sum")
    torch.testing.assert_close(layer.ia3_l["sum"], expected)
    with pytest.raises(ValueError, match='method="cat" .* adapters of IA3, whose scales can only be summed'):
        combine_adapters(model, ["one", "two"], [0.5, 0.5], name="more", method="cat")


@pytest.mark.parametrize("method", ["cat", "svd"])
def test_the_sum_survives_saving(method, tmp_path):
    ranks = {"rank_pattern": {"layer.1.attention.self.query": 4}, "alpha_pattern": {"layer.1.attention.self.query": 5}}
    model = several(config(2), config(3, **ranks), dtype=torch.float32)
    combine_adapters(model, ["one", "two"], [0.5, 0.5], name="sum", method=method)
    inputs = inputs_of(model)
    expected = logits_of(model, inputs)
    model.save_pretrained(tmp_path)
    torch.manual_seed(0)
    again = get_peft_model(tiny_bert(), config())
    load_adapter(tmp_path, base_model=again, name="sum")
    assert torch.equal(logits_of(again, inputs), expected)


def test_ranks_by_layer_survive_saving(tmp_path):
    ranks = {"rank_pattern": {"layer.1.attention.self.query": 4}}
    model = several(config(2, **ranks), config(2, **ranks), dtype=torch.float32)
    combine_adapters(model, ["one", "two"], [0.5, 0.5], name="sum")
    inputs = inputs_of(model)
    expected = logits_of(model, inputs)
    model.save_pretrained(tmp_path)
    torch.manual_seed(0)
    again, _ = load_adapter(tmp_path, base_model=get_peft_model(tiny_bert(), config()), name="sum")
    torch.testing.assert_close(logits_of(again, inputs), expected)


@pytest.mark.parametrize("trainable", [True, False])
def test_the_sum_trains_if_its_parts_did(trainable):
    model = several(config(), config())
    switch_adapter(model, "one", trainable=trainable)
    combine_adapters(model, ["one", "two"], [0.5, 0.5], name="sum")
    training = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert bool(training) == trainable and all("sum" in name.split(".") for name in training)


def test_labels_of_other_meaning_are_refused():
    from hf_transfer.adapters.heads import HeadLabels

    model = several(config(), config())
    set_labels(model, "two", HeadLabels({0: "x", 1: "y", 2: "z"}))
    with pytest.raises(ValueError, match='labels of `one`, `two` differ: .*head="one"'):
        combine_adapters(model, ["one", "two"], [0.5, 0.5], name="sum")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["one", "none"], [0.5, 0.5], "sum", {}), "`none` is none of them. Name some"),
        ((["one", "one"], [0.5, 0.5], "sum", {}), "each is to be named once"),
        (([], [], "sum", {}), "adapters to combine are none"),
        ((["one", "two"], [1.0], "sum", {}), r"2 adapters come with the weights \[1.0\].*as many weights"),
        ((["one", "two"], [1.0, float("nan")], "sum", {}), "each needs one finite factor"),
        ((["one", "two"], [0.5, 0.5], "two", {}), "already has an adapter `two`: PEFT would leave it"),
        ((["one", "two"], [0.5, 0.5], "sum", {"head": "three"}), 'head="three" is none of the adapters'),
        ((["one", "two"], [0.5, -0.5], "sum", {}), "no weighted mean of `classifier`.*take the head of one"),
        ((["one", "two"], [0.5, 0.5], "sum", {"method": "magic"}), 'cannot combine .* by "magic": .*as it was'),
        (
            (["one", "three"], [0.5, 0.5], "sum", {}),
            r'ranks one: 2, three: 3: "linear" sums factors.*"cat"` \(exact, rank 5',
        ),
    ],
)
def test_refusals_leave_the_model_as_it_was(arguments, message):
    model = several(config(), config(), config(3), dtype=torch.float32)
    before, inputs = {name: tensor.clone() for name, tensor in model.state_dict().items()}, inputs_of(model)
    expected = logits_of(model, inputs)
    adapters, weights, name, options = arguments
    with pytest.raises(ValueError, match=message):
        combine_adapters(model, adapters, weights, name=name, **options)
    assert list(before) == list(model.state_dict()) and list(model.peft_config) == ["one", "two", "three"]
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert model.active_adapters == ["one"] and torch.equal(logits_of(model, inputs), expected)


def test_methods_without_a_sum_are_refused():
    loha = [LoHaConfig(r=2, target_modules=["query"]) for _ in range(2)]
    with pytest.raises(ValueError, match="`one` is an adapter of the method LOHA, which PEFT cannot sum"):
        combine_adapters(several(*loha), ["one", "two"], [0.5, 0.5], name="sum")
    with pytest.raises(ValueError, match="is a DoRA or another variant of LoRA.*merge_adapter"):
        combine_adapters(several(config(), config(use_dora=True)), ["one", "two"], [0.5, 0.5], name="sum")
    with pytest.raises(ValueError, match="Some of the adapters have `lora_bias`"):
        combine_adapters(several(config(), config(lora_bias=True)), ["one", "two"], [0.5, 0.5], name="sum")
