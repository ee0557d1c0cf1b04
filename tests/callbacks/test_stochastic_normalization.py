"""StochNorm in a stock Trainer, over every kind of batch normalisation, and that no trace is left."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import MobileNetV1Config, MobileNetV1ForImageClassification

from hf_transfer.callbacks import FreezeBackbone
from hf_transfer.callbacks.overrides import release
from hf_transfer.callbacks.stochastic_normalization import StochasticLayer, StochNorm
from hf_transfer.functional.random_masks import bernoulli_mask, draw_seed
from hf_transfer.functional.stochastic_normalization import stochastic_normalization
from tests.callbacks.harness import Crash, changed, copy_of, make_trainer, seeded
from tests.models import batch_for, lora, tiny_bert, tiny_resnet


class WithActivation(nn.BatchNorm2d):
    """As those of timm: the layer does more than normalise."""

    def forward(self, values):
        return super().forward(values).relu()


KINDS = {
    "1d": (nn.BatchNorm1d, (6, 3)),
    "1d sequence": (nn.BatchNorm1d, (4, 3, 5)),
    "2d": (nn.BatchNorm2d, (2, 3, 4, 4)),
    "3d": (nn.BatchNorm3d, (2, 3, 2, 2, 2)),
    "sync": (nn.SyncBatchNorm, (2, 3, 4, 4)),
    "with an activation": (WithActivation, (2, 3, 4, 4)),
}


def norm(kind, **options):
    layer = KINDS[kind][0](3, **options).double()
    with torch.no_grad():
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
        if layer.affine:
            layer.weight.normal_()
            layer.bias.normal_()
    return layer


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_computes_the_papers_formula(kind, affine):
    layer = norm(kind, affine=affine, eps=1e-3)
    values = torch.randn(KINDS[kind][1], dtype=torch.float64, requires_grad=True)
    mean, variance, plain = layer.running_mean.clone(), layer.running_var.clone(), copy.deepcopy(layer)
    StochasticLayer(layer, probability=0.5, rank=1).put_on()
    for seed in range(4):
        layer.load_state_dict(plain.state_dict())
        torch.manual_seed(seed)
        ours = layer(values)
        torch.manual_seed(seed)
        by_moving = bernoulli_mask((3,), 0.5, seed=draw_seed(1), device="cpu")
        expected = stochastic_normalization(values, mean, variance, by_moving, eps=1e-3)
        if affine:
            shape = (1, 3, *(1,) * (values.dim() - 2))
            expected = expected * plain.weight.view(shape) + plain.bias.view(shape)
        if kind == "with an activation":
            expected = expected.relu()
        torch.testing.assert_close(ours, expected)
        (gradient,) = torch.autograd.grad(ours.square().sum(), values)
        (wanted,) = torch.autograd.grad(expected.square().sum(), values)
        torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("momentum", [0.1, None, 0.9997])
def test_the_moving_statistics_move_as_usual_and_the_layer_is_otherwise_its_own(momentum):
    ours = norm("2d", momentum=momentum)
    theirs = copy.deepcopy(ours)
    override = StochasticLayer(ours, probability=0.7)
    override.put_on()
    for _ in range(3):
        values = torch.randn(2, 3, 4, 4, dtype=torch.float64)
        ours(values), theirs(values)
    assert not changed(copy_of(theirs), copy_of(ours)) and ours.num_batches_tracked == 3
    values = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    assert torch.equal(ours.eval()(values), theirs.eval()(values))
    override.take_off()
    assert "forward" not in vars(ours) and ours.momentum == momentum


def test_a_momentum_of_its_own_lasts_as_long_as_the_call():
    layer = norm("2d", momentum=0.9)
    values, mean = torch.randn(2, 3, 4, 4, dtype=torch.float64), layer.running_mean.clone()
    StochasticLayer(layer, probability=0.5, momentum=0.25).put_on()
    layer(values)
    torch.testing.assert_close(layer.running_mean, 0.75 * mean + 0.25 * values.mean((0, 2, 3)))
    assert layer.momentum == 0.9


@pytest.mark.parametrize(("probability", "training"), [(0.0, True), (1.0, False)])
def test_at_the_ends_it_is_one_branch_alone(probability, training):
    layer, values = norm("2d"), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    expected = copy.deepcopy(layer).train(training)(values)
    StochasticLayer(layer, probability=probability).put_on()
    assert torch.equal(layer(values), expected)


def test_layers_in_evaluation_mode_or_without_statistics_are_left_alone():
    values = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    for layer in (norm("2d").eval(), nn.BatchNorm2d(3, track_running_stats=False).double()):
        expected = copy.deepcopy(layer)(values)
        StochasticLayer(layer, probability=1.0).put_on()
        state = torch.get_rng_state()
        assert torch.equal(layer(values), expected)
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputation_sees_the_statistics_of_the_forward_and_moves_them_once(reentrant):
    results = []
    values = torch.randn(4, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    for checkpointed in (False, True):
        torch.manual_seed(2)
        layer = norm("2d")
        override = StochasticLayer(layer, probability=0.5)
        override.put_on()
        for _ in range(2):
            out = checkpoint(layer, values, use_reentrant=reentrant) if checkpointed else layer(values)
            values.grad = None
            out.square().mul(torch.arange(4.0).view(4, 1, 1, 1)).sum().backward()
            override.forget()
        results.append([out, values.grad, layer.weight.grad, layer.running_mean, layer.num_batches_tracked])
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


def test_an_interrupt_inside_leaves_the_layer_as_it_was():
    layer = norm("2d")
    state, own = copy_of(layer), layer.running_mean
    StochasticLayer(layer, probability=0.5).put_on()
    with pytest.raises(ValueError, match="4D input"):
        layer(torch.randn(2, 3, dtype=torch.float64))
    assert layer.training and layer.running_mean is own and not changed(state, copy_of(layer))


def test_training_learns_with_it_and_leaves_no_trace(tmp_path):
    model = seeded(tiny_resnet)
    before, names = copy_of(model), set(model.state_dict())
    make_trainer(tmp_path, model, StochNorm(), gradient_accumulation_steps=2, max_steps=3).train()
    moved = changed(before, copy_of(model))
    assert any("running_mean" in name for name in moved) and "classifier.1.weight" in moved
    assert set(model.state_dict()) == names
    assert not any("forward" in vars(module) for module in model.modules())
    assert all(module.training for module in model.train().modules())


def test_it_acts_in_training_and_probability_zero_is_the_stock_trainer(tmp_path):
    states = []
    for callbacks in ([], [StochNorm(0.0)], [StochNorm(0.5)], [StochNorm(0.5)]):
        model = seeded(tiny_resnet)
        make_trainer(tmp_path, model, *callbacks, optim="sgd").train()
        states.append(copy_of(model))
    assert not changed(states[0], states[1]) and not changed(states[2], states[3])
    assert changed(states[1], states[2])


def test_frozen_layers_are_untouched(tmp_path):
    models = [seeded(tiny_resnet) for _ in range(2)]
    make_trainer(tmp_path, models[0], FreezeBackbone()).train()
    make_trainer(tmp_path, models[1], FreezeBackbone(), StochNorm(0.9)).train()
    assert not changed(copy_of(models[0]), copy_of(models[1]))


@pytest.mark.parametrize("step", [2, 5])
@pytest.mark.parametrize("adapters", [False, True])
def test_a_run_killed_and_resumed_equals_the_straight_run_bit_for_bit(adapters, step, tmp_path):
    """Under LoRA the moving statistics are in no file of the model."""

    def run(*callbacks, folder, resume=None):
        model = seeded(tiny_resnet)
        if adapters:
            model = lora(model, r".*encoder.*convolution", "classifier")
        options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 8}
        trainer = make_trainer(tmp_path / folder, model, StochNorm(), *callbacks, **options)
        trainer.train(resume_from_checkpoint=resume)
        return trainer.model

    straight = run(folder="straight")
    with pytest.raises(KeyboardInterrupt):
        run(Crash(step + 1), folder="killed")
    again = run(folder="killed", resume=str(tmp_path / "killed" / f"checkpoint-{step}"))
    assert not changed(copy_of(straight), copy_of(again))


def test_resuming_a_run_that_had_it_not_is_refused(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    make_trainer(tmp_path, seeded(tiny_resnet), **saving).train()
    with pytest.raises(ValueError, match=r"written without StochNorm .* resume it without StochNorm"):
        make_trainer(tmp_path, seeded(tiny_resnet), StochNorm()).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-2")
        )


def test_autocast_to_bfloat16(tmp_path):
    model = seeded(tiny_resnet)
    before = copy_of(model)
    make_trainer(tmp_path, model, StochNorm(), max_steps=2, bf16=True).train()
    assert changed(before, copy_of(model))
    assert all(value.isfinite().all() for value in copy_of(model).values())


def test_half_precision_layers_and_values():
    layer, values = norm("2d").bfloat16(), torch.randn(2, 3, 4, 4).bfloat16()
    exact, wide = copy.deepcopy(layer).double(), values.double()
    for module in (layer, exact):
        StochasticLayer(module, probability=0.5).put_on()
    torch.manual_seed(0)
    ours = layer(values)
    torch.manual_seed(0)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.double(), exact(wide), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("momentum", [None, 0.1])
def test_a_momentum_that_forgets_at_once_is_warned_of(momentum, tmp_path, caplog):
    config = MobileNetV1Config(depth_multiplier=0.25, image_size=32, num_labels=3, min_depth=4)
    model = seeded(lambda: MobileNetV1ForImageClassification(config))
    assert {module.momentum for module in model.modules() if isinstance(module, nn.BatchNorm2d)} == {0.9997}
    caplog.set_level(logging.WARNING, logger="hf_transfer")
    make_trainer(tmp_path, model, StochNorm(momentum=momentum), max_steps=1).train()
    warned = [message for message in caplog.messages if "momentum of 0.9997" in message]
    assert len(warned) == (1 if momentum is None else 0)
    assert {module.momentum for module in model.modules() if isinstance(module, nn.BatchNorm2d)} == {0.9997}


def test_a_crash_inside_a_step_is_cleared_by_the_next_trainer(tmp_path):
    class CrashInside(Crash):
        def on_substep_end(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    model = seeded(tiny_resnet)
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path, model, StochNorm(), CrashInside(1), gradient_accumulation_steps=2).train()
    plain = copy.deepcopy(model)
    release(plain)
    batch = {"pixel_values": batch_for(model)["pixel_values"]}
    assert torch.equal(model.eval()(**batch).logits, plain.eval()(**batch).logits)
    make_trainer(tmp_path, model, StochNorm())
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_model_without_batch_normalisation_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"BertForSequenceClassification has no batch normalisation.*`Mixout`"):
        make_trainer(tmp_path, tiny_bert(), StochNorm())
    trainer = make_trainer(tmp_path, tiny_bert())
    trainer.add_callback(StochNorm())
    with pytest.raises(ValueError, match=r"has no batch normalisation"):
        trainer.train()


@pytest.mark.parametrize("options", [{"probability": 1.1}, {"probability": -0.1}, {"momentum": 0.0}, {"momentum": 2}])
def test_numbers_out_of_range_are_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=rf"`{name}={options[name]}` is outside.*Give a number such as"):
        StochNorm(**options)


def test_compile_is_refused(tmp_path):
    with pytest.raises(ValueError, match="StochNorm with torch.compile"):
        make_trainer(tmp_path, tiny_resnet(), StochNorm(), torch_compile=True)


def test_it_prints_as_the_call_that_makes_it():
    assert str(StochNorm()) == "StochNorm(probability=0.5)"
    assert repr(StochNorm(0.2, momentum=0.1)) == "StochNorm(probability=0.2, momentum=0.1)"
