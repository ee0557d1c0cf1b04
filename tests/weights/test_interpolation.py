"""WiSE-FT: mixtures against sums in float64, the ends bit for bit, weights in effect under LoRA, all or nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, IA3Config, LoHaConfig, LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForSequenceClassification, BertForMaskedLM

from hf_transfer import L2SP, DomainAdversarial, TransferTrainer, attach
from hf_transfer.weights import interpolate, snapshot, wise_ft
from tests.models import TINY, batch_for, bert_config, lora, tiny_bert, tiny_llama, tiny_resnet, tiny_vit
from tests.test_trainer import arguments, labelled


def moved(model: nn.Module, seed: int = 3, by: float = 0.1) -> Any:
    """The model after a stretch of "training": every trainable parameter and float buffer elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*(p for p in model.parameters() if p.requires_grad), *model.buffers()):
            if tensor.is_floating_point():
                tensor.add_((by * torch.rand(tensor.shape, generator=generator)).to(tensor.dtype))
            elif tensor.ndim == 0:
                tensor.add_(7)
    return model


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name]) and value.dtype == second[name].dtype for name, value in first.items()
    )


@pytest.mark.parametrize("make", TINY.values(), ids=TINY)
@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_against_the_sum_number_by_number(make, alpha):
    model = make()
    start, first = snapshot(model), state(model)
    last = state(moved(model))
    interpolate(model, start, snapshot(model), alpha)
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            assert torch.equal(value, last[name])
            continue
        pairs = zip(first[name].flatten().tolist()[:50], last[name].flatten().tolist()[:50], strict=True)
        expected = [(1 - alpha) * a + alpha * b for a, b in pairs]
        assert value.flatten().tolist()[:50] == pytest.approx(expected, rel=1e-6, abs=1e-7), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [tiny_bert, tiny_vit, tiny_resnet, tiny_llama])
def test_the_ends_are_the_two_models_bit_for_bit(make, dtype):
    model = make().to(dtype)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = -0.0
    start, first = snapshot(model), state(model)
    end, last = snapshot(moved(model)), state(model)
    interpolate(model, start, end, 0.3)
    interpolate(model, start, end, 0)
    assert same(state(model), first) and math.copysign(1, next(model.parameters()).view(-1)[0].item()) == -1
    interpolate(model, start, end, 0.7)
    interpolate(model, start, end, 1.0)
    assert same(state(model), last)


def test_what_did_not_move_does_not_move_at_any_share():
    model = tiny_bert()
    start, first = snapshot(model), state(model)
    for alpha in (0.1, 1 / 3, 0.77):
        interpolate(model, start, start, alpha)
        assert same(state(model), first)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_mixed_in_float32_and_rounded_once(dtype):
    model = nn.Linear(64, 64).to(dtype)
    start, first = snapshot(model), model.weight.detach().clone()
    with torch.no_grad():
        model.weight.mul_(1.37)
    last = model.weight.detach().clone()
    interpolate(model, start, snapshot(model), 0.3)
    exact = (0.7 * first.double() + 0.3 * last.double()).to(dtype)
    twice = 0.7 * first + 0.3 * last
    assert (model.weight != exact).float().mean() < 0.01  # but for ties that float32 rounds to the other side
    assert (twice != exact).float().mean() > 0.05


def test_statistics_of_batch_norm_are_mixed_and_counters_taken_from_the_end():
    model = tiny_resnet().train()
    start = snapshot(model)
    for seed in range(3):
        model(pixel_values=batch_for(model, seed=seed)["pixel_values"])
    norm = model.resnet.embedder.embedder.normalization
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    interpolate(model, start, snapshot(model), 0.25)
    torch.testing.assert_close(norm.running_mean, 0.25 * mean)
    torch.testing.assert_close(norm.running_var, 0.75 + 0.25 * variance)
    assert norm.num_batches_tracked == 3
    assert model.eval()(**{"pixel_values": batch_for(model)["pixel_values"]}).logits.isfinite().all()


def test_tied_weights_stay_tied_and_are_mixed_once():
    model = BertForMaskedLM(bert_config())
    start, first = snapshot(model), model.cls.predictions.decoder.weight.detach().clone()
    assert "cls.predictions.decoder.weight" not in start.tensors
    end = snapshot(moved(model))
    last = model.cls.predictions.decoder.weight.detach().clone()
    interpolate(model, start, end, 0.5)
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    torch.testing.assert_close(model.cls.predictions.decoder.weight, (first + last) / 2)


def test_linear_models_give_linear_mixtures_of_their_outputs():
    model = nn.Linear(5, 3)
    x = torch.randn(4, 5)
    start, first = snapshot(model), model(x)
    last = moved(model, by=1.0)(x)
    interpolate(model, start, snapshot(model), 0.2)
    torch.testing.assert_close(model(x), 0.8 * first + 0.2 * last)


