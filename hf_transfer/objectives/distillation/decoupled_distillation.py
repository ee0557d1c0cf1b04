"""Distillation with the target class and the other classes weighed by themselves (DKD)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from hf_transfer.batch import TransferBatch
from hf_transfer.functional.decoupled import decoupled_distillation
from hf_transfer.objectives.distillation.predictions import PredictionObjective, check_choice, check_temperature
from hf_transfer.schedules import Schedule
from hf_transfer.source import Source
from hf_transfer.teacher import Teacher


class DecoupledDistillation(PredictionObjective):
    r"""
    Decoupled knowledge distillation (DKD): what the teacher knows of the wrong classes counts however sure it is.

    For target class $t$ of a row and softened probabilities $q$ of the teacher and $p$ of the student,

    $$ L = \frac{T^2}{B} \sum_{i=1}^{B} \Big[ \alpha \operatorname{KL}\big((q_t, 1 - q_t) \,\Vert\, (p_t, 1 - p_t)\big)
    + \beta \operatorname{KL}(\hat q \,\Vert\, \hat p) \Big] $$

    where $\hat q_c = q_c / (1 - q_t)$ is the distribution over the $C - 1$ other classes. The plain divergence is the
    same sum with $\alpha = 1$ and $\beta = 1 - q_t$: there, a teacher that is sure of a row says nothing more of it.

    Args:
        teacher (`Teacher`, `Source`, `nn.Module`, `str` or path):
            As for [`LogitDistillation`].
        alpha (`float`, *optional*, defaults to 1.0):
            Weight of the target part (dimensionless), as in the paper.
        beta (`float`, *optional*, defaults to 8.0):
            Weight of the other classes (dimensionless). The paper has 1 to 8, more where the teacher is surer.
        temperature (`float`, *optional*, defaults to 4.0):
            $T$, dimensionless; the paper's for CIFAR-100, and 1 for ImageNet.
        target (`"label"` or `"teacher"`, *optional*, defaults to `"label"`):
            The target class of rows without a label: `"label"` leaves these rows out, `"teacher"` takes the class that
            the teacher thinks likeliest.
        domains (`Sequence[int]`, *optional*):
            Only rows of these domains count. Reads column `domain`.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Strength (dimensionless). The paper raises it in a straight line over the first 20 of 240 epochs. How long
            a training is cannot be known here: `weight=warmup(gamma=24.0)` is close to it.

    Shape:
        - `batch.logits`: `(B, C)`, or `(B, T, C)` for tokens, float32; `batch.labels`; `batch.inputs`, which the
          teacher sees as well. The target of a position of a causal language model is the next token.
        - returns: scalar float32, in nats per row that counts; zero where student and teacher agree.

    Degenerate batches:
        Where no row counts the term is an exact zero that still depends on `logits`. With two classes there is one
        other class, and only the target part is left: $T^2 \operatorname{KL}$ times $\alpha$.

    Deviations from the paper:
        Both parts are computed in log space from the logits of the classes they are about, where the paper's code
        subtracts 1000 from the target's. No warm-up unless `weight` is a schedule.

    Raises:
        ValueError: if the temperature is not positive, `target` is no choice, `alpha` or `beta` is negative or both
            are zero; at attach time for a regression or fewer than two classes, or an encoder-decoder language model;
            at the first batch for several labels a row, if the predictions differ in shape, or `domain` is missing.

    Relations:
        [`LogitDistillation`] needs no target class and takes any kind of prediction. [`DIST`] is another way to make a
        sure teacher tell more.

    Example:
        >>> import torch
        >>> from hf_transfer import ModelSpec
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(
        ...     vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_labels=3
        ... )
        >>> teacher = BertForSequenceClassification(config)
        >>> objective = DecoupledDistillation(teacher).build(ModelSpec(feature_dim=8, num_labels=3))
        >>> inputs = {"input_ids": torch.ones(2, 3, dtype=torch.long)}
        >>> with torch.no_grad():
        ...     logits = teacher.eval()(**inputs).logits
        >>> batch = {"features": torch.zeros(2, 8), "logits": logits, "labels": torch.tensor([2, -100])}
        >>> objective(TransferBatch(**batch, inputs=inputs)).item()
        0.0

    Paper: Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, https://huggingface.co/papers/2203.08679
    """

    needs_classes = True
    least_classes = 2

    def __init__(
        self,
        teacher: Teacher | Source | nn.Module | str | os.PathLike[str],
        *,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        target: Literal["label", "teacher"] = "label",
        domains: Sequence[int] | None = None,
        weight: float | Schedule = 1.0,
    ):
        check_choice("target", target, ("label", "teacher"))
        super().__init__(teacher, rows="labelled" if target == "label" else "all", domains=domains, weight=weight)
        if alpha < 0 or beta < 0 or alpha == beta == 0:
            raise ValueError(
                f"`alpha={alpha}` and `beta={beta}` leave nothing to learn, or reward being wrong: they weigh the two "
                "parts of a divergence. Give numbers that are not negative, such as the paper's 1.0 and 8.0."
            )
        self.alpha = alpha
        self.beta = beta
        self.temperature = check_temperature(temperature)
        self.target = target

    def forward(self, batch: TransferBatch) -> Tensor:
        """The two weighed divergences."""
        found = self.predictions(batch)
        # Also in the rows that are left out: the class must be one.
        target = torch.where(found.labelled, found.labels, found.teacher.argmax(-1))
        return decoupled_distillation(
            found.student,
            found.teacher,
            target,
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.temperature,
            mask=found.counted,
        )
