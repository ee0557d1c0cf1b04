"""One real forward, watched: what the modules of a prefix return, and which of them returns last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hf_transfer.frozen_prefix.extent import Prefix, Unsuitable
from hf_transfer.tap import first_tensor, values_of


__all__ = ["Recording", "StandIn", "by_row", "record"]


class _Hole:
    """Where the hidden state belongs in what a module returns."""


@dataclass(frozen=True)
class StandIn:
    """
    What a skipped module returns in place of what it computes.

    Args:
        skeleton (`Any`): its real output with a hole where the hidden state was, and no other tensor.
        source (`int` or `str`, *optional*): place or name of the input to hand through as the hidden state.
        shape (`tuple[int, ...]`): shape of the hidden state that was seen.
        dtype (`torch.dtype`): its type.
        rows (`int`): number of rows of the batch that was seen.
    """

    skeleton: Any
    source: int | str | None
    shape: tuple[int, ...]
    dtype: torch.dtype
    rows: int

    def around(self, hidden: Tensor) -> Any:
        """The output with `hidden` as the hidden state; the pieces of a row are rows again if they were."""
        if self.shape[0] != self.rows:
            hidden = hidden.flatten(0, 1)
        return _filled(self.skeleton, hidden)

    def passing(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], hidden: Tensor) -> Any:
        """The output of a module below the last one, whose hidden state nobody needs."""
        if self.source is None:
            size = self.shape[0] // self.rows * len(hidden)
            passed = torch.zeros(size, *self.shape[1:], dtype=self.dtype, device=hidden.device)
        else:
            passed = args[self.source] if isinstance(self.source, int) else kwargs[self.source]
        return _filled(self.skeleton, passed)


@dataclass
class Recording:
    """What [`record`] saw."""

    boundary: str = ""
    """Name of the module whose output is stored: the last one of the prefix to return."""

    calls: int = 0
    """How often that module ran: more than once where blocks share their weights."""

    hidden: Tensor = field(default_factory=lambda: torch.empty(0))
    """The hidden state it returned last."""

    stand_ins: dict[str, StandIn] = field(default_factory=dict)

    before: list[nn.Module] = field(default_factory=list)
    """Modules without parameters, such as dropout, that ran in training mode and only before that output."""


def record(model: nn.Module, run: Callable[[], Any], prefix: Prefix, *, rows: int, stem: bool) -> Recording:
    """
    Watch the modules of a prefix during one forward.

    Args:
        model (`nn.Module`): the model.
        run (`Callable`): runs its forward once, with gradients enabled.
        prefix (`Prefix`): the prefix.
        rows (`int`): rows of the batch.
        stem (`bool`): whether the modules before the blocks are to be skipped, too.

    Raises:
        Unsuitable: if no block ran or gave a tensor, a block below the last changes the hidden state's length, or
            something that trains takes part in the hidden state.
    """
    seen = Recording()
    replaced = (*prefix.embeddings, *prefix.modules) if stem else prefix.modules

    def keeper(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            hidden = first_tensor(output)
            if name in prefix.embeddings and (hidden is None or len(hidden) % rows):
                return  # position tables and the like run on
            if hidden is None:
                raise Unsuitable(
                    f"`{name}` returns {type(output).__name__} without a tensor - there is no hidden state to store - "
                    "train without `cache_frozen_prefix`."
                )
            named = [*enumerate(args), *kwargs.items()]
            passed = (key for key, value in named if isinstance(value, Tensor) and value.shape == hidden.shape)
            seen.stand_ins[name] = StandIn(
                _emptied(output, hidden), next(passed, None), tuple(hidden.shape), hidden.dtype, rows
            )
            if name in prefix.modules:
                seen.calls = seen.calls + 1 if name == seen.boundary else 1
                seen.boundary, seen.hidden = name, hidden
                order.append(None)

        return keep

    order: list[nn.Module | None] = []  # `None` where the stored module returned

    def note(module: nn.Module, args: Any, output: Any) -> None:
        if module.training:
            order.append(module)

    bare = (module for module in model.modules() if not any(True for _ in module.parameters()))
    hooks = [module.register_forward_hook(note) for module in bare]
    hooks += [model.get_submodule(name).register_forward_hook(keeper(name), with_kwargs=True) for name in replaced]
    try:
        with torch.enable_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    if not seen.boundary:
        raise Unsuitable(
            f"The forward ran none of the frozen blocks (`{prefix.modules[0]}` and those after it) - there is nothing "
            "to store - name the blocks to the schedule: FreezeBackbone(blocks=...)."
        )
    _check(model, seen, rows, fixed=stem)
    end = len(order) - order[::-1].index(None)
    after = set(order[end:])
    seen.before = [module for module in dict.fromkeys(order[:end]) if module is not None and module not in after]
    seen.hidden = by_row(seen.hidden.detach(), rows)
    return seen


def by_row(hidden: Tensor, rows: int) -> Tensor:
    """Hidden states with one row each, `(rows, pieces, ...)` where a model cuts rows into pieces (MobileViT)."""
    return hidden if len(hidden) == rows else hidden.unflatten(0, (rows, -1))


def _check(model: nn.Module, seen: Recording, rows: int, *, fixed: bool) -> None:
    for name, stand_in in seen.stand_ins.items():
        if name != seen.boundary and stand_in.source is None and (not fixed or stand_in.shape[0] % rows):
            raise Unsuitable(
                f"`{name}` returns {stand_in.shape} for none of its inputs in that shape - what a skipped block would "
                "hand on is not known for other lengths - train without `cache_frozen_prefix`."
            )
    if len(seen.hidden) != rows and (not fixed or len(seen.hidden) % rows):
        raise Unsuitable(
            f"`{seen.boundary}` returns {tuple(seen.hidden.shape)} for {rows} rows - what belongs to one row cannot "
            "be told - train without `cache_frozen_prefix`."
        )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    training = [names[id(leaf)] for leaf in _leaves(seen.hidden) if id(leaf) in names]
    if training:
        raise Unsuitable(
            f"`{training[0]}` trains and takes part in what `{seen.boundary}` returns - a stored hidden state would "
            "be out of date after one step - freeze it, too."
        )


def _emptied(output: Any, hidden: Tensor) -> Any:
    """`output` with a hole in place of `hidden`; tensors and objects of the forward that was watched are let go."""
    if output is hidden:
        return _Hole
    if isinstance(output, (Mapping, tuple, list)):
        return _like(output, (_emptied(value, hidden) for value in values_of(output)))
    return output if isinstance(output, (bool, int, float, str)) else None


def _filled(skeleton: Any, hidden: Tensor) -> Any:
    if skeleton is _Hole:
        return hidden
    if isinstance(skeleton, (Mapping, tuple, list)):
        return _like(skeleton, (_filled(value, hidden) for value in values_of(skeleton)))
    return skeleton


def _like(container: Any, values: Iterable[Any]) -> Any:
    kind = type(container)
    if isinstance(container, Mapping):
        return kind(**dict(zip(container, values, strict=True)))
    return kind(*values) if hasattr(container, "_fields") else kind(values)  # a named tuple takes them one by one


def _leaves(tensor: Tensor) -> Iterator[Tensor]:
    """The leaves of the graph behind a tensor."""
    waiting, done = [tensor.grad_fn], set()
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in done:
            continue
        done.add(node)
        if hasattr(node, "variable"):  # accumulates the gradient of a leaf
            yield node.variable
        waiting.extend(following for following, _ in node.next_functions)
