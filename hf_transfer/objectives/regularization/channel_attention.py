"""How much each channel of a source model's blocks matters for the target task: DELTA's supervised attention."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_transfer.functional.task_loss import UNLABELLED
from hf_transfer.series_models import labels_of, series_model
from hf_transfer.source import Source, inputs_of
from hf_transfer.tap import first_tensor


_HEAD_ROWS = 2048  # rows from which the target head is learned
_FORWARD_ROWS = 64  # rows in one forward with channels at zero

Rows = tuple[dict[str, Any], Tensor]  # inputs and labels of some rows of one batch
Recorded = dict[str, list[Any]]  # the outputs of every call of every block, by its name, in forward order

__all__ = ["TargetHead", "loss_increases"]


class TargetHead:
    """
    A linear head for the target task on the features of a source model, learned at once.

    Args:
        features (`Tensor`): `(N, D)`.
        labels (`Tensor`): `(N,)` class numbers: a logistic regression, whose loss is the cross-entropy in nats. Or
            `(N,)` or `(N, C)` floats: a ridge regression, whose loss is the mean squared error.

    Raises:
        ImportError: if scikit-learn is not installed.
    """

    def __init__(self, features: Tensor, labels: Tensor):
        try:
            from sklearn.exceptions import ConvergenceWarning
            from sklearn.linear_model import LogisticRegression, Ridge
        except ImportError as error:
            raise ImportError(
                f"DELTA's attention learns a target head with scikit-learn; `{error.name}` is not installed. Install "
                "it with `pip install scikit-learn`, or weigh the channels alike with `DELTA(attention=False)`."
            ) from error
        self.classes, self._mean = labels.unique() if _are_classes(labels) else None, features.mean(0)
        deviation = features.std(0, correction=0)
        self._scale = torch.where(deviation > 0, deviation, 1.0)
        x = ((features - self._mean) / self._scale).double().cpu().numpy()
        if self.classes is not None and len(self.classes) == 1:
            weight, bias = torch.zeros(1, x.shape[1]), torch.zeros(1)
        else:
            model: Any = Ridge() if self.classes is None else LogisticRegression(max_iter=300)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # near the optimum is near enough
                model.fit(x, labels.cpu().numpy())
            weight, bias = torch.as_tensor(model.coef_), torch.as_tensor(model.intercept_)
            if self.classes is not None and len(self.classes) == 2:  # scikit-learn keeps the difference only
                weight, bias = (torch.cat([torch.zeros_like(part), part]) for part in (weight, bias))
        self._weight, self._bias = (part.to(features) for part in (weight.reshape(-1, x.shape[1]), bias.reshape(-1)))

    def losses(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss of each row: `(N, D)` and labels as above to `(N,)`."""
        outputs = F.linear((features - self._mean) / self._scale, self._weight, self._bias)
        if self.classes is not None:
            return F.cross_entropy(outputs, torch.searchsorted(self.classes, labels), reduction="none")
        return (outputs - labels.reshape(len(outputs), -1)).square().mean(-1)


def loss_increases(
    source: Source, blocks: Sequence[str], batches: Iterable[Mapping[str, Any]], *, rows: int, device: torch.device
) -> list[Tensor]:
    """
    What the loss of the source model on the target task rises by when one channel of one block's output is zero.

    Its head for the target task is learned from at most 2,048 rows, spread over the classes. Then for each channel of
    each block some of these rows go through what follows the block.

    Args:
        source (`Source`): the source model.
        blocks (`Sequence[str]`): names of the blocks.
        batches (`Iterable[Mapping]`): inputs and `labels`; iterated twice.
        rows (`int`): how many rows to measure on.
        device (`torch.device`): where to.

    Returns:
        A tensor `(C,)` for each block, in nats (or squared units of a regression), mean over rows.

    Raises:
        ValueError: if no row has a label.
    """
    pieces = list(_spread(source.model, batches, _HEAD_ROWS, device))
    if not pieces:
        raise ValueError(
            "DELTA finds no labelled row in the training data: which channels matter for the task cannot be measured. "
            "Give labels, or weigh the channels alike with `DELTA(attention=False)`."
        )
    features, labels = zip(*(_labelled(source(inputs).features, labels) for inputs, labels in pieces), strict=True)
    head = TargetHead(torch.cat(features), torch.cat(labels))
    if rows < sum(len(labels) for _, labels in pieces):
        batches = [{**inputs, "labels": labels} for inputs, labels in pieces]
        pieces = list(_spread(source.model, batches, rows, device))
    totals: list[Tensor | float] = [0.0] * len(blocks)
    count = 0
    for inputs, labels in pieces:
        recorded = _record(source, inputs)
        features, wanted = _labelled(source(inputs).features, labels)
        base = head.losses(features, wanted).sum()
        count += len(wanted)
        for number, block in enumerate(blocks):
            losses = [loss - base for loss in _ablated(source, head, block, recorded, inputs, labels)]
            totals[number] = totals[number] + torch.stack(losses)
    return [torch.as_tensor(total) / count for total in totals]


