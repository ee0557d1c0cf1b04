"""Mixout in a stock Trainer: which weights, what a layer computes, and that no trace is left."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.pytorch_utils import Conv1D

from hf_transfer import TransferArguments, TransferTrainer
from hf_transfer.callbacks import FreezeBackbone, UnfreezingSchedule
from hf_transfer.callbacks.mixout import MixedLayer, Mixout
from hf_transfer.callbacks.overrides import release
from hf_transfer.functional.random_masks import bernoulli_mask, draw_seed
from tests.callbacks.harness import Crash, Recorder, Rows, arguments, changed, copy_of, make_trainer, seeded
from tests.models import TINY, batch_for, lora, tiny_bert, tiny_resnet, tiny_vit


CHECKPOINTING = (
    "activation_checkpointing" if hasattr(TrainingArguments, "activation_checkpointing") else "gradient_checkpointing"
)


def mixed_names(callback: Mixout) -> set[str]:
    return set(callback._start)


def built(model, tmp_path, **options) -> Mixout:
    callback = Mixout(**options)
    make_trainer(tmp_path, model, callback)
    return callback


def naive(layer, start, values, probability, seed):
    """The layer with its weight mixed entry by entry, by the paper's formula, in float64."""
    replaced = ~bernoulli_mask(layer.weight.shape, 1 - probability, seed=seed, device="cpu")
    weight = layer.weight.detach().clone().requires_grad_()
    m = replaced.to(weight.dtype)
    mixed = ((1 - m) * weight + m * start - probability * start) / (1 - probability)
    return weight, torch.func.functional_call(layer, {"weight": mixed}, values)


LAYERS = {
    "linear": (lambda: nn.Linear(3, 4), (2, 3)),
    "convolution": (lambda: nn.Conv2d(3, 4, 2), (2, 3, 4, 4)),
    "of GPT-2": (lambda: Conv1D(4, 3), (2, 3)),
}


@pytest.mark.parametrize("rebuild", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_computes_with_the_mixed_weight(name, rebuild):
    make, shape = LAYERS[name]
    layer, values = make().double(), torch.randn(shape, dtype=torch.float64, requires_grad=True)
    start = torch.randn_like(layer.weight)
    override = MixedLayer(layer, start, probability=0.6, rank=3, rebuild=rebuild)
    override.put_on()
    torch.manual_seed(5)
    out = layer(values)
    ours = torch.autograd.grad(out.square().sum(), (layer.weight, values))
    override.take_off()
    torch.manual_seed(5)
    weight, expected = naive(layer, start, values, 0.6, draw_seed(3))
    torch.testing.assert_close(out, expected)
    theirs = torch.autograd.grad(expected.square().sum(), (weight, values))
    for first, second in zip(ours, theirs, strict=True):
        torch.testing.assert_close(first, second)


def test_each_call_draws_anew_and_evaluation_draws_nothing():
    layer, values = nn.Linear(8, 8), torch.randn(2, 8)
    override = MixedLayer(layer, torch.zeros(8, 8), probability=0.5)
    plain = layer(values)
    override.put_on()
    assert not torch.equal(layer(values), layer(values))
    before = torch.get_rng_state()
    assert torch.equal(layer.eval()(values), plain)
    layer.train().weight.requires_grad_(False)
    assert torch.equal(layer(values), plain)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_inside_a_layer_leaves_its_weight_alone(interrupt):
    class Breaks(nn.Linear):
        def forward(self, values):
            raise interrupt

    layer = Breaks(2, 2)
    MixedLayer(layer, torch.zeros(2, 2), probability=0.5).put_on()
    with pytest.raises(interrupt):
        layer(torch.ones(1, 2))
    assert "weight" not in vars(layer) and layer.weight is layer._parameters["weight"]


@pytest.mark.parametrize("name", TINY)
def test_mixed_are_linear_and_convolution_weights_before_the_head(name, tmp_path):
    model = seeded(TINY[name])
    names = mixed_names(built(model, tmp_path))
    expected = {
        layer
        for layer, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | Conv1D)
        and "parametrizations" not in dict(module.named_children())  # weight norm: no weight of its own
        and layer not in ("classifier", "classifier.1", "score")
    }
    assert names == expected and len(names) >= 6
    assert not any("norm" in name.lower() and "conv" not in name for name in names)