# -- under PEFT


def effective(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights in effect, in float64: W0 + s B A written out, and every trainable copy."""
    found = {}
    for name, module in model.named_modules():
        for down, up in (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B")):
            if "default" in getattr(module, down, ()):
                layer: Any = module
                a, b = (getattr(layer, side)["default"] for side in (down, up))
                a, b = (side.weight if isinstance(side, nn.Module) else side for side in (a, b))
                product = b.double().flatten(1) @ a.double().flatten(1)
                product = product.T if "embedding" in down else product
                found[name] = layer.base_layer.weight.double() + layer.scaling["default"] * product.view_as(
                    layer.base_layer.weight
                )
        if "modules_to_save.default" in name and "weight" in dict(module.named_parameters(recurse=False)):
            found[name] = module.weight.detach().double().clone()
    return found


LORA = {
    "bert": lambda **options: lora(tiny_bert(), ["query", "value"], "classifier", lora_alpha=6, **options),
    "vit": lambda **options: lora(tiny_vit(), ["q_proj"], "classifier", **options),
    "llama": lambda **options: lora(tiny_llama(), ["q_proj", "down_proj"], "score", **options),
    "convolution": lambda **options: lora(tiny_resnet(), r".*encoder.*convolution", "classifier", **options),
    "embedding": lambda **options: lora(tiny_bert(), ["word_embeddings"], "classifier", **options),
    "rslora": lambda **options: lora(tiny_bert(), ["query"], "classifier", use_rslora=True, **options),
    "bias": lambda **options: lora(tiny_bert(), ["query"], "classifier", bias="all", lora_bias=True, **options),
}


@pytest.mark.parametrize("make", LORA.values(), ids=LORA)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_under_lora_the_weights_in_effect_are_mixed(make, alpha):
    model = make()
    start, first, before = snapshot(model), effective(model), state(model)
    end = snapshot(moved(model, by=0.5))
    last, after = effective(model), state(model)
    interpolate(model, start, end, alpha)
    now = effective(model)
    assert len(now) >= 2
    for name, value in now.items():
        torch.testing.assert_close(value, (1 - alpha) * first[name] + alpha * last[name], rtol=1e-5, atol=1e-6)
    if alpha in (0, 1):
        assert same(state(model), after if alpha else before)


def test_mixing_the_factors_one_by_one_would_be_wrong():
    """What the rule for LoRA is for: the product of two mixtures is another weight."""
    model = LORA["bert"]()
    start, first = snapshot(model), effective(model)
    end, last = snapshot(moved(model, by=0.5)), effective(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in start.tensors:
                parameter.copy_(0.5 * start.tensors[name].float() + 0.5 * end.tensors[name].float())
    name = next(name for name in first if "query" in name)
    assert not torch.allclose(effective(model)[name], (first[name] + last[name]) / 2, atol=1e-2)
    interpolate(model, start, end, 0.5)
    torch.testing.assert_close(effective(model)[name], (first[name] + last[name]) / 2, rtol=1e-5, atol=1e-6)


def test_outputs_of_lora_and_of_the_merged_model_agree():
    model = LORA["vit"]()
    batch = {"pixel_values": batch_for(model)["pixel_values"]}
    start = snapshot(model)
    interpolate(model, start, snapshot(moved(model, by=0.5)), 0.4)
    expected = model.eval()(**batch).logits
    torch.testing.assert_close(model.merge_and_unload().eval()(**batch).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fixed", ["lora_A", "lora_B"])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_factor_that_does_not_move_makes_any_start_linear(fixed, frozen):
    model = moved(LORA["bert"](), by=0.5)  # as after an earlier training: no factor is zero
    for name, parameter in model.named_parameters():
        if fixed in name and frozen:
            parameter.requires_grad_(False)
    start, first = snapshot(model), effective(model)
    kept = {name: value for name, value in state(model).items() if fixed in name}
    moved(model, seed=4, by=0.5).load_state_dict(kept, strict=False)
    end, last = snapshot(model), effective(model)
    interpolate(model, start, end, 0.3)
    for name, value in effective(model).items():
        torch.testing.assert_close(value, 0.7 * first[name] + 0.3 * last[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("init", [True, "pissa", "gaussian"])
def test_a_start_that_is_not_zero_is_refused(init):
    model = LORA["bert"](init_lora_weights=init)
    if init != "pissa":
        moved(model, by=0.5)
    start = snapshot(model)
    end = snapshot(moved(model, seed=4, by=0.5))
    before = state(model)
    with pytest.raises(ValueError, match="Both factors of .*query.* moved from a start that is not zero.*B = 0"):
        interpolate(model, start, end, 0.5)
    assert same(state(model), before)
    interpolate(model, start, end, 1.0)  # the ends need no product


def test_ia3_is_linear():
    config = IA3Config(target_modules=["key", "output.dense"], feedforward_modules=["output.dense"])
    model: Any = get_peft_model(tiny_bert(), config)
    start = snapshot(model)
    end = snapshot(moved(model, by=1.0))
    name = "base_model.model.bert.encoder.layer.0.attention.self.key.ia3_l.default"
    interpolate(model, start, end, 0.5)
    torch.testing.assert_close(model.get_parameter(name), (1 + end.tensors[name]) / 2)


@pytest.mark.parametrize(("config", "kind"), [
    (LoraConfig(r=2, target_modules=["query"], use_dora=True), "DoRA"),
    (LoHaConfig(r=2, target_modules=["query"]), "LOHA"),
    (AdaLoraConfig(target_modules=["query"], total_step=10, tinit=1, tfinal=1), "ADALORA"),
])  # fmt: skip
def test_adapters_that_are_not_linear_are_refused(config, kind):
    model = get_peft_model(tiny_bert(), config)
    start = snapshot(model)
    with pytest.raises(ValueError, match=f"of the kind {kind}: .*no linear function.*Use LoRA"):
        interpolate(model, start, snapshot(moved(model)), 0.5)


def test_merged_adapters_are_refused():
    model = LORA["bert"]()
    start = snapshot(model)
    end = snapshot(moved(model))
    model.merge_adapter()
    with pytest.raises(ValueError, match="is merged into its base layer.*unmerge_adapter"):
        interpolate(model, start, end, 0.5)


# -- what does not fit


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_shares_outside(alpha):
    model = tiny_bert()
    with pytest.raises(ValueError, match=r"alpha=.* is outside \[0, 1\].*such as 0.5"):
        interpolate(model, snapshot(model), snapshot(model), alpha)


def test_snapshots_of_other_models():
    model, other = tiny_bert(), tiny_bert(num_hidden_layers=2)
    with pytest.raises(
        ValueError, match="snapshots do not fit BertFor.*differ in bert.encoder.layer.2.*from this model"
    ):
        interpolate(model, snapshot(other), snapshot(model), 0.5)
    wide = tiny_bert(intermediate_size=64)
    with pytest.raises(ValueError, match="snapshots do not fit .*intermediate"):
        interpolate(model, snapshot(wide), snapshot(wide), 0.5)


def test_a_start_that_lacks_what_was_frozen_by_hand():
    model = tiny_bert()
    for parameter in model.bert.parameters():
        parameter.requires_grad_(False)
    start = snapshot(model)
    for parameter in model.bert.parameters():
        parameter.requires_grad_(True)
    with pytest.raises(ValueError, match="do not fit.*same parameters trainable"):
        interpolate(model, start, start, 0.5)


def test_wrapped_models_are_refused():
    model = tiny_bert()
    with pytest.raises(TypeError, match="wrapped in DataParallel.*bare model"):
        interpolate(nn.DataParallel(model), snapshot(model), snapshot(model), 0.5)


# -- the choice


def line(first: float, last: float):
    layer = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(first)
        start = snapshot(layer)
        layer.weight.fill_(last)
    return layer, start


@pytest.mark.parametrize(("optimum", "alpha"), [(0.0, 0.0), (3.0, 0.3), (10.0, 1.0), (-5.0, 0.0), (4.4, 0.4)])
@pytest.mark.parametrize("greater", [True, False])
def test_the_best_share_is_chosen_and_set(optimum, alpha, greater):
    layer, start = line(0.0, 10.0)
    sign = -1 if greater else 1
    result = wise_ft(layer, start, lambda: sign * abs(layer.weight.item() - optimum), greater_is_better=greater)
    assert result.alpha == pytest.approx(alpha) and layer.weight.item() == pytest.approx(10 * alpha)
    assert list(result.scores) == pytest.approx([k / 10 for k in range(11)])
    for share, score in result.scores.items():
        assert score == pytest.approx(sign * abs(10 * share - optimum), abs=1e-5)


def test_among_equal_scores_the_share_nearest_to_the_middle():
    layer, start = line(0.0, 1.0)
    assert wise_ft(layer, start, lambda: 1.0).alpha == 0.5
    assert wise_ft(layer, start, lambda: 1.0, alphas=[0.0, 0.2, 1.0]).alpha == 0.2


def test_one_share_needs_no_others():
    layer, start = line(0.0, 1.0)
    assert wise_ft(layer, start, lambda: 0.0, alphas=[0.5]).scores == {0.5: 0.0} and layer.weight.item() == 0.5


def test_a_score_that_is_no_number_is_the_worst():
    layer, start = line(0.0, 1.0)
    scores = iter([math.nan, -3.0, math.nan])
    assert wise_ft(layer, start, lambda: next(scores), alphas=[0.0, 0.5, 1.0]).alpha == 0.5


def broken():
    raise RuntimeError("the validation data are gone")


def interrupted():
    raise KeyboardInterrupt("by hand")


@pytest.mark.parametrize(("evaluate", "error", "message"), [
    (broken, RuntimeError, "validation data are gone"),
    (interrupted, KeyboardInterrupt, "by hand"),
    (lambda: math.nan, ValueError, "NaN for all of .*Check the metric"),
    (lambda: {"eval_accuracy": 0.5}, TypeError, 'returned a dict: mixtures are ranked.*eval_accuracy'),
    (lambda: None, TypeError, "returned a NoneType"),
])  # fmt: skip
@pytest.mark.parametrize("make", [tiny_resnet, LORA["bert"]])
def test_whatever_fails_the_fine_tuned_weights_are_back(make, evaluate, error, message):
    model = make()
    start = snapshot(model)
    last = state(moved(model))
    calls = []

    def second_fails():
        calls.append(1)
        return evaluate() if len(calls) > 1 or evaluate not in (broken, interrupted) else 0.5

    with pytest.raises(error, match=message):
        wise_ft(model, start, second_fails, alphas=[0.2, 0.4])
    assert same(state(model), last) and calls


@pytest.mark.parametrize("alphas", [[], [0.5, 1.5], [-1.0]])
def test_wrong_shares_before_any_evaluation(alphas):
    layer, start = line(0.0, 1.0)
    with pytest.raises(ValueError, match=r"alphas=.* has no share, or one outside.*0.25"):
        wise_ft(layer, start, broken, alphas=alphas)


@pytest.mark.parametrize("make", [tiny_bert, tiny_resnet, LORA["llama"]])
def test_modes_and_gradients_are_left_alone(make):
    model = make().train()
    start = snapshot(model)
    grads = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    wise_ft(moved(model), start, lambda: 1.0, alphas=[0.5])
    assert model.training and grads == {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert not any(parameter.grad_fn for parameter in model.parameters())


def test_attached_objectives_are_left_out():
    model = tiny_bert()
    start = snapshot(model)
    attach(model, [DomainAdversarial(hidden_size=4), L2SP()])
    own = state(moved(model).transfer_objectives)
    wise_ft(model, start, lambda: 1.0, alphas=[0.0])
    assert same(state(model.transfer_objectives), own)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in start.tensors.items())


def test_the_result_is_saved_and_loaded_as_usual(tmp_path):
    model = tiny_bert()
    start = snapshot(model)
    wise_ft(moved(model), start, lambda: 1.0, alphas=[0.3])
    model.save_pretrained(tmp_path)
    assert same(state(AutoModelForSequenceClassification.from_pretrained(tmp_path)), state(model))


def test_the_result_under_lora_is_saved_and_loaded_as_usual(tmp_path):
    from peft import PeftModel

    base = tiny_bert()
    weights = state(base)
    model = lora(base, ["query"], "classifier")
    start = snapshot(model)
    wise_ft(moved(model), start, lambda: 1.0, alphas=[0.3])
    model.save_pretrained(tmp_path)
    fresh = tiny_bert()
    fresh.load_state_dict(weights)
    again = PeftModel.from_pretrained(fresh, tmp_path)
    batch = {key: value for key, value in batch_for(model).items() if key != "domain"}
    torch.testing.assert_close(again.eval()(**batch).logits, model.eval()(**batch).logits)


@pytest.mark.parametrize("under_lora", [False, True])
def test_between_training_and_saving_with_the_trainer(tmp_path, under_lora):
    """As a user would: keep the start, train with objectives, mix by the validation score, save."""
    model = lora(tiny_bert(), ["query"], "classifier") if under_lora else tiny_bert()
    start = snapshot(model)
    trainer = TransferTrainer(
        model,
        arguments(tmp_path, max_steps=3, learning_rate=1e-2),
        objectives=[L2SP(weight=0.1)],
        train_dataset=labelled(),
        eval_dataset=labelled(),
    )
    trainer.train()
    result = wise_ft(
        model, start, lambda: trainer.evaluate()["eval_loss"], alphas=[0.0, 0.5, 1.0], greater_is_better=False
    )
    assert len(set(result.scores.values())) == 3
    assert trainer.evaluate()["eval_loss"] == min(result.scores.values()) == result.scores[result.alpha]
    trainer.save_model(str(tmp_path / "best"))
    assert any(path.suffix == ".safetensors" for path in (tmp_path / "best").iterdir())
