"""
Every method in one process: trained, interrupted and resumed; `python -m tests.invariants.methods --out DIR ...`.

Rank 0 writes DIR/outcomes.json: for each method `same` (resumed run = straight run, bit for bit), `finite` and
`moved`, or the `error`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, default_data_collator, set_seed

from hf_transfer import (
    L2SP,
    AttentionDistillation,
    AttentionTransfer,
    AverageTeacher,
    FixMatch,
    LogitDistillation,
    MultiTask,
    Objective,
    PairSimilarity,
    PrototypicalEpisodes,
    Rule,
    RuleConstraint,
    Task,
    Teacher,
    TransferArguments,
    TransferTrainer,
    mix_domains,
)
from hf_transfer.data.row_index import with_index
from hf_transfer.data.views import TwoViewsCollator
from hf_transfer.distillation.methods import VOCABULARY
from hf_transfer.domain_adaptation.methods import parse_method
from hf_transfer.method_arguments import MethodArguments
from hf_transfer.recipe_arguments import LoopArguments, ModelArguments
from hf_transfer.weights import snapshot, wise_ft
from tests import models
from tests.invariants.run import rows


TASKS = Task("kind", num_labels=models.NUM_LABELS), Task("size", "regression")
METHODS: dict[str, dict[str, Any]] = {
    "plain": {},
    "freeze backbone": {"freeze": "backbone"},
    "freeze gradual": {"freeze": "gradual", "stages": 2},
    "freeze_batch_norm": {"freeze_batch_norm": True},
    "probe_first": {"probe_first": True},
    "transfer_from": {"transfer_from": "source", "transfer_blocks": 1},
    "reinitialize_blocks": {"reinitialize_blocks": 1},
    "l2sp": {"l2sp": 0.1},
    "delta": {"delta": 0.1},
    "bss": {"bss": 0.01},
    "lwf": {"lwf": 1.0},
    "co_tuning": {"co_tuning": 1.0},
    "bi_tuning": {"bi_tuning": 1.0},
    "supervised_contrastive": {"supervised_contrastive": 1.0},
    "r_drop": {"r_drop": 1.0},
    "label_smoothing": {"label_smoothing": 0.1},
    "focal_gamma": {"focal_gamma": 2.0},
    "class_balanced": {"class_balanced": 0.9},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
    "mixout": {"mixout": 0.5},
    "stoch_norm": {"stoch_norm": 0.5},
    "ema": {"ema": 0.9},
    "wise_ft": {"wise_ft": True},
    "layer_decay": {"args": {"layer_decay": 0.8}},
    "slanted_triangular": {"args": {"lr_schedule": "slanted_triangular"}},
    "one_cycle": {"args": {"lr_schedule": "one_cycle"}},
    "many": {
        "l2sp": 0.1,
        "delta": 0.1,
        "supervised_contrastive": 0.1,
        "label_smoothing": 0.1,
        "ema": 0.9,
        "bss": 0.01,
    },
}
DOMAIN_METHODS = (
    "dann cdan mdd wdgrl mcd dan jan dsan coral cmd swd entropy im mcc bnm afn bsp pseudo_labels fixmatch "
    "cdan+mcc+l2sp mdd+dan+rdrop fixmatch+dann+afn"
).split()
"""As `--methods` of the recipe names them."""
DISTILLATION_METHODS = (
    "kd jsd mse ls dkd dist hint pkd at embedding attention rkd sp crd kd+hint+rkd kd+dann+l2sp average rules"
).split()
"""As `--methods` of the recipe names them; and a teacher that is the student's average, and a rule."""
FEW_LABELS_AND_TASKS = {
    "tasks": lambda: [MultiTask(TASKS, weighting="uncertainty")],
    "tasks gradnorm pcgrad": lambda: [MultiTask(TASKS, weighting="gradnorm", surgery="pcgrad"), L2SP(weight=0.1)],
    "protonet": lambda: [PrototypicalEpisodes(n_way=2, k_shot=1, queries=1)],
    "pairs": lambda: [PairSimilarity(), L2SP(weight=0.1)],
}
"""Objectives in place of the task loss."""
EVERY_METHOD = [*METHODS, *DOMAIN_METHODS, *DISTILLATION_METHODS, *FEW_LABELS_AND_TASKS]
HALVES = EVERY_METHOD[::2], EVERY_METHOD[1::2]
"""Each half has text in full on one number of ranks and images under LoRA on the other: all four would take long."""

