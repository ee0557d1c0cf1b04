"""What an objective sees: the model's measurements once at attach time, the tensors of one forward ever after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hf_transfer.anatomy import Anatomy
from hf_transfer.functional.task_loss import UNLABELLED


@dataclass(frozen=True)
class ModelSpec:
    """
    What is known of a model when objectives are attached to it, before any batch.

    Args:
        feature_dim (`int`):
            Width `D` of the features, read off the head of the model.
        num_labels (`int`):
            Number `C` of outputs of the head.
        model (`nn.Module`, *optional*):
            The model itself, for objectives on weights. Never to be stored as an attribute of an objective: it would
            become its child module.
        anatomy (`Anatomy`, *optional*):
            Head, blocks and embeddings of `model`.

    Example:
        >>> ModelSpec(feature_dim=4, num_labels=3).feature_dim
        4
    """

    feature_dim: int
    num_labels: int
    model: nn.Module | None = field(default=None, repr=False, compare=False)
    anatomy: Anatomy | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Rows:
    """
    What a batch predicts, one row per example, or per token of a token classifier. Nothing is left out, so that shapes
    do not depend on the labels: what counts is said by masks.

    Dimensions: `N` rows, which is `B`, or `B * T` for token classification.

    Args:
        features (`Tensor`): `(N, D)` float32.
        logits (`Tensor`): `(N, C)` float32.
        labels (`Tensor`): `(N,)` int64, -100 where there is none.
        domain (`Tensor`, *optional*): `(N,)` int64, of the example for each of its tokens.
        counted (`Tensor`): `(N,)` bool; false for padding.
        labelled (`Tensor`): `(N,)` bool; the row has a label: the source side of class-conditional methods.
        unlabelled (`Tensor`): `(N,)` bool; the row counts and its example has no label at all: their target side.
    """

    features: Tensor
    logits: Tensor
    labels: Tensor
    domain: Tensor | None
    counted: Tensor
    labelled: Tensor
    unlabelled: Tensor


@dataclass(frozen=True)
class TransferBatch:
    """
    One training forward, as the objectives see it. All shapes of the library are documented here, once.

    Dimensions: `B` rows of the micro-batch, `T` tokens, `D` feature width, `C` classes, `K` domains.

    Args:
        features (`Tensor`):
            Input of the head, float32. `(B, D)`; `(B, T, D)` for token classification. Of a forecaster its mean over
            what the head reads one by one: channels, patches or steps.
        logits (`Tensor`, *optional*):
            Output of the model, `(B, C)`; `(B, T, C)` for token classification; the forecast `(B, H, C)` of a horizon
            of `H` steps and `C` channels, or of a distribution its parameters `(B, H, C, P)`; where a model of series
            fills in its own input, what it filled in.
        labels (`Tensor`, *optional*):
            `(B,)`, `(B, T)` for tokens, `(B, C)` for several labels a row. Unlabelled entries are -100. Of a causal
            language model the label of a position is the token behind it: they belong to the logits as they stand. Of
            a forecaster the future `(B, H, C)`, NaN where it is missing; where the input is its own target, None.
        domain (`Tensor`, *optional*):
            `(B,)` int64 in `[0, K)`; 0 is the source.
        attention_mask (`Tensor`, *optional*):
            `(B, T)`, 1 where a token counts.
        progress (`float` or `Tensor`, defaults to 1.0):
            Share of the training that is done, in [0, 1] (dimensionless).
        model (`nn.Module`, *optional*):
            The model in its forward, for objectives on weights.
        columns (`Mapping[str, Tensor]`, *optional*):
            The other columns an objective asked for (`Objective.columns`); each is also an attribute of the batch.
        inputs (`Mapping[str, Any]`, *optional*):
            What the model was called with, without labels and columns, for objectives that call a second model.
        hidden_states (`Mapping[str, Tensor]`, *optional*):
            Outputs of the modules an objective asked for (`Objective.hidden_states`), by module name: `(B, T, D)` for
            transformer blocks, `(B, D, H, W)` for convolutional ones, in the model's dtype.
        attentions (`Mapping[str, Tensor]`, *optional*):
            Attention maps of the layers an objective asked for (`Objective.attentions`), by module name:
            `(B, H, T, T)` for `H` heads, in the model's dtype.

    Example:
        >>> import torch
        >>> batch = TransferBatch(features=torch.zeros(2, 4), columns={"teacher_logits": torch.ones(2, 3)})
        >>> batch.teacher_logits.shape
        torch.Size([2, 3])
    """

    features: Tensor
    logits: Tensor | None = None
    labels: Tensor | None = None
    domain: Tensor | None = None
    attention_mask: Tensor | None = None
    progress: float | Tensor = 1.0
    model: nn.Module | None = None
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    hidden_states: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    attentions: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    def __getattr__(self, name: str) -> Tensor:
        # Only called for names that are no field; `columns` itself is absent while a copy is being unpickled.
        columns = self.__dict__.get("columns", {})
        if name in columns:
            return columns[name]
        raise AttributeError(
            f"The batch has no column `{name}`; it has {', '.join(sorted(columns)) or 'no extra columns'}. An "
            f"objective cannot compute its term without it. Add `{name}` to the data set and name it in `columns` of "
            "the objective."
        )

    @property
    def example_features(self) -> Tensor:
        """`(B, D)`: the features, or for token classification their mean over the tokens that count."""
        if self.features.dim() == 2:
            return self.features
        if self.attention_mask is None or self.attention_mask.shape != self.features.shape[:2]:
            return self.features.mean(1)
        mask = self.attention_mask.to(self.features.dtype).unsqueeze(-1)
        return (self.features * mask).sum(1) / mask.sum(1).clamp(min=1)

    @property
    def rows(self) -> Rows:
        """One row per example, or per token of a token classifier, with masks of what counts."""
        assert self.logits is not None  # `attach` gives it
        labels, domain = self.labels, self.domain
        if labels is None:  # a model that fills in its own input
            labels = torch.full(self.features.shape[:1], UNLABELLED, device=self.features.device)
            return self._series_rows(self.logits, labels, labels != UNLABELLED)
        if self.features.dim() == 2 and self.logits.dim() != 2:  # a forecast
            return self._series_rows(self.logits, labels, (~labels.isnan()).flatten(1).any(1))
        if self.logits.dim() == 2:
            labelled = labels != UNLABELLED
            counted = torch.ones_like(labelled)
            return Rows(self.features, self.logits, labels, domain, counted, labelled, ~labelled)
        tokens = self.logits.shape[:2]
        mask = self.attention_mask
        fits = mask is not None and mask.shape == tokens
        counted = mask.bool() if mask is not None and fits else torch.ones_like(labels, dtype=torch.bool)
        labelled = labels != UNLABELLED
        unlabelled = counted & ~labelled.any(1, keepdim=True)
        return Rows(
            features=self.features.flatten(0, 1),
            logits=self.logits.flatten(0, 1),
            labels=labels.flatten(),
            domain=None if domain is None else domain.unsqueeze(1).expand(tokens).flatten(),
            counted=counted.flatten(),
            labelled=labelled.flatten(),
            unlabelled=unlabelled.flatten(),
        )

    def _series_rows(self, logits: Tensor, labels: Tensor, labelled: Tensor) -> Rows:
        return Rows(
            self.features, logits, labels, self.domain, torch.ones_like(labelled), labelled, unlabelled=~labelled
        )
