"""Statistics of batch normalisation for another domain (AdaBN)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hf_transfer.adaptation.target_data import Collator, TargetData
from hf_transfer.modes import at_rest


__all__ = ["adapt_batch_norm", "adaptable_norms"]


def adapt_batch_norm(
    model: nn.Module,
    data: Any,
    *,
    collator: Collator | None = None,
    batch_size: int = 32,
    max_batches: int | None = None,
    share_ranks: bool = False,
) -> int:
    r"""
    Adaptive batch normalisation (AdaBN): replace the running statistics of a model by those of a target domain.

    Every BatchNorm layer gets the mean and the variance of what reaches it over all of the target rows,

    $$ \mu = \frac{1}{n} \sum_b n_b \mu_b, \qquad
       \sigma^2 = \frac{1}{n - 1} \sum_b n_b \bigl( \sigma_b^2 + (\mu_b - \mu)^2 \bigr) $$

    from the batches $b$ with $n_b$ values per channel: the cumulative average, in which a short last batch counts what
    it holds, and the spread between batches is not lost. In the pass each layer normalises by the batch, as in
    training, so that deeper layers see adapted inputs; nothing else of the model is in training mode.

    Args:
        model (`nn.Module`):
            Any classifier with BatchNorm, also under PEFT; changed in place.
        data (`datasets.Dataset`, `torch.utils.data.Dataset`, `DataLoader` or iterable of batches):
            Rows or collated batches of the target domain. Labels in them are not looked at.
        collator (`Callable`, *optional*):
            Makes a batch of rows; by default `default_data_collator`, or that of a loader.
        batch_size (`int`, *optional*, defaults to 32):
            Rows of a batch; the larger, the less the batches differ from the whole. Take 64 or more where memory
            allows.
        max_batches (`int`, *optional*):
            Stop after as many batches; by default all are read.
        share_ranks (`bool`, *optional*, defaults to `False`):
            Whether the batches are shared out to the ranks of `torch.distributed` and the statistics put together,
            the same on each. All ranks must then call this with the same data.

    Returns:
        `int`: how many layers were adapted.

    Degenerate batches:
        One row is enough for a forward; a single value per channel has the variance 0.

    Deviations from the paper:
        Layers are measured in one pass, each on inputs normalised by batch and not by the final statistics: exact for
        the first layer, close for the others.

    Raises:
        ValueError: if the model has no BatchNorm with running statistics, or there is no batch.

    Relations:
        [`AdaptBatchNorm`] does this at the end of a run. Adapter checkpoints of PEFT do not hold running statistics:
        save the merged model. Different class proportions in the target move the statistics too.

    Example:
        >>> from transformers import ResNetConfig, ResNetForImageClassification
        >>> model = ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1]))
        >>> adapt_batch_norm(model, [{"pixel_values": torch.randn(4, 3, 16, 16)}])
        4

    Paper: Li et al., "Revisiting Batch Normalization For Practical Domain Adaptation", 2016, https://huggingface.co/papers/1603.04779
    """
    norms = adaptable_norms(model)
    rank, ranks = 0, 1
    if share_ranks and distributed.is_available() and distributed.is_initialized():
        rank, ranks = distributed.get_rank(), distributed.get_world_size()
    # One pass: a generator is as good as a list.
    data = list(_first(data, max_batches)) if isinstance(data, Iterator) else data
    target = TargetData(model, data, collator=collator, batch_size=batch_size)
    sums = {norm: Moments() for norm in norms}
    with _measuring(model, sums), torch.no_grad():
        for number, (_, inputs) in enumerate(target.batches()):
            if max_batches is not None and number == max_batches:
                break
            if number % ranks == rank:
                model(**inputs)
    for norm, moments in sums.items():
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None and variance is not None  # that is how the layers were chosen
        count, new_mean, new_variance = moments.together(mean, ranks)
        if count == 0:
            raise ValueError(
                "No value of the target data reached a BatchNorm layer: there is nothing to take statistics from. "
                "Give batches with rows, and as many of them as there are ranks."
            )
        mean.copy_(new_mean)
        variance.copy_(new_variance)
    return len(norms)


def adaptable_norms(model: nn.Module) -> list[_BatchNorm]:
    """
    The batch normalisations of a model that keep running statistics, but for those of its objectives.

    Raises:
        ValueError: if there are none.
    """
    own = {id(module) for module in getattr(model, "transfer_objectives", nn.Module()).modules()}
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None and id(module) not in own
    ]
    if not norms:
        raise ValueError(
            f"{type(model).__name__} has no batch normalisation with running statistics: LayerNorm and its like keep "
            "none, so there is nothing to adapt. Leave AdaBN out; `adapt_at_test_time` adapts every kind of "
            "normalisation."
        )
    return norms


class Moments:
    """Number, mean and sum of squared deviations per channel of all batches so far, put together without rounding."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | None = None
        self.deviations: Tensor | None = None

    def add(self, count: int, mean: Tensor, deviations: Tensor) -> None:
        """Take in a batch: how many values per channel, their mean and sum of squared deviations."""
        if self.mean is None or self.deviations is None:
            self.count, self.mean, self.deviations = count, mean, deviations
            return
        total = self.count + count
        apart = mean - self.mean
        self.deviations = self.deviations + deviations + apart.square() * (self.count * count / total)
        self.mean = self.mean + apart * (count / total)
        self.count = total

    def together(self, like: Tensor, ranks: int) -> tuple[int, Tensor, Tensor]:
        """Number of values, mean and unbiased variance over all ranks, on the device of `like`."""
        whole = self if ranks == 1 else self._gathered(like, ranks)
        if whole.mean is None or whole.deviations is None:
            return 0, like, like
        return whole.count, whole.mean, whole.deviations / max(whole.count - 1, 1)

    def _gathered(self, like: Tensor, ranks: int) -> Moments:
        width, precision = len(like), _precision(like)
        mine = torch.zeros(2 * width + 1, dtype=precision, device=like.device)
        if self.mean is not None and self.deviations is not None:
            mine = torch.cat([self.mean, self.deviations, self.mean.new_tensor([self.count])])
        every = [torch.empty_like(mine) for _ in range(ranks)]
        distributed.all_gather(every, mine)
        whole = Moments()
        for values in every:
            if count := int(values[-1]):
                whole.add(count, values[:width], values[width:-1])
        return whole


