"""Contrastive representation distillation (CRD)."""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.data.row_index import INDEX
from hf_transfer.functional.contrastive import unit
from hf_transfer.functional.contrastive_distillation import contrastive_distillation
from hf_transfer.functional.task_loss import UNLABELLED
from hf_transfer.objectives.distillation.memory_bank import MemoryBank, gathered
from hf_transfer.objectives.distillation.taught_rows import teacher_rows
from hf_transfer.objectives.distillation.teacher_objective import TeacherObjective
from hf_transfer.schedules import Schedule
from hf_transfer.source import Source
from hf_transfer.teacher import Teacher


class ContrastiveRepresentation(TeacherObjective):
    r"""
    Contrastive representation distillation (CRD): from the student's view of a row one can tell which row the teacher
    saw, among thousands.

    Let $s_i$ and $t_i$ be the features of student and teacher, each through a linear map and at length 1, and
    $\bar s_j$, $\bar t_j$ what a memory holds of the other rows $N(i)$. The term is

    $$ L = -\frac{1}{B} \sum_{i=1}^{B} \left[
    \log \frac{e^{s_i \cdot t_i / \tau}}{e^{s_i \cdot t_i / \tau} + \sum_{j \in N(i)} e^{s_i \cdot \bar t_j / \tau}}
    + \log \frac{e^{s_i \cdot t_i / \tau}}{e^{s_i \cdot t_i / \tau} + \sum_{j \in N(i)} e^{t_i \cdot \bar s_j / \tau}}
    \right] $$

    Each forward first moves the memory of its rows, $\bar s_i \leftarrow m \bar s_i + (1 - m) s_i$ at length 1, and
    $\bar t_i$ alike. Both maps train; no gradient flows into the memory.

    Rows are told apart by a column `index`; one line adds it: `train_dataset=with_index(dataset)`. So a negative is
    never the row itself, whatever an augmentation made of it.

    Args:
        teacher (`Teacher`, `Source`, `nn.Module`, `str` or path):
            The teacher; its features may be of any width.
        embed_dim (`int`, *optional*, defaults to 128):
            $E$, width of the embeddings; the paper's value.
        bank_size (`int`, *optional*, defaults to 16384):
            $M$, rows the memory holds, which is the largest number of negatives; the paper draws that many. The
            row of number $i$ has the place $i \bmod M$: with more rows than places the memory holds what was seen
            last of each place.
        temperature (`float`, *optional*, defaults to 0.07):
            $\tau$, dimensionless; the paper's value.
        momentum (`float`, *optional*, defaults to 0.5):
            $m$, in [0, 1), dimensionless; the paper's value.
        different_class (`bool`, *optional*, defaults to `True`):
            Whether rows of the same class are no negatives of each other, as in the paper's experiments. Where a row
            has no class (unlabelled, tokens, several labels, regression) all other rows are its negatives.
        teacher_width (`int`, *optional*):
            Width of the teacher's features, where it cannot be read off the teacher.
        weight (`float` or `Schedule`, *optional*, defaults to 0.8):
            Multiplier of the term in the total loss; the paper's value.

    Shape:
        - `batch.features`: `(B, D)`; of tokens, the mean over those that count. Column `index`: `(B,)` integer.
        - the memory: two times `(M, E)` float32 and two times `(M,)` int64 on the model's device and in each
          checkpoint, 17 MB by default; each step copies it and multiplies the rows with all of it.
        - returns: scalar float32, in nats per row; up to $2 \log(1 + M)$ for rows that cannot be told apart.

    Degenerate batches:
        A row without a negative, as a single one at the very start, costs an exact zero with a graph. Needs no labels.

    Deviations from the paper:
        A cross-entropy over the positive and all negatives (InfoNCE, the same bound on the mutual information) instead
        of a noise-contrastive estimate with normalisation constants estimated at the first batch, which depend on that
        batch and overflow where the estimate is small. All other rows in the memory are negatives; none is
        drawn. The positive is what the other model makes of the row now, not what the memory holds, which at first is
        random there. The rows of the batch are in the memory before it is read.

    Raises:
        ValueError: if an option is out of range; at the first batch if there is no column `index`, or it is no integer
            for each row.

    Relations:
        [`SimilarityPreserving`] and [`RelationalDistillation`] relate the rows of one batch and have no state.
        [`EmbeddingDistillation`] asks for the features themselves. On several ranks all rows go into the memory of all
        ranks, so that two ranks are one rank with twice the batch. With accumulation a later micro-batch sees the
        memory as the earlier left it. A resumed run goes on exactly: no random numbers are drawn.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> objective = ContrastiveRepresentation(BertForSequenceClassification(config), bank_size=4, embed_dim=2)
        >>> objective.build(ModelSpec(feature_dim=16, num_labels=3)).bank.student.shape
        torch.Size([4, 2])

    Paper: Tian et al., "Contrastive Representation Distillation", ICLR 2020, https://huggingface.co/papers/1910.10699
    """

    bank: MemoryBank

    def __init__(
        self,
        teacher: Teacher | Source | nn.Module | str | os.PathLike[str],
        *,
        embed_dim: int = 128,
        bank_size: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        different_class: bool = True,
        teacher_width: int | None = None,
        weight: float | Schedule = 0.8,
    ):
        super().__init__(teacher, weight=weight)
        for name, value, least, default in (("embed_dim", embed_dim, 1, 128), ("bank_size", bank_size, 2, 16384)):
            if value < least:
                raise ValueError(
                    f"`{name}={value}`: without {'a dimension' if least == 1 else 'two rows'} to compare there is "
                    f"nothing to contrast. Give at least {least}, such as the default {default}."
                )
        if not temperature > 0:
            raise ValueError(
                f"`temperature={temperature}` is not positive: similarities are divided by it, and a negative one "
                "would drive student and teacher apart. Give a positive number, such as the paper's 0.07."
            )
        if not 0 <= momentum < 1:
            raise ValueError(
                f"`momentum={momentum}` is not in [0, 1): the memory would never move, or away from what it is told. "
                "Give a share to keep, such as the paper's 0.5."
            )
        self.embed_dim = embed_dim
        self.bank_size = bank_size
        self.temperature = temperature
        self.momentum = momentum
        self.different_class = different_class
        self.teacher_width = teacher_width

    def build(self, spec: ModelSpec) -> Self:
        """Make both maps and the empty memory."""
        super().build(spec)
        self.student_projection = nn.Linear(spec.feature_dim, self.embed_dim)
        width = self.teacher_width or self.teacher.anatomy.feature_dim
        self.teacher_projection = nn.Linear(width, self.embed_dim)
        self.bank = MemoryBank(self.bank_size, self.embed_dim)
        return self

    @property
    def optional_columns(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The teacher's, and the numbers of the rows: where they are missing `forward` says how to add them."""
        return (*super().optional_columns, INDEX)

    def forward(self, batch: TransferBatch) -> Tensor:
        """Both contrasts; before them, the rows go into the memory."""
        index = self._index(batch)
        features = teacher_rows(self.taught(batch).features, batch)
        # Objectives that look at several views put them behind the rows there are: those have numbers.
        student = unit(self.student_projection(batch.example_features[: len(index)]))
        teacher = unit(self.teacher_projection(features[: len(index)].to(self.teacher_projection.weight.dtype)))
        labels = self._classes(batch, index)
        if torch.is_grad_enabled():  # a look without gradients changes nothing
            rows = gathered(index, labels, student.detach(), teacher.detach())
            self.bank.put(*rows, momentum=self.momentum)
        candidates = self.bank.negatives(index, labels if self.different_class else None)
        student_keys, teacher_keys = (bank.to(student.dtype) for bank in self.bank.content())
        return contrastive_distillation(student, teacher, student_keys, teacher_keys, candidates, self.temperature)

    def _index(self, batch: TransferBatch) -> Tensor:
        index = batch.columns.get(INDEX)
        if index is None:
            raise ValueError(
                f"ContrastiveRepresentation needs column `{INDEX}`, the number of each row; the batch has "
                f"{', '.join(sorted({*batch.inputs, *batch.columns})) or 'no columns'}. Without it a row could be its "
                "own negative. Add it last, `train_dataset=with_index(dataset)` of `hf_transfer`; a stock `Trainer` "
                "hands it on with `remove_unused_columns=False` only."
            )
        if index.dim() != 1 or len(index) > len(batch.features) or index.is_floating_point() or index.is_complex():
            raise ValueError(
                f"Column `{INDEX}` is {tuple(index.shape)} {str(index.dtype).removeprefix('torch.')} for "
                f"{len(batch.features)} rows: rows are told apart by one integer each. Add it by "
                "`with_index(dataset)` of `hf_transfer`."
            )
        return index.long()

    @staticmethod
    def _classes(batch: TransferBatch, index: Tensor) -> Tensor:
        labels = batch.labels
        if labels is None or labels.dim() != 1 or labels.is_floating_point():
            return torch.full_like(index, UNLABELLED)
        return labels[: len(index)].long()
