"""Bi-tuning."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.contrastive import contrast, unit
from hf_transfer.functional.fingerprint import whole
from hf_transfer.functional.task_loss import UNLABELLED
from hf_transfer.objective import Objective
from hf_transfer.objectives.regularization.class_queues import ClassQueues
from hf_transfer.objectives.regularization.labelled_features import check_one_label_a_row, labelled_features
from hf_transfer.schedules import Schedule


class BiTuning(Objective):
    r"""
    Bi-tuning: contrast rows with queues of every class, on the side of the classifier and through a projection.

    Let $h$ be the features with a 1 behind them, $w_c$ the weights of class $c$ in the head with its bias behind them,
    $z$ the projected features, all of length 1. The keys $A(i)$ of a labelled row $i$ are the last features of each
    class and the other rows of the batch; $P(i)$ are those of its class. The term is

    $$ L = \frac{1}{N} \sum_{i=1}^{N} \left( CCE_i + CCL_i \right) $$

    $$ CCE_i = -\frac{1}{|P(i)| + 1} \sum_{p \in P(i) \cup \{i\}} \log
    \frac{\exp(w_{y_i} \cdot h_p / \tau)}{\sum_{a \in A(i) \cup \{i\}} \exp(w_{y_i} \cdot h_a / \tau)} $$

    $$ CCL_i = -\frac{1}{|P(i)|} \sum_{p \in P(i)} \log
    \frac{\exp(z_i \cdot z_p / \tau)}{\sum_{a \in A(i)} \exp(z_i \cdot z_a / \tau)} $$

    the contrastive cross-entropy and the categorical contrastive loss. No gradient flows into keys.

    Args:
        queue_length (`int`, *optional*, defaults to 40):
            $K$, features kept of each class; the authors' value.
        projection (`int`, *optional*, defaults to 128):
            Width of $z$, a linear map of the features; the authors' value.
        temperature (`float`, *optional*, defaults to 0.07):
            $\tau$ (dimensionless); the paper's value.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Multiplier of both parts in the total loss.

    Shape:
        - `batch.features`: `(B, D)` float32; for token classification every labelled token is a row.
        - `batch.labels`: `(B,)` or `(B, T)` int64.
        - `batch.model`: the attached model, for the weights of its head.
        - queues: `(C, K, D)` float32 on the model's device.
        - returns: scalar float32, in nats per labelled row.

    Degenerate batches:
        Unlabelled rows are left out. A row without a key of its class, as at the start, has no CCL; without any key
        no CCE either. Without a labelled row the term is an exact zero that still depends on the features.

    Deviations from the paper:
        The keys are the model's own earlier features, not those of a second encoder that follows it slowly: no second
        copy of the model on the device. A row's own features are therefore no positive in CCL, where they would be
        the row itself. The queues keep features, projected anew in each step, in place of projections.

    Raises:
        ValueError: if `queue_length` or `projection` is below 1, or `temperature` is not positive; at attach time or
            at the first batch for a regression or several labels a row.

    Relations:
        [`SupervisedContrastive`] has no state and suffices where a batch holds several rows of most classes. Every
        forward with gradients puts its rows into the queues, so with accumulation a later micro-batch sees the rows
        of an earlier one. On several ranks all rows go into the queues of all ranks, in the order of the ranks. The
        queues are in the checkpoint, and a resumed run goes on exactly.

    Example:
        >>> BiTuning().config()
        {'queue_length': 40, 'projection': 128, 'temperature': 0.07, 'weight': 1.0}

    Paper: Zhong et al., "Bi-tuning of Pre-trained Representations", 2020, https://huggingface.co/papers/2011.06182
    """

    needs_classes = True

    def __init__(
        self,
        *,
        queue_length: int = 40,
        projection: int = 128,
        temperature: float = 0.07,
        weight: float | Schedule = 1.0,
    ):
        super().__init__(weight=weight)
        for name, value in (("queue_length", queue_length), ("projection", projection)):
            if value < 1:
                raise ValueError(
                    f"`{name}={value}`: without keys or without a dimension to compare them in there is nothing to "
                    f"contrast. Give a positive number, such as the default {40 if name == 'queue_length' else 128}."
                )
        if temperature <= 0:
            raise ValueError(
                f"`temperature={temperature}`: similarities are divided by it, and a negative one would drive rows of "
                "a class apart. Give a positive number, such as the default 0.07."
            )
        self.queue_length = queue_length
        self.projection = projection
        self.temperature = temperature

    def build(self, spec: ModelSpec) -> Self:
        """Make the projection and the empty queues."""
        check_one_label_a_row(type(self).__name__, spec)
        self._head = spec.anatomy.head if spec.anatomy is not None else ""
        self.projector = nn.Linear(spec.feature_dim, self.projection)
        self.queues = ClassQueues(spec.num_labels, self.queue_length, spec.feature_dim)
        return self

    def forward(self, batch: TransferBatch) -> Tensor:
        """Both contrastive losses; afterwards the rows are in the queues."""
        assert batch.model is not None  # `attach` gives it
        features, labels = labelled_features(type(self).__name__, batch)
        queued, queued_labels = self.queues.content()
        keys = torch.cat([features.detach(), queued.to(features.dtype)])
        key_labels = torch.cat([labels, queued_labels])
        row, key = (torch.arange(len(x), device=x.device) for x in (labels, key_labels))
        labelled = labels != UNLABELLED
        candidates = labelled.unsqueeze(1) & (key_labels != UNLABELLED) & (row.unsqueeze(1) != key)
        positives = labels.unsqueeze(1) == key_labels

        losses = self._by_classifier(batch.model, features, labels, keys, positives, candidates)
        losses = losses + self._by_projection(features, keys, positives, candidates)
        if torch.is_grad_enabled():  # a look without gradients changes nothing
            self.queues.put(*self.queues.gathered(features.detach(), labels))
        return (losses * labelled).sum() / labelled.sum().clamp(min=1)

    def _by_classifier(
        self, model: nn.Module, features: Tensor, labels: Tensor, keys: Tensor, positives: Tensor, candidates: Tensor
    ) -> Tensor:
        head: Any = model.get_submodule(self._head)
        weights, bias = _head_weight(head).to(features.dtype), head.bias
        if bias is not None:
            weights = torch.cat([weights, whole(bias).to(features.dtype).unsqueeze(-1)], dim=-1)
            features, keys = (torch.cat([rows, rows.new_ones(len(rows), 1)], dim=-1) for rows in (features, keys))
        of_class = unit(weights)[labels.clamp(min=0)]
        own = (of_class * unit(features)).sum(-1, keepdim=True)
        similarities = torch.cat([own, of_class @ unit(keys).mT], dim=-1) / self.temperature
        labelled = (labels != UNLABELLED).unsqueeze(-1)
        return contrast(similarities, torch.cat([labelled, positives], -1), torch.cat([labelled, candidates], -1))

    def _by_projection(self, features: Tensor, keys: Tensor, positives: Tensor, candidates: Tensor) -> Tensor:
        with torch.no_grad():
            projected_keys = unit(self.projector(keys))
        projected = unit(self.projector(features))
        return contrast(projected @ projected_keys.mT / self.temperature, positives, candidates)


def _head_weight(head: Any) -> Tensor:
    """`(C, D)`: the weight in effect, also where LoRA was put on the head itself."""
    weight = whole(head.weight)
    adapters = getattr(head, "lora_A", {})  # told by attribute: `peft` is no dependency
    for adapter in getattr(head, "active_adapters", ()):
        if adapter in adapters:
            weight = weight + head.get_delta_weight(adapter)
    return weight.flatten(1)