REFUSED = {
    ("attention", "vision", "any"): "has no attention",
    ("freeze_batch_norm", "text", "any"): "no layer with running statistics",
    ("stoch_norm", "text", "any"): "no batch normalisation with running statistics",
    ("mixup", "text", "any"): "needs images",
    ("cutmix", "text", "any"): "needs images",
    ("reinitialize_blocks", "text", "lora"): "its base layers are frozen, and random ones would stay random",
    ("reinitialize_blocks", "vision", "lora"): "its base layers are frozen, and random ones would stay random",
}
"""Methods that a modality or a way of tuning cannot have, by what the error says."""

STEPS, SAVED = 4, 2


class Interrupt(TrainerCallback):
    """Ends a run without any cleanup of the Trainer, in the middle of a step."""

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == SAVED:
            raise KeyboardInterrupt


def make_model(options: argparse.Namespace) -> Any:
    set_seed(0)
    model = models.tiny_bert() if options.modality == "text" else models.tiny_resnet()
    if options.tuning == "full":
        return model
    if options.modality == "text":
        return models.lora(model, ["query", "value"], "classifier")
    return models.lora(model, ["convolution"], "classifier.1")


def source_of(options: argparse.Namespace) -> str:
    """A pretrained model with a head for five classes of its own."""
    folder = options.out / f"source-{options.rank}"
    if not folder.exists():
        set_seed(1)
        make = models.tiny_bert if options.modality == "text" else models.tiny_resnet
        make(num_labels=5).save_pretrained(folder)
    return str(folder)


def teacher_of(options: argparse.Namespace) -> str:
    """A wider model than the student, trained elsewhere, with its classes."""
    folder = options.out / f"teacher-{options.rank}"
    if not folder.exists():
        set_seed(2)
        text = options.modality == "text"
        teacher = models.tiny_bert(hidden_size=24) if text else models.tiny_resnet(hidden_sizes=[12, 24])
        teacher.save_pretrained(folder)
    return str(folder)


def first_class_where_sure(inputs: Any, probabilities: torch.Tensor) -> torch.Tensor:
    """A rule that holds in part: the first class is right."""
    return probabilities[:, 0]


def distilling(name: str, teacher_folder: str) -> list[Objective]:
    if name == "rules":
        return [RuleConstraint([Rule(first_class_where_sure, confidence=0.7)])]
    if name == "average":
        return [LogitDistillation(AverageTeacher(0.9))]
    teacher = Teacher(teacher_folder)
    if name == "attention":  # the maps themselves need another kernel
        return [AttentionDistillation(teacher, relations=("query", "key", "value"))]
    if name == "at":  # the last maps of the small network are of one pixel
        return [AttentionTransfer(teacher, layers={0: 0})]
    return VOCABULARY.parse(name).objectives(teacher=teacher, num_domains=2)


