"""Regularised dropout (R-Drop)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.consistency import squared_difference, symmetric_bernoulli_kl, symmetric_kl
from hf_transfer.objective import Objective
from hf_transfer.schedules import Schedule
from hf_transfer.series_models import predicts_values


logger = logging.get_logger(__name__)


class RDrop(Objective):
    r"""
    Regularised dropout (R-Drop): two passes with different dropout should predict the same.

    Every batch goes through the model twice, $[x; x]$. With the predictions $P_1$ and $P_2$ of the two passes

    $$ L = \frac{1}{B} \sum_{i=1}^{B} \tfrac{1}{2} \left( KL(P_1(x_i) \Vert P_2(x_i)) + KL(P_2(x_i) \Vert P_1(x_i))
    \right) $$

    and the task loss is the mean over both passes.

    Args:
        weight (`float` or `Schedule`, *optional*, defaults to 0.5):
            Multiplier of the term (dimensionless). The paper adds up the task losses of the two passes, here they are
            averaged: its $\alpha$ is twice this weight. The default is its $\alpha = 1$.

    Shape:
        - every input whose first dimension is that of `labels` is doubled; the others stay as they are.
        - `batch.logits`: `(2B, C)`, or `(2B, T, C)` for token classification, where every token counts that
          `attention_mask` counts.
        - returns: scalar float32, in nats per row or token; for several labels a row, which are independent
          Bernoulli variables, in nats per label; for a regression the squared difference of the two passes.

    Degenerate batches:
        Needs no label: unlabelled rows count. Exactly zero for a model without dropout, which is warned of once.

    Deviations from the paper:
        A regression has no distribution: the squared difference takes the place of the divergence.

    Raises:
        ValueError: at the first batch if the number of rows is odd, as it is when the inputs were not doubled.

    Relations:
        Doubles the time and the memory of a step. Evaluation is untouched. Needs dropout in the model: set
        `hidden_dropout_prob` and its like ([`Mixout`] does not do: both passes go through the same weights).
        Objectives on features see both passes: the second is another positive for [`SupervisedContrastive`]. List
        [`Mixup`] and [`CutMix`] before it, so that both passes see the same mixture.

    Example:
        >>> import torch
        >>> sorted(RDrop().transform({"input_ids": torch.ones(2, 5), "labels": torch.tensor([0, 1])}))
        ['dropout_pass', 'input_ids', 'labels']
        >>> logits = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
        >>> RDrop()(TransferBatch(features=torch.zeros(2, 4), logits=logits)).item()
        0.0

    Paper: Liang et al., "R-Drop: Regularized Dropout for Neural Networks", NeurIPS 2021, https://huggingface.co/papers/2106.14448
    """

    # 0 in the rows of the first pass, 1 in those of the second; made by `transform`, so that others can tell.
    columns = ("dropout_pass",)
    alters_rows = False

    def __init__(self, *, weight: float | Schedule = 0.5):
        super().__init__(weight=weight)
        self._outputs = ""
        self._dropout_checked = False

    def build(self, spec: ModelSpec) -> Self:
        """See what the outputs of the model mean."""
        problem = getattr(getattr(spec.model, "config", None), "problem_type", None)
        self._outputs = problem or ("regression" if spec.num_labels == 1 or predicts_values(spec.model) else "")
        self._dropout_checked = False
        return self

    def transform(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The batch twice, one behind the other."""
        given = inputs["past_values"] if "labels" not in inputs else inputs["labels"]  # of a reconstruction
        rows = len(given)
        doubled = {
            name: torch.cat([value, value])
            if isinstance(value, Tensor) and value.dim() > 0 and len(value) == rows
            else value
            for name, value in inputs.items()
        }
        if doubled.get("num_items_in_batch") is not None:
            # The stock Trainer has the model divide its loss by this number, which counts the rows once.
            doubled["num_items_in_batch"] = 2 * doubled["num_items_in_batch"]
        passes = torch.arange(2, device=given.device).repeat_interleave(rows)
        return {**doubled, "dropout_pass": passes}

    def forward(self, batch: TransferBatch) -> Tensor:
        """The symmetric divergence of the two passes."""
        assert batch.logits is not None  # `attach` gives it
        if len(batch.logits) % 2:
            raise ValueError(
                f"RDrop got {len(batch.logits)} rows, which are not two passes over the same ones: it compares the "
                "first half with the second. Attach it to the model with `attach`, which doubles the inputs."
            )
        self._check_dropout(batch.features)
        first, second = batch.logits.chunk(2)
        losses = self._divergence(first, second, batch.labels)
        mask = batch.attention_mask
        if losses.dim() > 1 and mask is not None and mask.shape == (2 * len(losses), losses.shape[1]):
            counted = mask[: len(losses)].to(losses.dtype)
            return (losses * counted).sum() / counted.sum().clamp(min=1)
        return losses.mean()

    def _divergence(self, first: Tensor, second: Tensor, labels: Tensor | None) -> Tensor:
        if self._outputs == "regression":
            return squared_difference(first, second)
        multi_label = labels is not None and labels.dim() == 2 and labels.shape[1:] == first.shape[1:]
        if multi_label or self._outputs == "multi_label_classification":
            return symmetric_bernoulli_kl(first, second)
        return symmetric_kl(first, second)

    def _check_dropout(self, features: Tensor) -> None:
        # Of the features, and once: a new head of zeros makes equal predictions of different features, and reading
        # values back waits for the device.
        if self._dropout_checked or torch.compiler.is_compiling():
            return
        self._dropout_checked = True
        first, second = features.chunk(2)
        if torch.equal(first, second):
            logger.warning_once(
                "RDrop finds both passes equal: the model has no dropout, and the term is always zero at twice the "
                "cost. Load the model with dropout, such as `hidden_dropout_prob=0.1`, or leave RDrop out."
            )
