"""Distillation of the source model's own predictions (LwF)."""

from __future__ import annotations

import os

from torch import Tensor, nn
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.distillation import distillation
from hf_transfer.objective import Objective
from hf_transfer.schedules import Schedule
from hf_transfer.source import Source


class LearningWithoutForgetting(Objective):
    r"""
    Learning without forgetting (LwF): on the new data, go on predicting for the source classes what the source did.

    With the source model's logits $s_i$ and a copy $h$ of its head on the features $f_i$ of the model in training, the
    term is

    $$ L = \frac{T^2}{B} \sum_{i=1}^{B} \operatorname{KL}\big(\operatorname{softmax}(s_i / T) \,\Vert\,
    \operatorname{softmax}(h(f_i) / T)\big) $$

    $h$ trains along. Where the source has several labels a row, each is a yes or no of its own and the divergences of
    a row are summed.

    Args:
        source (`Source`, `nn.Module`, `str` or path):
            The source model with its head; of a model given as an object a copy is kept.
        temperature (`float`, *optional*, defaults to 2.0):
            $T$, dimensionless; 2 as in the paper.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Strength (dimensionless); 1 as in the paper, more keeps more of the source task.

    Shape:
        - `batch.features`: `(B, D)`, or `(B, T, D)` where the source classifies tokens too; `batch.inputs`, which the
          source sees as well. No labels are read.
        - returns: scalar float32, in nats per row or token; zero while features and head are the source's.

    Degenerate batches:
        One row is enough. Where no token counts the term is an exact zero that still depends on `features`.

    Deviations from the paper:
        A divergence instead of a cross-entropy: the same gradient, and zero at the start. Times $T^2$, so that the
        weight means the same at every temperature. No warm-up of the new head: use `UnfreezingSchedule` for one. The
        source's predictions are computed in each step and not once, because inputs are augmented.

    Raises:
        ValueError: if the temperature is not positive, or the source is a regression; at attach time if it has no
            head, or one for features of another width; at the first batch if only one of the two models classifies
            tokens, or the source does not take the inputs.

    Relations:
        [`CoTuning`] translates target labels to source classes where this term asks the source about each row.
        [`DELTA`] holds feature maps and needs no source head. The source costs one forward a step and its memory.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_labels=5)
        >>> objective = LearningWithoutForgetting(BertForSequenceClassification(config))
        >>> objective.build(ModelSpec(feature_dim=8, num_labels=3)).source_head
        Linear(in_features=8, out_features=5, bias=True)

    Paper: Li and Hoiem, "Learning without Forgetting", ECCV 2016, https://huggingface.co/papers/1606.09282
    """

    needs_classes = True
    source_head: nn.Linear

    reads_inputs = True

    def __init__(
        self,
        source: Source | nn.Module | str | os.PathLike[str],
        *,
        temperature: float = 2.0,
        weight: float | Schedule = 1.0,
    ):
        super().__init__(weight=weight)
        if not temperature > 0:
            raise ValueError(
                f"`temperature={temperature}` is not positive: logits are divided by it. Give a positive number, such "
                "as the paper's 2.0."
            )
        self.source = Source.of(source)  # no module: see `Source`
        if self.source.problem_type == "regression":
            raise ValueError(
                f"{self.source!r} is a regression: it predicts no distribution that could be kept. Give a classifier, "
                "or hold its feature maps with `DELTA`."
            )
        self.temperature = temperature

    def build(self, spec: ModelSpec) -> Self:
        """Copy the head of the source."""
        self.source_head = self.source.copy_head(spec.feature_dim)
        return self

    def forward(self, batch: TransferBatch) -> Tensor:
        """The divergence of the source head's predictions from those of the source model."""
        target = self.source(batch.inputs).logits
        logits = self.source_head(batch.features)
        if logits.shape != target.shape:
            raise ValueError(
                f"{self.source!r} returns predictions of shape {tuple(target.shape)}, the features of the model in "
                f"training give {tuple(logits.shape)}: one classifies tokens and the other whole examples. Give a "
                "source for the same kind of task."
            )
        mask = batch.attention_mask
        if mask is not None and mask.shape != logits.shape[:-1]:
            mask = None  # one prediction an example: padding is the model's business
        multi_label = self.source.problem_type == "multi_label_classification"
        return distillation(logits, target, temperature=self.temperature, mask=mask, multi_label=multi_label)