def test_under_lora_the_adapters_are_mixed_with_their_own_start(tmp_path):
    model = lora(seeded(), ["query"], "classifier")
    callback = built(model, tmp_path)
    assert {name.split(".")[-2] for name in mixed_names(callback)} == {"lora_A", "lora_B"}
    assert len(mixed_names(callback)) == 6
    for name, start in callback._start.items():
        assert start.any() == ("lora_A" in name)
        assert torch.equal(start.float(), model.get_submodule(name).weight)


def test_parts_can_be_left_out(tmp_path):
    model = seeded()
    everything = mixed_names(built(model, tmp_path))
    without = mixed_names(built(model, tmp_path, exclude=["neck", "block.0"]))
    assert everything - without == {"bert.pooler.dense", *(n for n in everything if ".layer.0." in n)}
    with pytest.raises(ValueError, match="`nothing` is no part of this model"):
        built(model, tmp_path, exclude="nothing")


def test_the_start_stays_on_the_host_in_half_precision_where_that_is_exact(tmp_path):
    callback = built(seeded().bfloat16().float(), tmp_path)
    assert {start.dtype for start in callback._start.values()} == {torch.bfloat16}
    callback = built(seeded(), tmp_path)
    assert {start.dtype for start in callback._start.values()} == {torch.float32}


