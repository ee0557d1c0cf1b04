"""Averages of several fine-tuned models (model soups)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hf_transfer.weights.interpolation import score_of
from hf_transfer.weights.naming import candidates, match
from hf_transfer.weights.slots import Slot, base_of, has_adapters, refuse_wrapped, slots
from hf_transfer.weights.source import Checkpoint, open_source


__all__ = ["SoupResult", "greedy_soup", "uniform_soup"]


@dataclass(frozen=True)
class SoupResult:
    """
    What [`greedy_soup`] made.

    Args:
        members (`tuple[int, ...]`): positions of the models in the soup, in the order in which they were added.
        score (`float`): score of the soup.
        scores (`tuple[float, ...]`): score of each model alone, in the order given.
    """

    members: tuple[int, ...]
    score: float
    scores: tuple[float, ...]


class _Mean:
    """A running mean of states, in float32 or wider; each member is forgotten after it was added."""

    def __init__(self) -> None:
        self._mean: dict[str, Tensor] = {}
        self._types: dict[str, torch.dtype] = {}
        self.count = 0

    def add(self, state: dict[str, Tensor]) -> None:
        """Take in one more member."""
        self.count += 1
        for name, tensor in state.items():
            value = _wide(tensor)
            if self.count == 1:
                self._types[name] = tensor.dtype
                self._mean[name] = value.clone()
            elif value.is_floating_point():
                # Not sum and division: the mean of equal members is then exactly what they are.
                self._mean[name].lerp_(value.to(self._mean[name]), 1 / self.count)

    def with_member(self, state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """The mean as it would be with one more member, rounded once to the types of the first."""
        share = 1 / (self.count + 1)
        for name, mean in self._mean.items():
            both = mean.lerp(_wide(state[name]).to(mean), share) if mean.is_floating_point() else mean
            yield name, both.to(self._types[name])

    def value(self) -> Iterator[tuple[str, Tensor]]:
        """The mean, rounded once to the types of the first member."""
        for name, mean in self._mean.items():
            yield name, mean.to(self._types[name])


def uniform_soup(states: Iterable[Checkpoint]) -> dict[str, Tensor]:
    r"""
    Average the weights of models fine-tuned from one start (uniform model soup).

    $$ w = \frac{1}{N} \sum_{i=1}^{N} w_i $$

    One member is in memory at a time beside a running mean in float32, which is rounded once to the type of the first
    member. Counters (integer tensors) are those of the first.

    Args:
        states (`Iterable` of `str`, path, `Mapping[str, Tensor]` or `nn.Module`):
            The members: folders with safetensors, also sharded, Hub ids, state dicts or models.

    Returns:
        `dict[str, Tensor]`: the mean on the CPU, under the names the members have. Put it into a model with
        `transfer_parameters(model, soup, head=True)`, which also knows the names in files.

    Deviations from the paper:
        Running statistics of BatchNorm are averaged like weights, an approximation: estimate them anew on the
        training data where they matter.

    Raises:
        ValueError: if there is no member; if one has other names or shapes than the first (it is named); if one holds
            adapters: the mean of factors is not the factors of the mean.
        FileNotFoundError: if a member does not exist.

    Relations:
        [`greedy_soup`] leaves out members that do not help, at the cost of evaluations. [`wise_ft`] mixes one
        fine-tuned model with its start.

    Example:
        >>> soup = uniform_soup([{"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])}, {"w": torch.tensor([6.0])}])
        >>> soup["w"]
        tensor([3.])

    Paper: Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models", ICML 2022, https://huggingface.co/papers/2203.05482
    """
    mean = _Mean()
    shapes: dict[str, tuple[int, ...]] = {}
    for number, member in enumerate(states):
        source = open_source(member)
        shapes = shapes or source.shapes
        _check_member(number, source.title, shapes, source.shapes)
        mean.add({name: tensor.cpu() for name, tensor in source.read(source.shapes).items()})
    if not mean.count:
        raise _empty()
    return dict(mean.value())


def greedy_soup(
    model: nn.Module,
    states: Sequence[Checkpoint],
    evaluate: Callable[[], float],
    *,
    scores: Sequence[float] | None = None,
    greater_is_better: bool = True,
) -> SoupResult:
    """
    Average those of several fine-tuned models whose average scores best on validation data (greedy model soup).

    The members are tried from the best to the worst; one is kept in the soup if the average with it scores at least as
    well as without it. So the soup is never worse than its best member on the data that `evaluate` reads. The model is
    left with the weights of the soup. Beside the model a running mean and one member are in memory.

    Args:
        model (`nn.Module`):
            A model of the members' class and size; changed in place.
        states (`Sequence` of `str`, path, `Mapping[str, Tensor]` or `nn.Module`):
            The members, as for [`uniform_soup`]: runs from one pretrained start with other seeds or settings.
        evaluate (`Callable[[], float]`):
            Scores `model` as it is now on validation data, such as `lambda: trainer.evaluate()["eval_accuracy"]`.
        scores (`Sequence[float]`, *optional*):
            What `evaluate` gives for each member alone, if known; else each is evaluated first.
        greater_is_better (`bool`, *optional*, defaults to `True`):
            `False` for a loss.

    Returns:
        `SoupResult`: the members, the score of the soup and of each member.

    Degenerate cases:
        Of members with equal scores the one given first is tried first. A score that is not a number is the worst, and
        a soup with such a score is not kept.

    Deviations from the paper:
        As for [`uniform_soup`].

    Raises:
        ValueError: if there is no member, one does not fit the model (it is named), there are not as many scores as
            members or none is a number, or the model or a member has adapters.
        TypeError: if `evaluate` returns no number, or the model is wrapped by DDP or compiled.

        Whatever is raised, by `evaluate` too, the model has the weights it had.

    Relations:
        [`uniform_soup`] needs no evaluation.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> members = [{"weight": torch.tensor([[value]])} for value in (1.0, 9.0, 4.0)]
        >>> greedy_soup(layer, members, lambda: -abs(layer.weight.item() - 2.5)).members
        (0, 2)

    Paper: Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models", ICML 2022, https://huggingface.co/papers/2203.05482
    """
    refuse_wrapped(model, doing="a soup")
    if has_adapters(model):
        raise ValueError(
            "The model carries adapters of PEFT: the mean of their factors is not the factors of their mean. Join "
            'them with PEFT\'s `add_weighted_adapter(..., combination_type="cat")`, or average what '
            "`merge_and_unload()` returns for each."
        )
    if not states:
        raise _empty()
    if scores is not None and len(scores) != len(states):
        raise ValueError(
            f"{len(scores)} scores for {len(states)} members: they could not be ranked. Give one score for each, in "
            "the same order, or None to have them evaluated."
        )
    places = slots(model)
    before = {name: slot.tensor.detach().cpu().clone() for name, slot in places.items()}
    try:
        return _greedy(model, places, states, evaluate, scores, sign=1 if greater_is_better else -1)
    except BaseException:
        _write(places, before.items())
        raise


def _greedy(
    model: nn.Module,
    places: dict[str, Slot],
    states: Sequence[Checkpoint],
    evaluate: Callable[[], float],
    scores: Sequence[float] | None,
    *,
    sign: int,
) -> SoupResult:
    if scores is None:
        measured = []
        for number in range(len(states)):
            _write(places, _member(model, places, states[number], number).items())
            measured.append(score_of(evaluate))
        scores = measured
    ranked = [number for number in range(len(states)) if not math.isnan(scores[number])]
    ranked.sort(key=lambda number: -sign * scores[number])
    if not ranked:
        raise ValueError(
            "The score of every member is NaN: there is no best one to begin with. Check the metric and the "
            "validation data."
        )
    best = float(scores[ranked[0]])
    members = [ranked[0]]
    mean = _Mean()
    mean.add(_member(model, places, states[ranked[0]], ranked[0]))
    for number in ranked[1:]:
        state = _member(model, places, states[number], number)
        _write(places, mean.with_member(state))
        score = score_of(evaluate)
        if sign * score >= sign * best:
            mean.add(state)
            members.append(number)
            best = score
    _write(places, mean.value())
    return SoupResult(tuple(members), best, tuple(map(float, scores)))


def _member(model: nn.Module, places: dict[str, Slot], state: Checkpoint, number: int) -> dict[str, Tensor]:
    """A member under the names of the model, on the CPU."""
    source = open_source(state)
    base = base_of(model)
    found, prefix = candidates(source, base, places)
    alias_of = {alias: name for name, slot in places.items() for alias in slot.aliases}
    chosen = {alias_of[alias]: candidate for alias, candidate in match(found, prefix, base, alias_of).items()}
    shapes = {name: candidate.shape for name, candidate in chosen.items()}
    used = {key for candidate in chosen.values() for key in candidate.sources}
    for candidate in found:
        if used.isdisjoint(candidate.sources) and candidate.name not in alias_of:
            shapes[candidate.name] = candidate.shape  # the model has no such tensor
    _check_member(number, source.title, {name: slot.shape for name, slot in places.items()}, shapes)
    read = source.read(candidate.sources[0] for candidate in chosen.values() if candidate.tensor is None)
    tensors = {
        name: read[candidate.sources[0]] if candidate.tensor is None else candidate.tensor
        for name, candidate in chosen.items()
    }
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def _write(places: dict[str, Slot], state: Iterable[tuple[str, Tensor]]) -> None:
    for name, value in state:
        places[name].write(value)


def _check_member(
    number: int, title: str, wanted: dict[str, tuple[int, ...]], shapes: dict[str, tuple[int, ...]]
) -> None:
    odd = [name for name in {**wanted, **shapes} if wanted.get(name) != shapes.get(name)]
    if odd:
        pairs = f"{odd[0]}: {wanted.get(odd[0], 'absent')} expected, {shapes.get(odd[0], 'absent')} found"
        raise ValueError(
            f"Member {number} ({title}) differs from the rest of the soup in {len(odd)} tensors ({pairs}): weights of "
            "models of another kind have no average. Give models fine-tuned from one start, with the same head."
        )


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32)) if tensor.is_floating_point() else tensor


def _empty() -> ValueError:
    return ValueError(
        "The soup has no member: there is nothing to average. Give folders, state dicts or models fine-tuned from one "
        "start."
    )
