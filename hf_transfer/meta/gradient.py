"""The gradient of the start: through the inner loop, around it, or along it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import logging

from hf_transfer.functional.meta_learning import pseudo_gradient
from hf_transfer.meta.learner import Inputs, Learner, Rates
from hf_transfer.meta.rates import InnerRates


if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.get_logger(__name__)

__all__ = ["MetaGradient", "average_gradients"]


class MetaGradient:
    """
    Adds the gradient of the mean loss of episodes to `.grad` of the parameters that are trained.

    By `torch.autograd.grad` and not by `backward`: the model is not called through DDP, whose hooks would take the
    backward for one of a forward they never saw.

    Args:
        learner ([`Learner`]):
            Adapts to the episodes.
        trained (`Sequence[str]`):
            Names of the parameters that are trained.
        reptile (`bool`):
            Whether the gradient is the way that the inner loop went.
        rate (`float`, *optional*):
            Rate of the inner loop; `None` leaves it to the learner.
        rates ([`InnerRates`], *optional*):
            Learned rates in its place.
        vectorize (`bool`, *optional*):
            Whether all episodes run at once; `None` finds out whether they can.
    """

    def __init__(
        self,
        learner: Learner,
        trained: Sequence[str],
        *,
        reptile: bool,
        rate: float | None,
        rates: InnerRates | None = None,
        vectorize: bool | None = None,
    ):
        self.learner, self.trained, self.reptile = learner, tuple(trained), reptile
        self.rate, self.rates, self.vectorize = rate, rates, vectorize
        self._correct: Tensor | None = None
        self._asked = 0

    def add(self, episodes: Inputs, share: float) -> Tensor:
        """
        Add `share` times the gradient of a micro-batch; returns its mean loss, detached and not scaled.

        Raises:
            ValueError: if the episodes were to run at once and the model cannot.
        """
        count = len(next(iter(episodes.values())))
        while True:
            at_once = self.learner.vectorize or (self.learner.on_features and not self.reptile)
            try:
                if at_once:
                    return self._add(episodes, share)
                parts = [{name: value[at : at + 1] for name, value in episodes.items()} for at in range(count)]
                return torch.stack([self._add(part, share / count) for part in parts]).mean()
            except (RuntimeError, NotImplementedError) as error:
                self._fall_back(error)

    def drain_accuracy(self) -> Tensor | None:
        """Share of queries that were right since the last call; `None` without any, as with Reptile."""
        share = None if self._correct is None else self._correct.float() / self._asked
        self._correct, self._asked = None, 0
        return share

    def _fall_back(self, error: Exception) -> None:
        """Go on episode by episode, where the model looks into its inputs, as some do for padding."""
        if not self.learner.vectorize or "vmap" not in str(error):
            raise error
        kind = type(self.learner.model).__name__
        if self.vectorize:
            raise ValueError(
                f"{kind} looks into its inputs (`vectorize=True`): `vmap` cannot run it over several episodes at "
                "once. Pass `vectorize=False`, or None to have it found out."
            ) from error
        logger.info(f"{kind} runs episode by episode: `vmap` cannot batch it.")
        self.learner.vectorize = False

    def _add(self, episodes: Inputs, share: float) -> Tensor:
        prepared = self.learner.prepare(episodes)
        return self._along(prepared, share) if self.reptile else self._through(prepared, share)

    def _along(self, prepared: Inputs, share: float) -> Tensor:
        start = self.learner.parameters
        adapted, losses = self.learner.adapted_parameters(prepared, self.rate)
        for name, gradient in pseudo_gradient(start, adapted).items():
            _accumulate(start[name], share * gradient)
        return losses.mean()

    def _through(self, prepared: Inputs, share: float) -> Tensor:
        rates: Rates | None = self.rate if self.rates is None else self.rates.by_name()
        logits, _ = self.learner.query_logits(prepared, rates)
        _, asked = self.learner.shape.labels(logits.device)
        asked = asked.expand(len(logits), -1)
        loss = F.cross_entropy(logits.transpose(1, 2), asked)
        parameters = [self.learner.model.get_parameter(name) for name in self.trained]
        parameters += [] if self.rates is None else list(self.rates.parameters())
        gradients = torch.autograd.grad(share * loss, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                _accumulate(parameter, gradient)
        correct = (logits.argmax(-1) == asked).sum().detach()
        self._correct = correct if self._correct is None else self._correct + correct
        self._asked += asked.numel()
        return loss.detach()


def average_gradients(parameters: Iterable[nn.Parameter], accelerator: Accelerator) -> None:
    """Put the mean over the ranks in place of every gradient; a missing one counts as zero."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    flat = torch.cat([_gradient(parameter).reshape(-1).float() for parameter in trained])
    flat = cast(Tensor, accelerator.reduce(flat, reduction="mean"))
    for parameter, part in zip(trained, flat.split([one.numel() for one in trained]), strict=True):
        parameter.grad = part.view_as(parameter).to(parameter.dtype)


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _accumulate(parameter: Tensor, gradient: Tensor) -> None:
    gradient = gradient.detach().to(parameter.dtype)
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