def test_a_model_at_its_start_computes_what_it_does_without(tmp_path):
    """The difference from the start is zero, whatever the masks."""
    model = seeded(tiny_bert, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    batch = {name: value for name, value in batch_for(model).items() if name != "domain"}
    plain = model(**batch).logits
    callback = built(model, tmp_path, probability=0.9)
    layers = [MixedLayer(model.get_submodule(n), start, probability=0.9) for n, start in callback._start.items()]
    for layer in layers:
        layer.put_on()
    assert torch.equal(model(**batch).logits, plain)
    with torch.no_grad():
        model.bert.pooler.dense.weight.add_(0.1)
    assert not torch.equal(model(**batch).logits, model(**batch).logits)
    release(model)


def test_probability_zero_is_the_stock_trainer(tmp_path):
    models = [seeded() for _ in range(2)]
    make_trainer(tmp_path, models[0]).train()
    make_trainer(tmp_path, models[1], Mixout(0.0)).train()
    assert not changed(copy_of(models[0]), copy_of(models[1]))


class Watch(Recorder):
    """Whether a layer is overridden at each event."""

    def __init__(self):
        super().__init__()
        self.events = []

    def note(self, event, model):
        self.events.append((event, any("forward" in vars(module) for module in model.modules())))

    def on_step_begin(self, args, state, control, **kwargs):
        self.note("begin", kwargs["model"])

    def on_substep_end(self, args, state, control, **kwargs):
        self.note("substep", kwargs["model"])

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.note("optimizer", kwargs["model"])

    def on_evaluate(self, args, state, control, **kwargs):
        self.note("evaluate", kwargs["model"])


@pytest.mark.parametrize("build", [tiny_bert, tiny_vit, tiny_resnet])
def test_training_learns_and_the_model_is_bare_outside_of_forward_and_backward(build, tmp_path):
    model, watch = seeded(build), Watch()
    names, before = set(model.state_dict()), copy_of(model)
    options = {"gradient_accumulation_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "max_steps": 3}
    make_trainer(tmp_path, model, Mixout(0.5), watch, **options).train()
    assert set(watch.events) == {("begin", True), ("substep", True), ("optimizer", False), ("evaluate", False)}
    assert set(model.state_dict()) == names and len(changed(before, copy_of(model))) > 10
    assert not any("forward" in vars(module) for module in model.modules())


def test_the_masks_make_a_difference_and_the_seed_decides_them(tmp_path):
    states = []
    for seed, callbacks in ((1, []), (1, [Mixout(0.9)]), (1, [Mixout(0.9)]), (2, [Mixout(0.9)])):
        model = seeded(tiny_bert, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        make_trainer(tmp_path, model, *callbacks, seed=seed, data_seed=0, optim="sgd").train()
        states.append(copy_of(model))
    assert changed(states[0], states[1]) and changed(states[1], states[3])
    assert not changed(states[1], states[2])


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_changes_nothing(reentrant, tmp_path):
    def run(**options):
        model = seeded()
        make_trainer(tmp_path, model, Mixout(0.7), optim="sgd", max_steps=4, **options).train()
        return copy_of(model)

    options = {CHECKPOINTING: True, f"{CHECKPOINTING}_kwargs": {"use_reentrant": reentrant}}
    plain, checkpointed = run(), run(**options)
    for name, value in plain.items():
        torch.testing.assert_close(checkpointed[name], value, rtol=1e-5, atol=1e-7, msg=name)


def test_autocast_to_bfloat16(tmp_path):
    model = seeded()
    before = copy_of(model)
    trainer = make_trainer(tmp_path, model, Mixout(0.5), bf16=True, max_steps=3)
    trainer.train()
    assert all(value.isfinite().all() for value in copy_of(model).values()) and changed(before, copy_of(model))


def test_under_autocast_the_gradient_is_that_of_the_mixed_weight():
    layer, start = nn.Linear(6, 5), torch.randn(5, 6)
    values = torch.randn(3, 6, requires_grad=True)
    MixedLayer(layer, start, probability=0.5).put_on()
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(values)
    ours = torch.autograd.grad(out.float().square().sum(), (layer.weight, values))
    release(layer)
    torch.manual_seed(1)
    seed = draw_seed()
    with torch.autocast("cpu", torch.bfloat16):
        weight, expected = naive(layer, start, values, 0.5, seed)
    theirs = torch.autograd.grad(expected.float().square().sum(), (weight, values))
    for first, second in zip((out, *ours), (expected, *theirs), strict=True):
        torch.testing.assert_close(first, second, rtol=2e-2, atol=2e-2)


def test_a_half_precision_model_trains(tmp_path):
    model = seeded().bfloat16()
    before = copy_of(model)
    make_trainer(tmp_path, model, Mixout(0.5), max_steps=2).train()
    assert changed(before, copy_of(model)) and model.classifier.weight.dtype == torch.bfloat16


def test_what_a_schedule_freezes_is_not_mixed(tmp_path):
    """Nothing before the head trains: the run is that without Mixout, random numbers too."""
    models = [seeded() for _ in range(2)]
    make_trainer(tmp_path, models[0], FreezeBackbone()).train()
    make_trainer(tmp_path, models[1], FreezeBackbone(), Mixout(0.9)).train()
    assert not changed(copy_of(models[0]), copy_of(models[1]))


def test_thawed_blocks_are_mixed_from_then_on(tmp_path):
    phases = [{"train": "head"}, {"step": 4, "train": ["head", "block.2"]}]
    first, second = Recorder(), Recorder()
    make_trainer(tmp_path, seeded(), UnfreezingSchedule(phases), first).train()
    make_trainer(tmp_path, seeded(), UnfreezingSchedule(phases), Mixout(0.9), second).train()
    for step in range(4):
        assert not changed(first.weights[step], second.weights[step])
    # At the start a mixed block is the block itself; it differs once it has moved.
    assert any(".layer.2." in name for name in changed(first.weights[-1], second.weights[-1]))


@pytest.mark.parametrize("kind", ["bert", "bert lora", "resnet", "vit", "vit lora"])
def test_a_run_killed_and_resumed_equals_the_straight_run_bit_for_bit(kind, tmp_path):
    builds = {"bert": tiny_bert, "resnet": tiny_resnet, "vit": tiny_vit}

    def run(*callbacks, folder, resume=None):
        model = seeded(builds[kind.split()[0]])
        if "lora" in kind:
            model = lora(model, ["query"] if "bert" in kind else ["q_proj"], "classifier")
        options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 8}
        # the Trainer resumes a ViT by names that the checkpoint does not have; `TransferTrainer` mends that
        kwargs = {"train_dataset": Rows(batch_source(model)), "callbacks": [Mixout(0.6), *callbacks]}
        cls, args = (TransferTrainer, transfer_arguments) if kind == "vit" else (Trainer, arguments)
        trainer = cls(model, args(tmp_path / folder, **options), **kwargs)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    straight = run(folder="straight")
    with pytest.raises(KeyboardInterrupt):
        run(Crash(5), folder="killed")
    again = run(folder="killed", resume=str(tmp_path / "killed" / "checkpoint-4"))
    assert not changed(copy_of(straight.model), copy_of(again.model))
    saved = json.loads((tmp_path / "killed" / "checkpoint-8" / "trainer_state.json").read_text())
    assert len(saved["stateful_callbacks"]["Mixout"]["attributes"]["fingerprint"]) == 2


def batch_source(model):
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def transfer_arguments(folder, **options):
    return TransferArguments(**arguments(folder, **options).to_dict())


def checkpoint_of(tmp_path, callback=None):
    model = seeded()
    make_trainer(tmp_path, model, *([callback] if callback else []), save_strategy="steps", max_steps=2, save_steps=2)
    trainer = make_trainer(
        tmp_path, model, *([callback] if callback else []), save_strategy="steps", max_steps=2, save_steps=2
    )
    trainer.train()
    return str(tmp_path / "checkpoint-2")


def test_resuming_from_other_starting_weights_is_refused(tmp_path):
    folder = checkpoint_of(tmp_path, Mixout())
    torch.manual_seed(1)
    with pytest.raises(ValueError, match=r"Mixout from other starting weights.*same pretrained checkpoint"):
        make_trainer(tmp_path, tiny_bert(), Mixout()).train(resume_from_checkpoint=folder)


def test_resuming_a_run_that_had_no_mixout_is_refused(tmp_path):
    folder = checkpoint_of(tmp_path)
    with pytest.raises(ValueError, match=r"written without Mixout .* start a new run"):
        make_trainer(tmp_path, seeded(), Mixout()).train(resume_from_checkpoint=folder)


def test_the_reference_is_that_of_before_the_checkpoint(tmp_path):
    folder = checkpoint_of(tmp_path, Mixout(0.5))
    callback, start = Mixout(0.5), copy_of(seeded())
    trainer = make_trainer(tmp_path, seeded(), callback, max_steps=3)
    trainer.train(resume_from_checkpoint=folder)
    for name, weight in callback._start.items():
        assert torch.equal(weight.float(), start[f"{name}.weight"])


def test_callbacks_that_the_trainer_restores_itself_find_the_start_again(tmp_path):
    """The Trainer then makes new callbacks from `trainer_state.json`, after it loaded the weights."""
    saving = {"save_strategy": "steps", "save_steps": 2}
    straight = make_trainer(tmp_path / "straight", seeded(), Mixout(0.5), max_steps=4, **saving)
    straight.train()
    restored = {"restore_callback_states_from_checkpoint": True, "max_steps": 4, **saving}
    again = make_trainer(tmp_path, seeded(), Mixout(0.1), **restored)
    again.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-2"))
    (callback,) = [c for c in again.callback_handler.callbacks if isinstance(c, Mixout)]
    assert callback.probability == 0.5
    assert not changed(copy_of(straight.model), copy_of(again.model))


def test_model_init_makes_a_new_start_for_each_run(tmp_path):
    callback = Mixout(0.5)
    built = []

    def model_init():
        torch.manual_seed(len(built))
        built.append(tiny_bert())
        built[-1].start = copy_of(built[-1])
        return built[-1]

    rows = Rows(tiny_bert())
    trainer = Trainer(
        model_init=model_init, args=arguments(tmp_path, max_steps=2), train_dataset=rows, callbacks=[callback]
    )
    for _ in range(2):
        trainer.train()
        for name, weight in callback._start.items():
            assert torch.equal(weight, built[-1].start[f"{name}.weight"])
    assert len(built) == 3


@pytest.mark.parametrize("seed", [0, None])
def test_a_model_init_run_resumes_if_it_begins_at_the_same_weights(seed, tmp_path):
    calls = []

    def model_init():
        calls.append(0)
        torch.manual_seed(len(calls) if seed is None else seed)
        return tiny_bert()

    def trainer(folder):
        options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
        rows = Rows(tiny_bert())
        return Trainer(
            model_init=model_init, args=arguments(folder, **options), train_dataset=rows, callbacks=[Mixout(0.5)]
        )

    straight = trainer(tmp_path)
    straight.train()
    again = trainer(tmp_path / "again")
    if seed is None:
        with pytest.raises(ValueError, match="other starting weights"):
            again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    else:
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
        assert not changed(copy_of(straight.model), copy_of(again.model))


def test_without_a_start_a_resume_is_refused(tmp_path):
    folder = checkpoint_of(tmp_path, Mixout())
    trainer = make_trainer(tmp_path, seeded())
    trainer.add_callback(Mixout())  # too late to see the model as it was built
    with pytest.raises(ValueError, match=r"did not see the model before the checkpoint was loaded.*`model`"):
        trainer.train(resume_from_checkpoint=folder)


def test_a_crash_inside_a_step_is_cleared_by_the_next_trainer(tmp_path):
    class CrashInside(Crash):
        def on_substep_end(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    model = seeded()
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path, model, Mixout(), CrashInside(9), gradient_accumulation_steps=2).train()
    assert any("forward" in vars(module) for module in model.modules())
    assert set(model.state_dict()) == set(seeded().state_dict())
    make_trainer(tmp_path, model, Mixout())
    assert not any("forward" in vars(module) for module in model.modules())


def test_two_of_them_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Two callbacks of one kind"):
        make_trainer(tmp_path, seeded(), Mixout(), Mixout(0.5)).train()


@pytest.mark.parametrize("probability", [1.0, -0.1, 2])
def test_probabilities_outside_are_refused(probability):
    with pytest.raises(ValueError, match=rf"`probability={probability}` is outside \[0, 1\).*the paper's 0.9"):
        Mixout(probability)


def test_a_frozen_backbone_is_refused(tmp_path):
    model = seeded()
    model.bert.requires_grad_(False)
    with pytest.raises(ValueError, match=r"Mixout finds no trainable weight.*leave the backbone"):
        make_trainer(tmp_path, model, Mixout())


def test_a_model_without_values_is_refused(tmp_path):
    with torch.device("meta"):
        model = tiny_bert()
    with pytest.raises(ValueError, match=r"without values \(device `meta`\).*cpu_ram_efficient_loading"):
        Mixout()._remember(model)


def test_compile_is_refused_when_the_trainer_is_built(tmp_path):
    with pytest.raises(ValueError, match="Mixout with torch.compile"):
        make_trainer(tmp_path, seeded(), Mixout(), torch_compile=True)


def test_it_prints_as_the_call_that_makes_it():
    assert str(Mixout()) == "Mixout(probability=0.9)"
    assert repr(Mixout(0.5, exclude=["neck"])) == "Mixout(probability=0.5, exclude=['neck'])"
