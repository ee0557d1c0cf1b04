"""Distillation of a teacher's predictions (KD): softened distributions, raw logits, or both directions mixed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal, TypeAlias

from torch import Tensor, nn

from hf_transfer.batch import TransferBatch
from hf_transfer.functional.distillation import distillation, logit_error
from hf_transfer.objectives.distillation.predictions import (
    ChosenRows,
    PredictionObjective,
    check_choice,
    check_temperature,
)
from hf_transfer.schedules import Schedule
from hf_transfer.source import Source
from hf_transfer.teacher import Teacher


Divergence: TypeAlias = Literal["kl", "mse", "jsd"]


class LogitDistillation(PredictionObjective):
    r"""
    Knowledge distillation (KD): predict for each row what the teacher predicts, also about the classes that are wrong.

    With student logits $z_i$, teacher logits $t_i$ and temperature $T$, the term is

    $$ L = \frac{T^2}{B} \sum_{i=1}^{B} \operatorname{KL}\big(\operatorname{softmax}(t_i / T) \,\Vert\,
    \operatorname{softmax}(z_i / T)\big) $$

    Its gradient with respect to $z_i$ is $T (p_i - q_i) / B$ for the softened probabilities $p$ of the student and $q$
    of the teacher: it keeps its size at every temperature. Labels are not read; rows without one count like the
    others, so a data set with all labels -100 gives pure distillation.

    The usual sum $a \, \text{CE} + (1 - a) \, T^2 \operatorname{KL}$ is $a$ times the task loss plus this term with
    `weight` $(1 - a) / a$: 1 for $a = 0.5$, 9 for $a = 0.1$. The factor $a$ over all is one of the learning rate, and
    Adam does not see it.

    - Several labels a row: each class is a yes or no of its own, and the divergences of a row are summed.
    - Regression, and any model with one output unless it has `problem_type="multi_label_classification"`: the mean
      squared difference of the values, without a temperature, because a softmax over one value is always 1.
    - Token classification: a row is a token with `attention_mask`.
    - Causal language models: a row is a token behind which there is another (by `attention_mask`), whose prediction is
      that next token. `rows="labelled"` counts the tokens whose next one has a label, the completions of a data set
      with masked prompts. Decoders that classify whole texts have one row a text.

    Args:
        teacher (`Teacher`, `Source`, `nn.Module`, `str` or path):
            The model to learn from. Give one [`Teacher`] to several objectives: it then runs once per batch for all.
        temperature (`float`, *optional*, defaults to 2.0):
            $T$, dimensionless. The paper tries 1 to 20; 2 to 4 are usual. Not used by `"mse"`.
        divergence (`"kl"`, `"mse"` or `"jsd"`, *optional*, defaults to `"kl"`):
            `"kl"` as above. `"mse"`: $\frac{1}{B C} \sum (z - t)^2$ on the logits themselves, the limit of high
            temperatures but for their means. `"jsd"`: the generalised Jensen-Shannon divergence, times $T^2$.
        beta (`float`, *optional*, defaults to 0.5):
            Of `"jsd"`, in [0, 1] (dimensionless): share of the teacher in the mixture. 0 is `"kl"`, which covers all
            the teacher thinks possible; 1 is the divergence the other way round, which settles on what it thinks
            likely.
        rows (`"all"`, `"labelled"` or `"unlabelled"`, *optional*, defaults to `"all"`):
            Which rows count. `"unlabelled"` in a mixed data set: the target is taught by the teacher, the source by
            its labels.
        domains (`Sequence[int]`, *optional*):
            Only rows of these domains count, `(1,)` for the target: cross-domain distillation. Reads column `domain`.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Strength (dimensionless); $(1 - a) / a$ of the usual sum.

    Shape:
        - `batch.logits`: `(B, C)`, or `(B, T, C)` for tokens, float32; `batch.inputs`, which the teacher sees as well.
        - returns: scalar float32, in nats per row (squared logits for `"mse"` and regression); zero where student and
          teacher agree.

    Degenerate batches:
        One row is enough. Where no row counts the term is an exact zero that still depends on `logits`.

    Deviations from the paper:
        A divergence instead of a cross-entropy: the same gradient, and zero at the teacher. `"mse"` is the mean over
        classes where Kim et al. (2021) sum. `"jsd"` at 0 and 1 is the limit divided by $\beta$ or $1 - \beta$, so that
        the ends do not vanish.

    Raises:
        ValueError: if the temperature is not positive, `divergence` or `rows` is no choice, `beta` is outside [0, 1]
            or `domains` is empty; at attach time for an encoder-decoder language model; at the first batch if the
            predictions differ in shape, or `domain` is missing.

    Relations:
        [`DecoupledDistillation`] weighs the wrong classes by themselves, [`LogitStandardization`] frees the student of
        the teacher's scale, [`DIST`] asks for correlation only. [`LearningWithoutForgetting`] keeps the predictions
        for the classes of the source model instead.

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> teacher = BertForSequenceClassification(config)
        >>> objective = LogitDistillation(teacher, temperature=4.0)
        >>> inputs = {"input_ids": torch.ones(2, 3, dtype=torch.long)}
        >>> with torch.no_grad():
        ...     logits = teacher.eval()(**inputs).logits
        >>> objective(TransferBatch(features=torch.zeros(2, 8), logits=logits, inputs=inputs)).item()
        0.0

    Paper: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, https://huggingface.co/papers/1503.02531
    """

    def __init__(
        self,
        teacher: Teacher | Source | nn.Module | str | os.PathLike[str],
        *,
        temperature: float = 2.0,
        divergence: Divergence = "kl",
        beta: float = 0.5,
        rows: ChosenRows = "all",
        domains: Sequence[int] | None = None,
        weight: float | Schedule = 1.0,
    ):
        super().__init__(teacher, rows=rows, domains=domains, weight=weight)
        check_choice("divergence", divergence, ("kl", "mse", "jsd"))
        if not 0 <= beta <= 1:
            raise ValueError(
                f"`beta={beta}` is outside [0, 1]: it is the share of the teacher in a mixture of two distributions. "
                "Give 0.5 for the symmetric divergence, 0 for KL(teacher||student), 1 for KL(student||teacher)."
            )
        self.temperature = check_temperature(temperature)
        self.divergence = divergence
        self.beta = beta

    def forward(self, batch: TransferBatch) -> Tensor:
        """How far the student's predictions are from the teacher's."""
        found = self.predictions(batch)
        if found.regression or self.divergence == "mse":
            return logit_error(found.student, found.teacher, found.counted)
        return distillation(
            found.student,
            found.teacher,
            temperature=self.temperature,
            beta=self.beta if self.divergence == "jsd" else None,
            mask=found.counted,
            multi_label=found.multi_label,
        )
