"""`AllocateRanks`: AdaLoRA's budget against plain loops, under accumulation, resume, and what it refuses."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer, TrainerCallback, set_seed

from hf_transfer import L2SP, DomainAdversarial, ExponentialMovingAverage, FreezeBackbone, TransferTrainer
from hf_transfer.callbacks import AllocateRanks
from hf_transfer.callbacks.rank_allocation import ALLOCATION_NAME, STEPS_OF_THE_RUN
from tests import models
from tests.test_trainer import QUIET, arguments, labelled, mixed


pytestmark = pytest.mark.slow

STEPS = 10
SCHEDULE = {"init_r": 4, "target_r": 2, "tinit": 2, "tfinal": 3, "deltaT": 2}


class Interrupt(TrainerCallback):
    """Ends a run in the middle of a step, without any cleanup."""

    def __init__(self, step: int):
        self.step = step

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


class Record(TrainerCallback):
    """Gradients before a step, and weights and ranks after it."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        named = adapter_of(kwargs["model"]).items()
        self.gradients.append({name: parameter.grad.clone() for name, parameter in named})

    def on_step_end(self, args, state, control, **kwargs):
        self.weights.append({name: p.detach().clone() for name, p in adapter_of(kwargs["model"]).items()})


def adapter_of(model: Any) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.base_model.model.named_parameters() if ".lora_" in name}


def adalora(*, dropout: bool = False, **options) -> Any:
    from peft import AdaLoraConfig, get_peft_model

    set_seed(0)
    model = models.tiny_bert(**({} if dropout else QUIET))
    config = AdaLoraConfig(
        **{**SCHEDULE, "total_step": STEPS_OF_THE_RUN, **options},
        target_modules=["query", "value"],
        modules_to_save=["classifier"],
    )
    return get_peft_model(model, config)


def trainer_of(folder, model: Any, *callbacks: TrainerCallback, objectives=(), **options) -> TransferTrainer:
    options = {"max_steps": STEPS, "per_device_train_batch_size": 4, **options}
    data = mixed() if objectives else labelled()
    args = arguments(folder, **options)
    return TransferTrainer(model, args, train_dataset=data, callbacks=list(callbacks), objectives=objectives)


def ranks_of(model: Any) -> list[int]:
    """Number of singular values of each layer that are not zero."""
    return [int((p != 0).sum()) for name, p in adapter_of(model).items() if ".lora_E." in name]


# --- the method


def naive_masks(record: Record, *, total: int, accumulated: int = 1) -> list[set[tuple[str, int]]]:
    """Which singular values are zero after each step, by the formulas of the paper in plain loops."""
    beta, warmup, last, every = 0.85, SCHEDULE["tinit"], total - SCHEDULE["tfinal"], SCHEDULE["deltaT"]
    mean: dict[str, torch.Tensor] = {}
    spread: dict[str, torch.Tensor] = {}
    masks: list[set[tuple[str, int]]] = []
    frozen: set[tuple[str, int]] = set()
    layers = sorted({name.split(".lora_")[0] for name in record.gradients[0]})
    full, target = len(layers) * SCHEDULE["init_r"], len(layers) * SCHEDULE["target_r"]
    for index, gradients in enumerate(record.gradients):
        step = index + 1
        # the weights before the mask: where it hit, the value is not known any more, and its sensitivity not needed
        if step < last:
            for name, gradient in gradients.items():
                sensitivity = (record.weights[index][name] * gradient).abs()
                mean[name] = beta * mean.get(name, torch.zeros_like(gradient)) + (1 - beta) * sensitivity
                change = (sensitivity - mean[name]).abs()
                spread[name] = beta * spread.get(name, torch.zeros_like(gradient)) + (1 - beta) * change
        masked: set[tuple[str, int]] = set()
        if step > last:
            masked = frozen
        elif step > warmup and (step == last or step % every == 0):
            left = (1 - (step - warmup) / (last - warmup)) ** 3
            budget = target if step == last else int(target + (full - target) * left)
            scores = {}
            for layer in layers:
                score = {name: mean[name] * spread[name] for name in mean if name.startswith(f"{layer}.lora_")}
                side = {name.split(".lora_")[1][0]: value for name, value in score.items()}
                for rank in range(SCHEDULE["init_r"]):
                    of_rank = (side["E"][rank, 0], side["A"][rank].mean(), side["B"][:, rank].mean())
                    scores[layer, rank] = float(sum(of_rank))
            ranked = sorted(scores, key=lambda one: scores[one])
            masked = frozen = set(ranked[: full - budget])
        masks.append(masked)
    return masks


