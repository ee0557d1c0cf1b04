"""`Learner`: what a model makes of the queries of an episode after it has adapted to the support."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from hf_transfer.anatomy import anatomy
from hf_transfer.features.head_logits import head_logits
from hf_transfer.functional.meta_learning import Parameters, inner_loop, stable_rate
from hf_transfer.meta.derivatives import LayerNormWrittenOut, eager_attention
from hf_transfer.meta.rates import usual_rate
from hf_transfer.tap import HeadTap


Inputs = dict[str, Tensor]
Rates = float | Mapping[str, Tensor | float]

__all__ = ["EpisodeShape", "Learner"]


@dataclass(frozen=True)
class EpisodeShape:
    """
    How the rows of an episode lie: `n_way * k_shot` of the support, class by class, then `n_way * queries` queries.

    Args:
        n_way (`int`): classes.
        k_shot (`int`): support rows of each class.
        queries (`int`): query rows of each class.
    """

    n_way: int
    k_shot: int
    queries: int

    @property
    def support(self) -> int:
        """Number of support rows."""
        return self.n_way * self.k_shot

    @property
    def size(self) -> int:
        """Number of rows."""
        return self.n_way * (self.k_shot + self.queries)

    def labels(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Classes of the support and of the queries within the episode, 0 to `n_way - 1`."""
        classes = torch.arange(self.n_way, device=device)
        return classes.repeat_interleave(self.k_shot), classes.repeat_interleave(self.queries)

    def parts(self, number: int, device: torch.device) -> list[Tensor]:
        """
        Rows of the whole episode in `number` parts of as many rows of each class, or fewer parts where there are not
        enough rows for `k_shot` of each class in every part: what the inner steps of Reptile see in turn.
        """
        rows = torch.arange(self.size, device=device)
        support = rows[: self.support].reshape(self.n_way, self.k_shot)
        table = torch.cat([support, rows[self.support :].reshape(self.n_way, self.queries)], dim=1)
        number = max(1, min(number, table.shape[1] // self.k_shot))
        each = table.shape[1] // number
        return [table[:, part * each : (part + 1) * each].reshape(-1) for part in range(number)]


class Learner:
    """
    Adapts some parameters of a model to episodes, by `torch.func`: the model itself stays as it is.

    Where only the head is adapted, the model is run once over all rows, and the inner loop sees features. Everything
    is differentiable with respect to the parameters and the rates.

    Args:
        model (`nn.Module`):
            A classifier with `n_way` outputs, on its device and in the mode in which it is to be run.
        adapted (`Sequence[str]`):
            Names of the parameters that the inner loop adapts.
        shape ([`EpisodeShape`]):
            How the rows of an episode lie.
        steps (`int`):
            Inner steps.
        first_order (`bool`, *optional*, defaults to `False`):
            Leave the Hessians out.
        vectorize (`bool`, *optional*, defaults to `True`):
            Whether to run all episodes at once by `vmap`, where the whole model is adapted.
    """

    def __init__(
        self,
        model: nn.Module,
        adapted: Sequence[str],
        shape: EpisodeShape,
        *,
        steps: int,
        first_order: bool = False,
        vectorize: bool = True,
    ):
        self.model, self.shape, self.steps, self.first_order = model, shape, steps, first_order
        self.vectorize = vectorize
        self.adapted = tuple(adapted)
        self.head = anatomy(model).head
        self._prefix = f"{self.head}."
        self.on_features = all(name.startswith(self._prefix) for name in self.adapted)
        self._checked = False

    @property
    def parameters(self) -> Parameters:
        """The adapted parameters by name, as they are in the model."""
        return {name: self.model.get_parameter(name) for name in self.adapted}

    def split(self, inputs: Mapping[str, Any]) -> Inputs:
        """
        Collated rows of whole episodes as `(E, rows of an episode, ...)`.

        Raises:
            ValueError: if an input has another number of rows.
        """
        rows = next((len(value) for value in inputs.values() if isinstance(value, Tensor)), 0)
        if rows == 0 or rows % self.shape.size:
            raise ValueError(
                f"A batch of {rows} rows does not hold whole episodes of {self.shape.size} rows: support and query "
                "would be mixed up. Leave the batch size to the trainer, and give it a data set of rows."
            )
        for name, value in inputs.items():
            if not isinstance(value, Tensor) or value.dim() == 0 or len(value) != rows:
                seen = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(
                    f"The input `{name}` ({seen}) does not have one entry for each of the {rows} rows of the batch: "
                    "it cannot be dealt out to episodes. Choose a model whose inputs have a first dimension of rows."
                )
        return {name: value.reshape(-1, self.shape.size, *value.shape[1:]) for name, value in inputs.items()}

    def prepare(self, inputs: Inputs) -> Inputs:
        """What the inner loop is given: features of all rows where only the head is adapted, else the inputs."""
        if self.on_features and not self._checked:
            self._check(inputs)
        if not self.on_features:
            return inputs
        return {"features": self.features(_flat(inputs)).unflatten(0, (-1, self.shape.size))}

    def features(self, rows: Mapping[str, Tensor]) -> Tensor:
        """`(B, D)` features of rows, with a graph into the backbone if it trains."""
        return self._tapped(rows)[0]

    def query_logits(self, prepared: Inputs, rates: Rates | None = None) -> tuple[Tensor, Tensor]:
        """
        `(E, n_way * queries, n_way)` logits of the queries after adaptation, and the detached losses `(E, steps)` on
        the support.

        Args:
            prepared (`dict[str, Tensor]`): what `prepare` made of the inputs.
            rates (`float` or `Mapping`, *optional*): of the inner loop; by default those of `rates_for`.
        """
        support, _ = self.shape.labels(next(iter(prepared.values())).device)
        start = self._local(self.parameters)

        def one(episode: Inputs) -> tuple[Tensor, Tensor]:
            seen = {name: value[: self.shape.support] for name, value in episode.items()}
            asked = {name: value[self.shape.support :] for name, value in episode.items()}
            adapted, losses = inner_loop(
                lambda parameters, step: F.cross_entropy(self._logits(parameters, seen), support),
                start,
                self.rates_for(seen, rates),
                steps=self.steps,
                first_order=self.first_order,
            )
            return self._logits(adapted, asked), losses

        return self._over(one, prepared, twice=torch.is_grad_enabled() and not self.first_order)

    def adapted_parameters(self, prepared: Inputs, rates: Rates | None = None) -> tuple[Parameters, Tensor]:
        """
        Reptile's inner loop, over the labelled rows of the whole episode in turn: $\\theta_k$ of every episode,
        `(E, ...)` by name, without a graph, and the losses `(E, steps)`.
        """
        device = next(iter(prepared.values())).device
        classes = torch.cat(self.shape.labels(device))
        parts = self.shape.parts(self.steps, device)
        start = {name: value.detach() for name, value in self._local(self.parameters).items()}

        def one(episode: Inputs) -> tuple[Parameters, Tensor]:
            def loss(parameters: Parameters, step: int) -> Tensor:
                rows = parts[step % len(parts)]
                seen = {name: value[rows] for name, value in episode.items()}
                return F.cross_entropy(self._logits(parameters, seen), classes[rows])

            return inner_loop(loss, start, self.rates_for(episode, rates), steps=self.steps)

        with torch.no_grad():
            adapted, losses = self._over(one, prepared, twice=False)
        return {self._global(name): value for name, value in adapted.items()}, losses

    def _over(self, one: Any, prepared: Inputs, *, twice: bool) -> Any:
        """`one` of every episode, stacked."""
        at_once = self.vectorize or self.on_features
        with nullcontext() if self.on_features else eager_attention(self.model, at_once or twice):
            if at_once:
                with LayerNormWrittenOut() if twice and not self.on_features else nullcontext():
                    return vmap(one, randomness="different")(prepared)
            count = len(next(iter(prepared.values())))
            done = [one({name: value[at] for name, value in prepared.items()}) for at in range(count)]
        return _stacked(done)

    def _logits(self, parameters: Parameters, inputs: Inputs) -> Tensor:
        if self.on_features:
            return functional_call(
                _Head(self.model.get_submodule(self.head)), parameters, (inputs["features"],)
            ).float()
        output = functional_call(self.model, parameters, kwargs=inputs)
        return _full(output["logits"] if isinstance(output, dict) else output[0])

    def _tapped(self, rows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Features and logits of one ordinary forward."""
        tap = HeadTap(self.model, self.head)
        try:
            tap.open = True
            output = self.model(**rows)
            logits = output["logits"] if isinstance(output, dict) else output[0]
            return tap.take(logits, rows), logits.float()
        finally:
            tap.remove()

    def _check(self, inputs: Inputs) -> None:
        """Whether the head makes of the features what the model returns; a few models go on after their head."""
        few = {name: value[:4] for name, value in _flat(inputs).items()}
        training = self.model.training
        with torch.no_grad(), _filled(self.parameters.values()):
            self.model.eval()
            features, logits = self._tapped(few)
            same = logits.shape[:-1] == features.shape[:-1] and torch.allclose(
                head_logits(self.model.get_submodule(self.head), features).float(), logits, rtol=1e-2, atol=1e-3
            )
        self.model.train(training)
        self.on_features, self._checked = same, True

    def _local(self, parameters: Parameters) -> Parameters:
        """Parameters of the head by the names that `_Head` has for them."""
        if not self.on_features:
            return parameters
        return {f"head.{name.removeprefix(self._prefix)}": value for name, value in parameters.items()}

    def rates_for(self, rows: Mapping[str, Tensor], rates: Rates | None = None) -> Rates:
        """
        The rates of the inner loop by the names it has for the parameters: those given, else [`stable_rate`] of the
        features of an episode, where the head alone is adapted to them, and else [`usual_rate`].
        """
        if isinstance(rates, float | int):
            return rates
        if rates is not None:
            return self._local(dict(rates))  # pyright: ignore[reportArgumentType]
        if not self.on_features:
            return usual_rate(self.adapted, head=self.head)
        rate = stable_rate(rows["features"])
        return dict.fromkeys(self._local(self.parameters), rate)

    def _global(self, name: str) -> str:
        return f"{self._prefix}{name.removeprefix('head.')}" if self.on_features else name


class _Head(nn.Module):
    """The head as a function of pooled features, be it linear or a convolution."""

    def __init__(self, head: nn.Module):
        super().__init__()
        self.head = head

    def forward(self, features: Tensor) -> Tensor:
        return head_logits(self.head, features)


@contextmanager
def _filled(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Other numbers in a head for a while: of one at zero, whatever follows it shows nothing."""
    before = [(parameter, parameter.clone()) for parameter in parameters]
    try:
        for parameter, _ in before:
            numbers = torch.linspace(-0.5, 0.5, parameter.numel(), device=parameter.device)
            parameter.copy_(numbers.sin().reshape(parameter.shape))
        yield
    finally:
        for parameter, value in before:
            parameter.copy_(value)


def _full(logits: Tensor) -> Tensor:
    """Logits in which a loss is computed: float32, or float64 of a model in that."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _flat(inputs: Inputs) -> Inputs:
    return {name: value.flatten(0, 1) for name, value in inputs.items()}


def _stacked(results: Sequence[Any]) -> Any:
    first = results[0]
    if isinstance(first, tuple):
        return tuple(_stacked(values) for values in zip(*results, strict=True))
    if isinstance(first, dict):
        return {name: torch.stack([one[name] for one in results]) for name in first}
    return torch.stack(list(results))