def trainer_for(name: str, options: argparse.Namespace, folder: Path, *callbacks: TrainerCallback) -> TransferTrainer:
    settings = dict(METHODS.get(name, {}))
    extra = settings.pop("args", {})
    # both before the ranks know of each other: from then on only the first one writes
    source, teacher = source_of(options), teacher_of(options)
    if "transfer_from" in settings:
        settings["transfer_from"] = source
    methods = MethodArguments(**settings)
    model_args = ModelArguments(model_name_or_path=source)
    args = TransferArguments(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_steps=STEPS,
        learning_rate=0.01,
        save_steps=SAVED,
        save_strategy="steps",
        logging_strategy="no",
        report_to="none",
        use_cpu=True,
        ddp_backend="gloo" if options.ranks > 1 else None,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        seed=3,
        **extra,
    )
    image = options.modality == "vision"
    data = rows(24, 0, True, image)
    model = make_model(options)
    batches = [{key: torch.tensor(value) for key, value in data[:12].items()}]
    methods.initialise(model, lambda: batches, replace_loop(folder))
    objectives = methods.objectives(model_args)
    if name in DOMAIN_METHODS:
        objectives = parse_method(name).objectives(num_domains=2)
        data = mix_domains(data, rows(20, 1, False, image))
    if name in DISTILLATION_METHODS:
        objectives = distilling(name, teacher)
        data = with_index(mix_domains(data, rows(20, 1, False, image)))
    if name in FEW_LABELS_AND_TASKS:
        objectives = FEW_LABELS_AND_TASKS[name]()
        data = data.add_column(TASKS[0].column, data["labels"])
        data = data.add_column(TASKS[1].column, [float(label) for label in data["labels"]])
    return TransferTrainer(
        model,
        args,
        train_dataset=data,
        data_collator=two_views if any(isinstance(term, FixMatch) for term in objectives) else None,
        objectives=objectives,
        callbacks=[*methods.callbacks(), *callbacks],
    )


def noise(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A strong view that is the same whenever it is drawn, so that runs can be compared bit for bit."""
    if "pixel_values" in inputs:
        return {"pixel_values": inputs["pixel_values"].flip(-1)}
    return {**inputs, "input_ids": inputs["input_ids"].roll(1, 1)}


two_views = TwoViewsCollator(None, collator=default_data_collator, strong=noise)


def replace_loop(folder: Path) -> LoopArguments:
    return LoopArguments(output_dir=str(folder), use_cpu=True)


def finish(name: str, trainer: TransferTrainer, start: Any) -> None:
    if METHODS.get(name, {}).get("wise_ft"):
        batch = {key: x for key, x in models.batch_for(trainer.model).items() if key != "domain"}

        def evaluate() -> float:
            with torch.no_grad():
                return -trainer.model.eval()(**batch).loss.item()

        wise_ft(trainer.model, start, evaluate, alphas=(0.0, 0.5, 1.0))


def state_of(trainer: TransferTrainer) -> dict[str, torch.Tensor]:
    return {key: value.detach().clone() for key, value in trainer.model.state_dict().items()}


def outcome(name: str, options: argparse.Namespace) -> dict[str, Any]:
    folder = options.out / name.replace(" ", "_")
    straight = trainer_for(name, options, folder / "straight")
    start = snapshot(straight.model)
    straight.train()
    finish(name, straight, start)
    interrupted = trainer_for(name, options, folder / "resumed", Interrupt())
    try:
        interrupted.train()
        return {"error": "the run was not interrupted"}
    except KeyboardInterrupt:
        pass
    resumed = trainer_for(name, options, folder / "resumed")
    start = snapshot(resumed.model)
    resumed.train(resume_from_checkpoint=True)
    finish(name, resumed, start)
    first, second = state_of(straight), state_of(resumed)
    different = [key for key in first if key not in second or not torch.equal(first[key], second[key])]
    moved = any(not torch.equal(first[key], value) for key, value in start.tensors.items() if key in first)
    finite = all(value.isfinite().all() for value in first.values() if value.is_floating_point())
    return {
        "same": not different and len(first) == len(second),
        "different": different[:5],
        "finite": bool(finite),
        "moved": moved,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--half", type=int, choices=[0, 1], required=True)
    parser.add_argument("--modality", choices=["text", "vision"], default="text")
    parser.add_argument("--tuning", choices=["full", "lora"], default="full")
    options = parser.parse_args()
    options.ranks = int(os.environ.get("WORLD_SIZE", 1))
    options.rank = int(os.environ.get("RANK", 0))
    torch.set_num_threads(1)
    gc.freeze()  # the Trainer collects garbage at every start: not of all that was imported
    outcomes = {}
    for name in HALVES[options.half]:
        try:
            outcomes[name] = outcome(name, options)
        except (ValueError, TypeError, RuntimeError) as error:
            outcomes[name] = {"error": f"{type(error).__name__}: {error}"}
    if options.rank == 0:
        (options.out / "outcomes.json").write_text(json.dumps(outcomes, indent=1))


if __name__ == "__main__":
    main()