def zeros(weights: dict[str, torch.Tensor]) -> set[tuple[str, int]]:
    return {
        (name.split(".lora_")[0], rank)
        for name, value in weights.items()
        if ".lora_E." in name
        for rank in range(len(value))
        if value[rank] == 0
    }


def test_each_mask_is_that_of_the_paper(tmp_path, monkeypatch):
    record = Record()
    trainer = trainer_of(tmp_path, adalora(), record)
    before: list[dict[str, torch.Tensor]] = []
    allocate = type(trainer.model.base_model).update_and_allocate

    def noting(self, step):
        before.append({name: p.detach().clone() for name, p in self.model.named_parameters() if ".lora_" in name})
        return allocate(self, step)

    monkeypatch.setattr(type(trainer.model.base_model), "update_and_allocate", noting)
    trainer.train()
    after, record.weights = record.weights, before
    masks = naive_masks(record, total=STEPS)
    assert [zeros(weights) for weights in after] == masks
    assert [len(mask) for mask in masks] == [0, 0, 0, 10, 0, 12, 12, 12, 12, 12]
    assert sum(ranks_of(trainer.model)) == 6 * SCHEDULE["target_r"]


def test_accumulation_allocates_once_a_step_from_the_whole_gradient(tmp_path):
    runs = []
    for batch, accumulated in ((8, 1), (2, 4)):
        model = adalora()
        options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated, "optim": "sgd"}
        trainer_of(tmp_path, model, **options).train()
        runs.append(adapter_of(model))
    first, second = runs
    assert ranks_of_named(first) == ranks_of_named(second) and 0 < sum(ranks_of_named(first)) == 12
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-6, rtol=1e-4)


def ranks_of_named(named: dict[str, nn.Parameter]) -> list[int]:
    return [int((p != 0).sum()) for name, p in named.items() if ".lora_E." in name]


def test_the_run_gives_the_schedule_its_length_unless_the_user_did(tmp_path):
    model = adalora()
    trainer_of(tmp_path, model).train()
    assert model.peft_config["default"].total_step == STEPS
    model = adalora(total_step=7)
    trainer_of(tmp_path, model).train()
    assert model.peft_config["default"].total_step == 7 and sum(ranks_of(model)) == 12


def test_the_trainer_adds_it_once_and_only_where_it_is_needed(tmp_path):
    def count(trainer: Trainer) -> int:
        return sum(isinstance(callback, AllocateRanks) for callback in trainer.callback_handler.callbacks)

    assert count(trainer_of(tmp_path, adalora())) == 1
    assert count(trainer_of(tmp_path, adalora(), AllocateRanks())) == 1
    assert count(trainer_of(tmp_path, models.tiny_bert())) == 0
    assert count(trainer_of(tmp_path, models.lora(models.tiny_bert(), ["query"]))) == 0
    args = arguments(tmp_path, max_steps=STEPS)
    made = TransferTrainer(args=args, model_init=lambda: adalora(), train_dataset=labelled())
    assert count(made) == 1
    made.train()
    assert sum(ranks_of(made.model)) == 12


def test_averages_of_the_weights_see_them_masked(tmp_path):
    """A masked value that entered the average would come back with it."""
    model = adalora(tinit=1, tfinal=8, deltaT=1)
    average = ExponentialMovingAverage(decay=1e-9)  # the weights of the last step
    trainer = trainer_of(tmp_path, model, average)
    trainer.train()
    assert sum(ranks_of(model)) == 12


def test_in_a_stock_trainer_it_does_the_same(tmp_path):
    ours = adalora()
    trainer_of(tmp_path, ours, optim="sgd").train()
    theirs = adalora()
    args = arguments(tmp_path, max_steps=STEPS, per_device_train_batch_size=4, optim="sgd")
    Trainer(theirs, args, train_dataset=labelled(), callbacks=[AllocateRanks()]).train()
    for name, parameter in adapter_of(ours).items():
        assert torch.equal(parameter, adapter_of(theirs)[name]), name


