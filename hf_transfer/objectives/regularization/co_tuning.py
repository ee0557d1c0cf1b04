"""Supervision by source classes that target classes are translated to (Co-Tuning)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.category_relationship import (
    calibration_temperature,
    direct_relationship,
    reverse_relationship,
)
from hf_transfer.functional.source_knowledge import soft_cross_entropy
from hf_transfer.functional.task_loss import UNLABELLED
from hf_transfer.objective import Objective
from hf_transfer.schedules import Schedule
from hf_transfer.series_models import labels_of
from hf_transfer.source import Source, inputs_of


class CoTuning(Objective):
    r"""
    Co-Tuning: keep the source head and teach it too, with target labels translated to distributions of source classes.

    With a copy $h$ of the source head on the features $f_i$ and the learned relationship $p(y_s | y_t)$ of source and
    target classes, the term over the $N$ labelled rows is

    $$ L = -\frac{1}{N} \sum_{i=1}^{N} \sum_s p(y_s = s | y_t = y_i) \log \operatorname{softmax}(h(f_i))_s $$

    The relationship is learned once, by `fit`, from the predictions $p_i$ of the source model on the training data,
    calibrated by a temperature: *direct*, the mean of $p_i$ over the rows of a target class; or *reverse*, a logistic
    regression from $p_i$ to the target class, turned around by Bayes' rule with the mean of $p_i$ as prior.

    Args:
        source (`Source`, `nn.Module`, `str` or path):
            The source model with its head; of a model given as an object a copy is kept.
        relationship_from (`"direct"` or `"reverse"`, *optional*, defaults to `"direct"`):
            How the relationship is learned. `"reverse"` needs scikit-learn; its regression is calibrated on held-out
            folds of the training data.
        temperature (`float`, *optional*, defaults to 1.0):
            Calibration of the source model (dimensionless): its logits are divided by it. Target data cannot tell it,
            for they have no source labels: measure it on validation data of the *source* task with `calibrate`. The
            authors found 1.13 for ImageNet.
        weight (`float` or `Schedule`, *optional*, defaults to 2.3):
            Strength (dimensionless), as in the authors' experiments.

    Shape:
        - `batch.features`: `(B, D)`, `batch.labels`: `(B,)`; or `(B, T, D)` and `(B, T)`.
        - returns: scalar float32, in nats per labelled row or token; at least the entropy of the relationship.

    Degenerate batches:
        Without a labelled row the term is an exact zero that still depends on `features`.

    Deviations from the paper:
        The reverse way normalises each row of the relationship instead of estimating $p(y_t)$ a second time, and
        validates by folds of the training data instead of a validation set.

    Raises:
        ValueError: if an option is out of range; at attach time if the source has no head for one class a row or for
            these features, or the model in training has none; when fitting if a target class has no row; at the first
            batch if not fitted.

    Relations:
        [`LearningWithoutForgetting`] asks the source about each row and needs no labels, but a forward of the source a
        step; here the source is needed in `fit` only, which costs one forward of the training set.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_labels=5)
        >>> objective = CoTuning(BertForSequenceClassification(config)).build(ModelSpec(feature_dim=8, num_labels=2))
        >>> objective.relationship.shape  # filled by `fit`
        torch.Size([2, 5])

    Paper: You et al., "Co-Tuning for Transfer Learning", NeurIPS 2020, https://proceedings.neurips.cc/paper_files/paper/2020/hash/c8067ad1937f728f51288b3eb986afaa-Abstract.html
    """

    needs_classes = True
    learns_from_data = True
    relationship: Tensor
    source_head: nn.Linear

    def __init__(
        self,
        source: Source | nn.Module | str | os.PathLike[str],
        *,
        relationship_from: Literal["direct", "reverse"] = "direct",
        temperature: float = 1.0,
        weight: float | Schedule = 2.3,
    ):
        super().__init__(weight=weight)
        if relationship_from not in ("direct", "reverse"):
            raise ValueError(
                f'`relationship_from="{relationship_from}"` is no way to learn the relationship of the classes: there '
                'are two. Give "direct" or "reverse".'
            )
        if not temperature > 0:
            raise ValueError(
                f"`temperature={temperature}` is not positive: logits are divided by it. Give a positive number; 1.0 "
                "leaves the predictions as they are."
            )
        self.source = Source.of(source)  # no module: see `Source`
        if self.source.problem_type in ("regression", "multi_label_classification"):
            raise ValueError(
                f"{self.source!r} is made for {self.source.problem_type}: its outputs are no distribution over source "
                "classes, to which target classes could be translated. Give a source with one class a row, or keep "
                "what it knows with `LearningWithoutForgetting` or `DELTA`."
            )
        self.relationship_from = relationship_from
        self.temperature = temperature
        self._fitted = False

    def build(self, spec: ModelSpec) -> Self:
        """Copy the head of the source."""
        problem = getattr(getattr(spec.model, "config", None), "problem_type", None)
        if problem in ("regression", "multi_label_classification") or spec.num_labels < 2:
            raise ValueError(
                f"CoTuning on a model for {problem or 'regression'}: it translates one target class a row to source "
                "classes, and there is none. Use `LearningWithoutForgetting` or `DELTA`, which read no labels."
            )
        self.source_head = self.source.copy_head(spec.feature_dim)
        self.register_buffer("relationship", torch.zeros(spec.num_labels, self.source.num_labels))
        self._fitted = False
        return self

    def calibrate(self, batches: Iterable[Mapping[str, Any]]) -> float:
        """
        Set `temperature` to what fits the source model's predictions best to labelled data of the *source* task.

        Args:
            batches (`Iterable[Mapping]`): collated batches the source was not trained on, with its own `labels`.

        Returns:
            `float`: the temperature.
        """
        logits, labels = self._predictions(batches, self.source.model)
        self.temperature = calibration_temperature(logits, labels)
        return self.temperature

    def fit(self, model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> None:
        """Learn which source classes each target class looks like to the source model."""
        logits, labels = self._predictions(batches, model)
        count = len(self.relationship)
        rows = torch.bincount(labels, minlength=count)
        if len(rows) > count or not rows.all():
            what = (
                f"has labels up to {len(rows) - 1} for {count} classes"
                if len(rows) > count
                else f"has no row of class {', '.join(map(str, (rows == 0).nonzero().flatten().tolist()))}"
            )
            raise ValueError(
                f"The training data {what}: CoTuning learns from the rows of each target class which source classes "
                "it looks like. Add rows, or load the model with a head for the classes there are (`num_labels`)."
            )
        learn = direct_relationship if self.relationship_from == "direct" else reverse_relationship
        probabilities = torch.softmax(logits / self.temperature, -1)
        self.relationship.copy_(learn(probabilities, labels, count))
        self._fitted = True
        self.source.leave_device()  # what follows needs its head alone, of which there is a copy

    def _predictions(self, batches: Iterable[Mapping[str, Any]], model: nn.Module) -> tuple[Tensor, Tensor]:
        """Logits of the source model `(N, C_s)` and labels `(N,)` of all labelled rows, on the CPU."""
        device = self.relationship.device if "relationship" in self._buffers else torch.device("cpu")
        found: list[tuple[Tensor, Tensor]] = []
        for batch in batches:
            labels = labels_of(batch).cpu()
            logits = self.source(inputs_of(model, batch, device)).logits.cpu()
            if logits.shape[:-1] != labels.shape:
                raise ValueError(
                    f"{self.source!r} returns predictions of shape {tuple(logits.shape)} for labels of shape "
                    f"{tuple(labels.shape)}: one is for tokens and the other for whole examples. Give a source for "
                    "the same kind of task."
                )
            labelled = labels != UNLABELLED
            found.append((logits[labelled], labels[labelled]))
        if not found:
            raise ValueError(
                "The training data has no batch: CoTuning cannot learn the relationship of the classes. Give rows "
                "with labels."
            )
        logits, labels = zip(*found, strict=True)
        return torch.cat(logits), torch.cat(labels)

    def forward(self, batch: TransferBatch) -> Tensor:
        """Cross-entropy of the source head's predictions to the source classes of the labels."""
        if not self._fitted:
            raise RuntimeError(
                "CoTuning has not seen the training data: which source classes a target class looks like is not "
                "known. Train with `TransferTrainer`, or call `objective.fit(model, batches)` before the first step."
            )
        assert batch.labels is not None  # `attach` gives them
        labelled = batch.labels != UNLABELLED
        targets = self.relationship[torch.where(labelled, batch.labels, 0)]
        return soft_cross_entropy(self.source_head(batch.features), targets, labelled)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any, **named: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest, **named)
        self._fitted = self._fitted or bool(self.relationship.any())
