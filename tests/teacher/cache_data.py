"""What the tests of the cache of a teacher share: a plain objective, data of every kind, and a run of a trainer."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F
from transformers import default_data_collator

from hf_transfer import TransferArguments, TransferTrainer
from hf_transfer.objectives.distillation.teacher_objective import TeacherObjective
from hf_transfer.teacher.collator import TeacherCollator
from tests.features.extraction.extraction_data import inputs_for
from tests.models import TINY


__all__ = ["KIND", "PlainDistillation", "data_for", "student_after"]

KIND = {"bert": {"num_hidden_layers": 1}, "token_bert": {"num_hidden_layers": 1}, "vit": {}, "resnet": {}}


class PlainDistillation(TeacherObjective):
    """Cross-entropy to the teacher's distribution over every row or token that counts."""

    reads_teacher_logits = True

    def forward(self, batch: Any) -> Tensor:
        said = self.taught(batch)
        losses = F.cross_entropy(batch.logits.flatten(0, -2), said.logits.flatten(0, -2).softmax(-1), reduction="none")
        return (losses * batch.rows.counted).mean()


def data_for(kind: str, rows: int = 24) -> Dataset:
    """Rows of one size, text of differing lengths padded to nine tokens."""
    data = inputs_for(TINY[kind](), rows, padded="right")
    return data.remove_columns("domain")


def student_after(
    kind: str, teacher: Any, data: Dataset, folder: Any, *, objective: Any = PlainDistillation, epochs: int = 2
) -> dict[str, Tensor]:
    """The weights of a student after some epochs of shuffled batches of eight."""
    torch.manual_seed(1)
    student = TINY[kind](**KIND[kind])
    trainer = TransferTrainer(
        student,  # type: ignore[arg-type]
        TransferArguments(
            output_dir=str(folder),
            num_train_epochs=epochs,
            per_device_train_batch_size=8,
            learning_rate=1e-2,
            use_cpu=True,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=data,
        data_collator=TeacherCollator(default_data_collator),
        objectives=[objective(teacher)],
    )
    trainer.train()
    return {name: value.detach().clone() for name, value in student.state_dict().items()}
