"""Which tensor of a checkpoint belongs to which name of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable
from contextlib import suppress
from copy import deepcopy
from typing import Any, NamedTuple, cast

import torch
import transformers
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

from hf_transfer.weights.slots import Slot
from hf_transfer.weights.source import Source


__all__ = ["Candidate", "candidates", "match"]

SAME, PREFIX = "same name", "another base-model prefix"


class Candidate(NamedTuple):
    """A tensor of a checkpoint under the name a model of its kind gives it."""

    name: str
    sources: tuple[str, ...]  # its names in the checkpoint; several where transformers builds one tensor of them
    shape: tuple[int, ...]
    tensor: Tensor | None = None  # where it had to be computed already
    how: str = ""


def candidates(source: Source, base: nn.Module, slots: dict[str, Slot]) -> tuple[list[Candidate], str]:
    """
    The tensors of a checkpoint under the names of modules, and the `base_model_prefix` of those names.

    The names on the Hub are not those of the modules for ViT and many others, and experts are stacked into one tensor;
    the mappings of `transformers` itself are applied, those of the model the checkpoint was written by.
    """
    if source.as_module or not isinstance(base, PreTrainedModel):
        return [Candidate(name, (name,), shape, how=SAME) for name, shape in source.shapes.items()], (source.prefix)
    writer = _writer(source, base)
    known: dict[str, Any] = dict(slots) if writer is base else dict(writer.state_dict())
    known.update((alias, slot) for slot in slots.values() for alias in slot.aliases if writer is base)
    transforms = get_model_conversion_mapping(writer)
    renamings = [entry for entry in transforms if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in transforms if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    found: list[Candidate] = []
    to_convert: dict[str, tuple[Any, list[str]]] = {}
    for name in sorted(source.shapes, key=dot_natural_key):
        renamed, pattern = rename_source_key(name, renamings, converters, writer.base_model_prefix, known)
        if renamed not in known and name in known:  # as transformers does: a name that needs no renaming
            renamed, pattern = name, None
        if pattern is None:
            shorter, longer = sorted((name, renamed), key=len)
            how = PREFIX if longer.endswith(f".{shorter}") else "renamed by transformers"
            how = SAME if renamed == name else how
            found.append(Candidate(renamed, (name,), source.shapes[name], how=how))
            continue
        converter, names = to_convert.setdefault(renamed, (deepcopy(by_pattern[pattern]), []))
        converter.add_tensor(renamed, name, pattern, cast(Any, source.read([name])[name]))
        names.append(name)
    for renamed, (converter, names) in to_convert.items():
        for target, value in converter.convert(renamed, model=writer, config=writer.config).items():
            tensor = value[0] if isinstance(value, list) else value
            found.append(Candidate(target, tuple(names), tuple(tensor.shape), tensor, "converted by transformers"))
    return found, writer.base_model_prefix


def match(found: Iterable[Candidate], prefix: str, base: nn.Module, names: Container[str]) -> dict[str, Candidate]:
    """
    The candidate for each name of the model: the same name, or the same but for the prefixes of the base models.

    Where several fit, the one whose own name is nearest comes first.
    """
    found = list(found)
    own = getattr(base, "base_model_prefix", "")
    matched = _match(found, [prefix, own], own, names)
    if not matched and found:  # a state dict of another kind of model does not say its prefix
        common, _ = Counter(candidate.name.partition(".")[0] for candidate in found).most_common(1)[0]
        matched = _match(found, [common], own, names)
    return matched


def _match(found: list[Candidate], prefixes: list[str], own: str, names: Container[str]) -> dict[str, Candidate]:
    matched: dict[str, Candidate] = {}
    for candidate in found:
        spellings = [candidate.name, *(candidate.name.removeprefix(f"{prefix}.") for prefix in prefixes if prefix)]
        spellings += [f"{own}.{name}" for name in spellings] if own else []
        name = next((name for name in spellings if name in names), None)
        if name is None:
            continue
        if name != candidate.name and candidate.how == SAME:
            candidate = candidate._replace(how=PREFIX)
        if name not in matched or candidate.name == name:
            matched[name] = candidate
    return matched


def _writer(source: Source, base: PreTrainedModel) -> PreTrainedModel:
    """A model of the kind that wrote the checkpoint, without weights; the model itself where they are of one kind."""
    kind = source.settings.get("model_type")
    if kind is None or kind == base.config.model_type or kind not in CONFIG_MAPPING:
        return base
    # A configuration that does not build a model here says no more than its model type: names are tried as they are.
    with suppress(Exception), torch.device("meta"):
        config = CONFIG_MAPPING[kind].from_dict(dict(source.settings))
        architecture = getattr(transformers, (source.settings.get("architectures") or [""])[0] or "-", None)
        return architecture(config) if architecture is not None else AutoModel.from_config(config)
    return base