@contextmanager
def _measuring(model: nn.Module, sums: Mapping[_BatchNorm, Moments]) -> Iterator[None]:
    """Evaluation mode, in which each layer measures its input and normalises by what it measured."""
    before = {norm: (_clone(norm.running_mean), _clone(norm.running_var)) for norm in sums}
    hooks = [norm.register_forward_pre_hook(_measure(moments)) for norm, moments in sums.items()]
    try:
        with at_rest(model):
            yield
    finally:
        for hook in hooks:
            hook.remove()
        with torch.no_grad():
            for norm, (mean, variance) in before.items():
                assert norm.running_mean is not None and norm.running_var is not None
                norm.running_mean.copy_(mean)
                norm.running_var.copy_(variance)


def _measure(moments: Moments) -> Any:
    def measure(norm: Any, args: tuple[Tensor, ...]) -> None:
        values = args[0].detach().to(_precision(args[0]))
        values = values.transpose(0, 1).flatten(1)
        count = values.shape[1]
        if count == 0:
            return
        mean = values.mean(1)
        deviations = (values - mean.unsqueeze(1)).square().sum(1)
        moments.add(count, mean, deviations)
        # In evaluation mode the layer normalises by its running statistics. Set to those of the batch they give what
        # training mode does, but for a single value per channel, which training mode refuses.
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(deviations / count)

    return measure


def _precision(values: Tensor) -> torch.dtype:
    # MPS has no float64.
    return torch.float32 if values.device.type == "mps" else torch.float64


def _clone(value: Tensor | None) -> Tensor:
    assert value is not None
    return value.clone()


def _first(batches: Iterable[Any], count: int | None) -> Iterator[Any]:
    for number, batch in enumerate(batches):
        if number == count:
            return
        yield batch
