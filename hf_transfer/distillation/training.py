"""One run of a comparison: a student trained alone or with its teacher, scored and saved."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from hf_transfer.data.loading import TransferData
from hf_transfer.data.row_index import with_index
from hf_transfer.distillation.arguments import DistillationLoopArguments
from hf_transfer.distillation.methods import Method
from hf_transfer.distillation.rows import Rows
from hf_transfer.metrics import compute_metrics_for
from hf_transfer.model_card.recipes import keep_facts
from hf_transfer.objectives.distillation.contrastive_representation import ContrastiveRepresentation
from hf_transfer.recipe import score
from hf_transfer.teacher import Teacher
from hf_transfer.trainer import TransferTrainer


__all__ = ["Run"]


class Run:
    """
    The training of one student by one method.

    Every run has the same steps, and as many labelled rows in each batch; with unlabelled data, runs with the teacher
    have as many of these beside them.

    Args:
        method (`Method`): how it learns.
        data (`TransferData`): what it is to tell.
        rows (`Rows`): on what.
        teacher (`Teacher`): whom its terms ask.
        student (`nn.Module`): it is trained.
        processor (`PreTrainedTokenizerBase` or `BaseImageProcessor`): the student's, saved beside it.
        args (`DistillationLoopArguments`): the loop, with folder and seed of this run; it is changed.
    """

    def __init__(
        self,
        method: Method,
        data: TransferData,
        rows: Rows,
        teacher: Teacher,
        student: nn.Module,
        processor: Any,
        args: DistillationLoopArguments,
    ):
        self.rows = rows
        taught = method.asks_teacher or method.needs_domains
        if rows.domains > 1:
            args.max_steps = rows.steps(args)
            args.per_device_train_batch_size *= rows.domains if taught else 1
        objectives = method.objectives(teacher=teacher, num_domains=rows.domains)
        train: Any = rows.taught if taught else rows.labelled
        if any(isinstance(objective, ContrastiveRepresentation) for objective in objectives):
            train = with_index(train)
        self.trainer = TransferTrainer(
            student,
            args,
            train_dataset=train,
            eval_dataset=cast(Any, rows.splits["eval"]),
            processing_class=processor,
            data_collator=rows.collate,
            compute_metrics=compute_metrics_for(data.task, data.label_names),
            objectives=objectives,
        )

    def train(self) -> dict[str, float]:
        """Train, keep the epoch that validates best, score it on every split and save it."""
        result = self.trainer.train()
        self.trainer.save_metrics("train", result.metrics)
        scores: dict[str, float] = {}
        for name, split in self.rows.splits.items():
            scores |= score(self.trainer, split, name)
        self.trainer.save_model()
        keep_facts(self.trainer)
        return scores
