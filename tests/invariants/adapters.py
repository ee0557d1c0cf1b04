"""
Every adapter in one process: `python -m tests.invariants.adapters --out DIR`, or under `torchrun` on two ranks.

On one rank, each case is trained, interrupted and resumed with the best model loaded at the end; some are trained with
and without accumulation, compiled, or in half precision. On two ranks some are trained, and AdaLoRA is interrupted and
resumed. Rank 0 writes DIR/outcomes.json, and the final weights of plain runs to DIR/weights.safetensors.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import TrainerCallback, set_seed

from hf_transfer import (
    L2SP,
    DomainAdversarial,
    FreezeBatchNorm,
    GradualUnfreezing,
    LogitDistillation,
    Objective,
    Teacher,
    TransferArguments,
    TransferTrainer,
    mix_domains,
)
from hf_transfer.adapters import add_adapter
from tests import models
from tests.invariants.run import rows


STEPS, SAVED = 4, 2
RANK_OPTIONS = {"init_r": 4, "target_r": 2, "tinit": 1, "tfinal": 1}


@dataclass(frozen=True)
class Case:
    """One adapter in one model with one set of objectives."""

    method: str
    image: bool = False
    adapter: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    blocks: int = 3
    distil: bool = False
    thaw: bool = False


THAWED = {"r": 2, "train_blocks": 1}
CASES: dict[str, Case] = {
    "lora_plus text": Case("lora", adapter={"r": 2}, arguments={"lora_plus_ratio": 4.0, "layer_decay": 0.9}),
    "dora text": Case("dora", adapter={"r": 2}),
    "ia3 text": Case("ia3"),
    "ln_tuning text": Case("ln_tuning"),
    "adalora text": Case("adalora", adapter=RANK_OPTIONS),
    "thaw text": Case("lora", adapter=THAWED, thaw=True),
    "small thaw text": Case("lora", adapter={**THAWED, "target_modules": ["query"]}, blocks=2, thaw=True),
    "prompt_tuning text": Case("prompt_tuning", adapter={"num_virtual_tokens": 3}),
    "distilled lora text": Case("lora", adapter={"r": 2}, distil=True),
    "lora image": Case("lora", True, {"r": 2}),
    "thaw image": Case("lora", True, THAWED, thaw=True),
    "distilled adalora image": Case("adalora", True, RANK_OPTIONS, distil=True),
}
SPLIT = ("lora_plus text", "ia3 text", "adalora text", "thaw text", "distilled adalora image")
"""Cases whose batch is split, over ranks and over accumulation steps."""
COMPILED = ("small thaw text",)
"""On as little as has a lower block with adapters and a copy to thaw: compiling takes far longer than the runs."""
HALF = ("lora_plus text", "distilled adalora image")
RESUMED_ON_RANKS = ("adalora text",)


class Interrupt(TrainerCallback):
    """Ends a run without any cleanup of the Trainer, in the middle of a step."""

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == SAVED + 1:
            raise KeyboardInterrupt


class Keep(TrainerCallback):
    """What the model was when the best checkpoint was written, and after the last step."""

    def __init__(self) -> None:
        self.weights: dict[int, dict[str, Tensor]] = {}

    def on_step_end(self, args, state, control, **kwargs):
        self.weights[state.global_step] = copied(kwargs["model"].state_dict())


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("_orig_mod."): value.detach().clone() for name, value in state.items()}


def model_of(case: Case, *, dropout: bool) -> Any:
    set_seed(0)
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    text = {"num_hidden_layers": case.blocks, **({} if dropout else quiet)}
    model = models.tiny_resnet() if case.image else models.tiny_bert(**text)
    with warnings.catch_warnings():
        # PEFT (0.21) says so of every norm that `ln_tuning` adapts
        warnings.filterwarnings("ignore", "Unsupported layer type", UserWarning)
        return add_adapter(model, case.method, **case.adapter)


def objectives_of(case: Case) -> list[Objective]:
    if not case.distil:
        return [DomainAdversarial(hidden_size=8), L2SP(weight=0.1)]
    set_seed(2)
    wide = models.tiny_resnet(hidden_sizes=[12, 24]) if case.image else models.tiny_bert(hidden_size=24)
    return [LogitDistillation(Teacher(wide)), DomainAdversarial(hidden_size=8)]


def trainer_of(
    case: Case,
    folder: Path,
    *callbacks: TrainerCallback,
    batch: int = 4,
    accumulate: int = 1,
    dropout: bool = False,
    scores: Callable[[Any], dict[str, float]] | None = None,
    **options: Any,
) -> TransferTrainer:
    schedule = [GradualUnfreezing(stages=2, first="adapters")] if case.thaw else []
    # statistics of a batch are those of the micro-batch: without them fixed, no split of a batch is the batch
    fixed = [FreezeBatchNorm()] if case.image and not dropout else []
    evaluated = {"eval_strategy": "steps", "eval_steps": SAVED} if scores else {}
    args = TransferArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulate,
        max_steps=STEPS,
        save_steps=SAVED,
        save_strategy="steps" if scores else "no",
        load_best_model_at_end=scores is not None,
        metric_for_best_model="score" if scores else None,
        logging_strategy="no",
        report_to="none",
        use_cpu=True,
        ddp_backend="gloo" if int(os.environ.get("WORLD_SIZE", 1)) > 1 else None,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        seed=3,
        **{"learning_rate": 0.01, **case.arguments, **evaluated, **options},
    )
    labelled = rows(24, 0, True, case.image)
    return TransferTrainer(
        model_of(case, dropout=dropout),
        args,
        train_dataset=mix_domains(labelled, rows(24, 1, False, case.image)),
        eval_dataset=labelled.select(range(4)) if scores else None,
        compute_metrics=scores,
        objectives=objectives_of(case),
        callbacks=[*schedule, *fixed, *callbacks],
    )


def difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    return [name for name in first if name not in second or not torch.equal(first[name], second[name])][:5]


def largest(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    assert first.keys() == second.keys(), sorted(first.keys() ^ second.keys())[:5]
    return max(float((first[name].float() - second[name].float()).abs().max()) for name in first)


def best_is_at(step: int, begin: int = 0) -> Callable[[Any], dict[str, float]]:
    """Scores of the evaluations of a run, of which the one at `step` is the best."""
    steps = iter(range(begin + SAVED, STEPS + 1, SAVED))
    return lambda prediction: {"score": float(next(steps) == step)}


def resumed(case: Case, folder: Path) -> dict[str, Any]:
    """A straight run and an interrupted one, both with the best model loaded when they end."""
    kept = {"straight": Keep(), "resumed": Keep()}
    straight = trainer_of(case, folder / "straight", kept["straight"], dropout=True, scores=best_is_at(SAVED))
    start = copied(straight.model.state_dict())
    straight.train()
    first = trainer_of(case, folder / "resumed", Interrupt(), dropout=True, scores=best_is_at(SAVED))
    try:
        first.train()
        return {"error": "the run was not interrupted"}
    except KeyboardInterrupt:
        pass
    second = trainer_of(case, folder / "resumed", kept["resumed"], dropout=True, scores=best_is_at(SAVED, SAVED))
    second.train(resume_from_checkpoint=str(folder / "resumed" / f"checkpoint-{SAVED}"))
    last = kept["straight"].weights[STEPS]
    return {
        "resumed": difference(last, kept["resumed"].weights[STEPS]),
        "best": difference(kept["straight"].weights[SAVED], copied(straight.model.state_dict())),
        "best of resumed": difference(kept["straight"].weights[SAVED], copied(second.model.state_dict())),
        "moved": difference(start, last),
        "best is not the last": difference(kept["straight"].weights[SAVED], last),
        "finite": all(bool(value.isfinite().all()) for value in last.values() if value.is_floating_point()),
    }


def plain(case: Case, folder: Path, **options: Any) -> dict[str, Tensor]:
    trainer = trainer_of(case, folder, **{"optim": "sgd", "learning_rate": 0.05, **options})
    trainer.train()
    return copied(trainer.model.state_dict())


def outcome(name: str, folder: Path, ranks: int, weights: dict[str, Tensor]) -> dict[str, Any]:
    case = CASES[name]
    if ranks > 1:
        weights.update(named(name, plain(case, folder, batch=8 // ranks)))
        return resumed(case, folder) if name in RESUMED_ON_RANKS else {}
    found = resumed(case, folder)
    if name not in {*SPLIT, *COMPILED, *HALF}:
        return found
    whole = plain(case, folder, batch=8)
    weights.update(named(name, whole))
    found["travelled"] = largest(copied(model_of(case, dropout=False).state_dict()), without_objectives(whole))
    if name in SPLIT:
        found["accumulated"] = largest(whole, plain(case, folder, batch=2, accumulate=4))
    if name in COMPILED:
        compiled = plain(case, folder, batch=8, torch_compile=True, torch_compile_backend="eager")
        found["compiled"] = largest(whole, compiled)
    if name in HALF:
        found["bf16"] = largest(whole, plain(case, folder, batch=8, bf16=True))
    return found


def named(case: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{case}/{name}": value.contiguous() for name, value in weights.items()}


def without_objectives(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if not name.startswith("transfer_objectives")}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--case", action="append", choices=sorted(CASES))
    options = parser.parse_args()
    ranks, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    torch.set_num_threads(1)
    gc.freeze()  # the Trainer collects garbage at every start: not of all that was imported
    outcomes: dict[str, Any] = {}
    weights: dict[str, Tensor] = {}
    for name in options.case or (SPLIT if ranks > 1 else CASES):
        try:
            outcomes[name] = outcome(name, options.out / name.replace(" ", "_"), ranks, weights)
        except (ValueError, TypeError, RuntimeError, AssertionError, KeyError) as error:
            outcomes[name] = {"error": f"{type(error).__name__}: {error}"}
    if rank == 0:
        (options.out / "outcomes.json").write_text(json.dumps(outcomes, indent=1))
        save_file(weights, options.out / "weights.safetensors")


if __name__ == "__main__":
    main()