def test_a_step_that_the_scaler_skips_weighs_nothing(tmp_path):
    """Also where it would have been the last allocation: the next step makes up for it."""
    model = adalora()
    trainer = trainer_of(tmp_path, model)
    last = STEPS - SCHEDULE["tfinal"]

    class Skip(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            trainer.optimizer._is_overflow = skipped = state.global_step + 1 in (3, last)
            if skipped:
                for parameter in adapter_of(model).values():
                    parameter.grad.fill_(torch.inf)

    trainer.callback_handler.callbacks.insert(0, Skip())
    step = torch.optim.AdamW.step

    def skipping(self, closure=None):
        return None if trainer.optimizer._is_overflow else step(self, closure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", skipping)
        patch.setattr(AcceleratedOptimizer, "step_was_skipped", property(lambda self: self._is_overflow))
        trainer.train()
    assert sum(ranks_of(model)) == 12
    assert all(parameter.isfinite().all() for parameter in adapter_of(model).values())


# --- checkpoints


@pytest.mark.parametrize("step", [3, 5, 8, 9])
def test_interrupted_and_resumed_is_the_straight_run_bit_for_bit(tmp_path, step):
    def make(name: str, *callbacks: TrainerCallback) -> TransferTrainer:
        objectives = [DomainAdversarial(hidden_size=8), L2SP(weight=0.1)]
        options = {"save_strategy": "steps", "save_steps": 2 + step % 2}
        return trainer_of(tmp_path / name, adalora(dropout=True), *callbacks, objectives=objectives, **options)

    straight = make("straight")
    straight.train()
    interrupted = make("resumed", Interrupt(step))
    with pytest.raises(KeyboardInterrupt):
        interrupted.train()
    resumed = make("resumed")
    resumed.train(resume_from_checkpoint=True)
    first, second = straight.model.state_dict(), resumed.model.state_dict()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    allocators = [trainer.model.base_model.rankallocator for trainer in (straight, resumed)]
    assert allocators[0].allocated == allocators[1].allocated is not None


def test_a_checkpoint_holds_the_matrices_whole_and_the_averages_beside_them(tmp_path):
    model = adalora()
    trainer_of(tmp_path, model, save_strategy="steps", save_steps=5).train()
    early, late = (load_file(tmp_path / f"checkpoint-{step}" / ALLOCATION_NAME) for step in (5, 10))
    kinds = {key.partition(".")[0] for key in early}
    assert kinds == {"allocated", "exp_avg_ipt", "exp_avg_unc"}
    assert {key.partition(".")[0] for key in late} == {"allocated"}  # dropped after the last allocation
    assert sum(int(kept.sum()) for kept in late.values()) == 12
    for step in (5, 10):
        saved = load_file(tmp_path / f"checkpoint-{step}" / "adapter_model.safetensors")
        assert {len(value) for name, value in saved.items() if name.endswith(("lora_A", "lora_E"))} == {4}


def test_a_saved_adapter_computes_the_same_bit_for_bit(tmp_path):
    from peft import PeftModel

    model = adalora()
    trainer = trainer_of(tmp_path / "run", model)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    set_seed(0)
    loaded = PeftModel.from_pretrained(models.tiny_bert(**QUIET), str(tmp_path / "saved")).eval()
    batch = {name: value for name, value in models.batch_for(model).items() if name != "domain"}
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, model.eval()(**batch).logits)


class Keep(TrainerCallback):
    """What the model was at a checkpoint."""

    def __init__(self, step: int):
        self.step = step

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.weights = {name: value.clone() for name, value in kwargs["model"].state_dict().items()}
            self.ranks = copy.deepcopy(kwargs["model"].base_model.rankallocator.allocated)


@pytest.mark.parametrize("best", [4, 8])
def test_the_best_model_comes_back_with_its_ranks(tmp_path, best):
    scores = iter([float(best == 4), float(best == 8)])
    every = {"eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps", "save_steps": 4}
    args = arguments(tmp_path, max_steps=8, load_best_model_at_end=True, metric_for_best_model="score", **every)
    kept = Keep(best)
    trainer = TransferTrainer(
        adalora(),
        args,
        train_dataset=labelled(),
        eval_dataset=labelled(),
        compute_metrics=lambda prediction: {"score": next(scores)},
        callbacks=[kept],
    )
    trainer.train()
    state = trainer.model.state_dict()
    assert [name for name in state if not torch.equal(state[name], kept.weights[name])] == []
    assert trainer.model.base_model.rankallocator.allocated == kept.ranks


# PEFT (0.21) takes a layer without any rank for one that DeepSpeed has not gathered.
@pytest.mark.filterwarnings("ignore:Adapter 'default'")
def test_an_adapter_that_peft_cut_down_keeps_its_ranks(tmp_path):
    from peft import PeftModel

    model = adalora(tfinal=2)
    trainer_of(tmp_path / "first", model).train()
    model.peft_config["default"].rank_pattern = dict(model.base_model.rankallocator.allocated)
    model.save_pretrained(tmp_path / "cut")
    make = lambda: models.tiny_bert(**QUIET)  # noqa: E731
    runs = []
    for name, stop in (("straight", None), ("resumed", 3)):
        set_seed(0)
        with pytest.warns(RuntimeWarning, match="rank_pattern keys did not match"):
            loaded = PeftModel.from_pretrained(make(), str(tmp_path / "cut"), is_trainable=True)
        options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
        if stop is not None:
            with pytest.raises(KeyboardInterrupt):
                trainer_of(tmp_path / name, loaded, Interrupt(stop), **options).train()
            set_seed(0)
            with pytest.warns(RuntimeWarning, match="rank_pattern keys did not match"):
                loaded = PeftModel.from_pretrained(make(), str(tmp_path / "cut"), is_trainable=True)
        trainer = trainer_of(tmp_path / name, loaded, **options)
        trainer.train(resume_from_checkpoint=stop is not None)
        assert not (tmp_path / name / "checkpoint-2" / ALLOCATION_NAME).exists()
        runs.append(trainer.model.state_dict())
    assert sum(len(value) for name, value in runs[0].items() if ".lora_E." in name) == 12
    assert [name for name in runs[0] if not torch.equal(runs[0][name], runs[1][name])] == []


# --- what is refused


def resumable(folder) -> None:
    with pytest.raises(KeyboardInterrupt):
        trainer_of(folder, adalora(), Interrupt(5), save_strategy="steps", save_steps=4).train()


def test_a_checkpoint_without_the_averages_is_refused(tmp_path):
    resumable(tmp_path)
    (tmp_path / "checkpoint-4" / ALLOCATION_NAME).unlink()
    with pytest.raises(ValueError, match=f"has no {ALLOCATION_NAME}: AdaLoRA would forget .* that TransferTrainer"):
        trainer_of(tmp_path, adalora()).train(resume_from_checkpoint=True)


def test_a_checkpoint_of_another_adapter_is_refused(tmp_path):
    resumable(tmp_path)
    path = tmp_path / "checkpoint-4" / ALLOCATION_NAME
    save_file({name.replace("query", "key"): value for name, value in load_file(path).items()}, path)
    with pytest.raises(ValueError, match="does not fit the adapter of this run; they differ in .*key.*first run"):
        trainer_of(tmp_path, adalora()).train(resume_from_checkpoint=True)
    save_file({name: value[:1] for name, value in load_file(path).items()}, path)
    with pytest.raises(ValueError, match="does not fit the adapter of this run"):
        trainer_of(tmp_path, adalora()).train(resume_from_checkpoint=True)


def test_a_stock_trainer_cannot_resume(tmp_path):
    resumable(tmp_path)
    args = arguments(tmp_path, max_steps=STEPS)
    trainer = Trainer(adalora(), args, train_dataset=labelled(), callbacks=[AllocateRanks()])
    with pytest.raises(ValueError, match="from step 4 without what AdaLoRA knew .* resume with TransferTrainer"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init_r": 2, "target_r": 2}, "init_r=2 and target_r=2: there is no rank to take away"),
        ({"tinit": 8}, "tinit=8, tfinal=3 and 10 steps leaves no step between"),
        ({"tfinal": 10, "tinit": 0}, "leaves no step between warm-up and last stretch"),
        ({"tfinal": 9, "tinit": 0}, "leaves no step between warm-up and last stretch"),
    ],
)
def test_a_schedule_that_never_allocates_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        trainer_of(tmp_path, adalora(**options)).train()


def test_a_schedule_longer_than_the_run_is_told(tmp_path):
    messages: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record):
            messages.append(record.getMessage())

    logger, handler = logging.getLogger("hf_transfer.callbacks.rank_allocation"), Handler()
    logger.addHandler(handler)
    try:
        trainer_of(tmp_path, adalora(total_step=50), max_steps=3).train()
    finally:
        logger.removeHandler(handler)
    assert any("allocates until step 47" in message and "run ends at 3" in message for message in messages)


def test_adapters_without_a_gradient_are_refused(tmp_path):
    trainer = trainer_of(tmp_path, adalora(), FreezeBackbone())
    with pytest.raises(ValueError, match=r'had no gradient in a step .* GradualUnfreezing\(first="adapters"\)'):
        trainer.train()


def test_a_model_without_adalora_is_refused(tmp_path):
    trainer = trainer_of(tmp_path, models.lora(models.tiny_bert(), ["query"], "classifier"), AllocateRanks())
    with pytest.raises(ValueError, match="AllocateRanks for PeftModel, which trains no AdaLoRA adapter"):
        trainer.train()
