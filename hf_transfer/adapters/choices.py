"""What an adapter's config says of a model: the layers it goes to, and what is saved whole beside it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from torch import nn
from transformers.utils import logging

from hf_transfer._blocks import bare_modules, bare_name
from hf_transfer.adapters.methods import Method
from hf_transfer.adapters.missing_weights import missing_weights
from hf_transfer.adapters.saved_modules import outermost, saved_modules, wrapped_modules
from hf_transfer.adapters.targets import WORDS, Layer, chosen, layers, matched, narrowing, readable_names
from hf_transfer.anatomy import Anatomy


__all__ = ["choose_saved", "choose_targets"]

logger = logging.get_logger(__name__)


def choose_saved(
    model: nn.Module,
    found: Anatomy,
    config: Any,
    task: str | None,
    *,
    given: Sequence[str] | None = None,
    train_blocks: int = 0,
) -> list[str]:
    """
    Full names of the modules that are trained in full and saved with the adapter; arguments as of [`add_adapter`].

    Raises:
        ValueError: if a name that was given is that of no module, or the config has its own.
    """
    own = getattr(config, "modules_to_save", None)
    if own is not None:
        if given or train_blocks:
            raise ValueError(
                "`modules_to_save` stands in the config, and `modules_to_save` or `train_blocks` was given too: which "
                "is meant is unclear. Leave it out of the config, or name everything there."
            )
        return list(own)
    names = {bare_name(name) for name, _ in bare_modules("", model) if name}
    for one in given or ():
        _check_name(one, "modules_to_save", names, [name for name in names if name.endswith(one)])
    missing: Collection[str] | None = () if given else missing_weights(model)
    if missing is None:
        logger.warning_once(
            f"{type(model).__name__} was not loaded from a checkpoint that is still there: an adapter is nothing "
            "without the weights under it. If it is to be loaded again, save the model with `save_pretrained` and "
            "load it from there before adding the adapter."
        )
    saved = saved_modules(model, found, missing=missing, train_blocks=train_blocks)
    if type(config).__name__ == "LNTuningConfig":  # it saves a whole copy of a norm, statistics included
        norms = {layer.name for layer in layers(model, found) if layer.type == "Norm"}
        saved = [name for name in saved if name not in norms]
    full = [name for name in names if name.endswith(tuple(given))] if given else []
    optional = found.modules("neck") if missing is None else ()  # the checkpoint may well hold it
    return wrapped_modules(model, found, outermost([*saved, *full]), task, optional=optional)


def choose_targets(
    model: nn.Module,
    found: Anatomy,
    config: Any,
    method: Method | None,
    saved: Sequence[str],
    *,
    asked: str | Sequence[str] | None = None,
) -> None:
    """
    Write into the config which layers the adapter goes to.

    Args:
        model (`nn.Module`): the model, without PEFT around it.
        found (`Anatomy`): its anatomy.
        config (`PeftConfig`): is changed.
        method (`Method`, *optional*): what its method can adapt; `None` for a method that has no word here.
        saved (`Sequence[str]`): names of what is saved whole, which takes no adapter.
        asked (`str` or `Sequence[str]`, *optional*): words or names of PEFT's; by default every layer it can adapt.

    Raises:
        ValueError: if there is nothing to adapt, a name matches nothing, or the config has its own names.
    """
    own = config.target_modules
    if own is not None and asked is not None:
        raise ValueError(
            "`target_modules` stands in the config, and was given too: which is meant is unclear. Leave it out of one "
            "of the two."
        )
    asked = own if asked is None else asked
    if asked is None and (method is None or getattr(config, "target_parameters", None)):
        return  # the bare weights that the user named, or PEFT's own choice
    types = method.layers if method is not None else ()
    every = layers(model, found)
    inside = re.compile("|".join(rf"(?:^|.*\.){name}(?:$|\..*)" for name in saved)) if saved else None
    # as `peft.tuners.tuners_utils.check_target_module_exists` (0.21) decides what is not to be adapted
    candidates = [one for one in every if one.type in types and not (inside and inside.match(one.name))]
    names = {bare_name(name) for name, _ in bare_modules("", model) if name}
    free = [name for name in sorted(names) if not (inside and inside.match(name))]
    scaling = type(config).__name__ == "IA3Config"
    words = _words(asked)
    if words is not None:
        wanted = chosen(candidates, words, scaling=scaling)
        if method is not None and method.block is not None:
            wanted = _divisible(candidates, wanted, getattr(config, method.block))
        if not wanted:
            raise ValueError(_nothing_to_adapt(model, config, types, words, every))
    else:
        assert asked is not None
        for one in [] if isinstance(asked, str) else asked:
            _check_name(one, "target_modules", names, matched([one], names))
        config.target_modules = asked if isinstance(asked, str) else set(asked)
        if not scaling or config.feedforward_modules is not None:
            return
        wanted = matched(asked, free) if asked != "all-linear" else chosen(candidates, ["attention", "mlp"])
    _write(config, wanted, free, narrowing(candidates) if scaling else None)
    if hasattr(config, "fan_in_fan_out") and {one.type for one in candidates if one.name in wanted} == {"Conv1D"}:
        config.fan_in_fan_out = True  # PEFT would set it with a warning


def _write(config: Any, wanted: Sequence[str], free: Sequence[str], inputs: Sequence[str] | None) -> None:
    """Name the targets, for a method that scales activations also those whose input it scales (`inputs`)."""
    if inputs is None:
        short = readable_names(wanted, set(free) - set(wanted))
        config.target_modules = short if isinstance(short, str) else set(short)
        return
    forward = [name for name in wanted if name in set(inputs)]
    rest = [name for name in wanted if name not in set(inputs)]
    # a name must not stand for a layer of the other group
    one = readable_names(forward, set(free) - set(forward)) if forward else []
    two = readable_names(rest, set(free) - set(rest)) if rest else []
    if isinstance(one, str) or isinstance(two, str):
        patterns = [_as_pattern(part) for part in (one, two)]
        config.feedforward_modules = patterns[0] or []
        config.target_modules = "|".join(filter(None, patterns))
    else:
        # PEFT looks for these with a bare `endswith` (0.21), for which `fc` is the end of `c_fc`, too
        others = tuple(f".{name}" for name in rest)
        if any(name.endswith(ending) for ending in one for name in others):
            one = forward
        config.feedforward_modules = set(one)
        config.target_modules = {*one, *two}


def _as_pattern(names: Sequence[str] | str) -> str:
    if isinstance(names, str):
        return names
    return rf"(?:.*\.)?(?:{'|'.join(re.escape(name) for name in names)})" if names else ""


def _words(asked: str | Iterable[str] | None) -> list[str] | None:
    """The kinds that are asked for, or `None` if these are names."""
    listed = ["all"] if asked is None else [asked] if isinstance(asked, str) else list(asked)
    return listed if listed and all(one in WORDS for one in listed) else None


def _divisible(candidates: Iterable[Layer], wanted: Sequence[str], block: int) -> list[str]:
    """Layers whose widths the size of a block divides, as the method wants it; PEFT refuses the others."""
    widths = {layer.name: (layer.inputs, layer.outputs) for layer in candidates}
    return [name for name in wanted if block <= 0 or all(width % block == 0 for width in widths[name])]


def _nothing_to_adapt(
    model: nn.Module, config: Any, types: Iterable[str], words: Iterable[str], every: Iterable[Layer]
) -> str:
    has = {f"{layer.kind} {layer.type}": layer.name for layer in every}
    return (
        f"{type(config).__name__} adapts {', '.join(types)} layers, of widths that its block size divides where it "
        f"has one, and {type(model).__name__} has none among {', '.join(words)}: there is nothing to train but the "
        f"head. It has {', '.join(f'{kind} (`{name}`)' for kind, name in has.items()) or 'none at all'}. Take "
        'another method, "lora" for linear layers and convolutions or "ln_tuning" for norms, or name '
        "target_modules=[...]."
    )


def _check_name(one: str, argument: str, names: Collection[str], found: Collection[str]) -> None:
    if not found:
        close = difflib.get_close_matches(one, {name.rpartition(".")[2] for name in names} | set(names), n=3)
        words = f" or of {', '.join(WORDS)}" if argument == "target_modules" else ""
        raise ValueError(
            f'{argument} has "{one}", with which no name of a module ends: nothing would be trained there. '
            f"{f'Near it are {chr(44).join(close)}. ' if close else ''}Pass names of model.named_modules(){words}."
        )