def _ablated(
    source: Source,
    head: TargetHead,
    block: str,
    recorded: Recorded,
    inputs: dict[str, Any],
    labels: Tensor,
) -> Iterator[Tensor]:
    """The summed loss with each channel of a block at zero; one forward takes several, as copies of the rows."""
    output = first_tensor(recorded[block][-1])
    assert output is not None  # a block returns its hidden state
    channels, rows = output.shape[_channel_dim(source.model, output)], len(output)
    step = max(1, _FORWARD_ROWS // rows)
    for start in range(0, channels, step):
        copies = min(step, channels - start)
        repeated = _repeat(inputs, copies, rows)
        with _replayed(source.model, block, recorded, copies, rows, start):
            features = source(repeated).features
        for part in features.split(rows):
            yield head.losses(*_labelled(part, labels)).sum()


def _record(source: Source, inputs: dict[str, Any]) -> Recorded:
    recorded: Recorded = {name: [] for name in source.anatomy.blocks}

    def keeper(name: str) -> Any:
        return lambda module, args, output: recorded[name].append(output)

    hooks = [source.model.get_submodule(name).register_forward_hook(keeper(name)) for name in recorded]
    try:
        source(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return recorded


@contextmanager
def _replayed(model: nn.Module, block: str, recorded: Recorded, copies: int, rows: int, start: int) -> Iterator[None]:
    """While it lasts the blocks up to `block` return what was recorded, `block` with channels at zero, unasked."""
    names = list(recorded)
    modules = {name: model.get_submodule(name) for name in names[: names.index(block) + 1]}

    def replay(name: str) -> Any:
        outputs = list(recorded[name])

        def forward(*args: Any, **kwargs: Any) -> Any:
            output = _repeat(outputs.pop(0), copies, rows)
            if name == block and not outputs:
                maps = first_tensor(output)
                assert maps is not None
                for copy in range(copies):
                    one = maps[copy * rows : (copy + 1) * rows]
                    one.select(_channel_dim(model, one), start + copy).zero_()
            return output

        return forward

    for name, module in modules.items():
        module.forward = replay(name)
    try:
        yield
    finally:
        for module in modules.values():
            del module.forward  # the class's own shows again


def _channel_dim(model: nn.Module, maps: Tensor) -> int:
    """Where the channels of a block's output are: first in feature maps of images, last in whatever has tokens."""
    return 1 if maps.dim() == 4 and series_model(model) is None else -1


def _repeat(value: Any, copies: int, rows: int) -> Any:
    """Copies of the rows, one set after the other, in whatever holds them."""
    if isinstance(value, Tensor):
        fits = value.dim() > 0 and len(value) == rows
        return value.repeat(copies, *[1] * (value.dim() - 1)) if fits else value
    if isinstance(value, tuple):
        return tuple(_repeat(item, copies, rows) for item in value)
    if isinstance(value, dict):
        return {name: _repeat(item, copies, rows) for name, item in value.items()}
    return value


def _are_classes(labels: Tensor) -> bool:
    return not labels.is_floating_point()


def _labelled(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Features and labels of the labelled rows, or tokens, as `(N, D)` and `(N, ...)`."""
    if _are_classes(labels):
        features, labels = features.reshape(-1, features.shape[-1]), labels.reshape(-1)
    return features[_kept(labels)], labels[_kept(labels)]


def _kept(labels: Tensor) -> Tensor:
    labelled = labels != UNLABELLED
    return labelled if _are_classes(labels) else labelled.reshape(len(labels), -1).all(1)


def _spread(
    model: nn.Module, batches: Iterable[Mapping[str, Any]], wanted: int, device: torch.device
) -> Iterator[Rows]:
    """About `wanted` labelled rows, evenly from all classes, as parts of their batches."""
    keys = torch.cat([_sort_key(labels_of(batch)) for batch in batches])
    places = torch.arange(len(keys))[keys.isfinite()]
    places = places[keys[places].argsort(stable=True)]
    if len(places) > wanted:
        places = places[torch.linspace(0, len(places) - 1, wanted).round().long()]
    chosen, offset = torch.zeros(len(keys), dtype=torch.bool), 0
    chosen[places] = True
    for batch in batches:
        count = len(labels_of(batch))
        index = chosen[offset : offset + count].nonzero().squeeze(1)
        offset += count
        if len(index):
            rows = {
                name: value[index.to(value.device)] if isinstance(value, Tensor) and len(value) == count else value
                for name, value in batch.items()
            }
            yield inputs_of(model, rows, device), labels_of(rows).to(device)


def _sort_key(labels: Tensor) -> Tensor:
    """A number for each row: its class, for tokens the largest; infinite without a label."""
    values = labels.float().reshape(len(labels), -1)
    complete = (values != UNLABELLED).all(1) if not _are_classes(labels) else (values != UNLABELLED).any(1)
    return torch.where(complete, values.amax(1), float("inf")).cpu()
