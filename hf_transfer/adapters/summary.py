"""`adapter_summary`: what an adapter was put into, and how much of the model trains, as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from torch import nn

from hf_transfer._blocks import bare_name
from hf_transfer.adapters.add import adapted_anatomy
from hf_transfer.adapters.methods import peft
from hf_transfer.adapters.targets import layers


_COLUMNS = ("part", "adapted", "saved whole", "trainable", "of")

__all__ = ["adapter_summary"]


class _Row(NamedTuple):
    part: str
    adapted: Counter[str]
    saved: str
    trainable: int
    total: int


def adapter_summary(model: nn.Module, *, name: str | None = None) -> str:
    """
    A table of what an adapter goes to: a line for every part of the model with something in it that trains, alike
    blocks together.

    Args:
        model (`PeftModel`): a model from [`add_adapter`] or PEFT.
        name (`str`, *optional*): which adapter; by default the active one.

    Raises:
        ValueError: if the model has no adapter of PEFT's, or none of that name.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from hf_transfer import add_adapter
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=3, num_attention_heads=2)
        >>> print(adapter_summary(add_adapter(BertForSequenceClassification(config), r=2, train_blocks=1)))
        lora `default` of BertForSequenceClassification: 77,538 of 186,842 parameters train (41.50%)
        part       adapted             saved whole  trainable      of
        block.0-1  8 attention, 4 mlp  -               24,896 130,000
        block.2    -                   layer.2         52,552  52,552
        neck       -                   pooler              72      72
        head       -                   classifier          18      18
    """
    if not hasattr(model, "peft_config"):
        raise ValueError(
            f"{type(model).__name__} has no adapter: there is nothing to sum up. Pass what `add_adapter` or "
            "`get_peft_model` returned."
        )
    owner: Any = model
    chosen = name or _active(owner)
    if chosen not in owner.peft_config:
        raise ValueError(
            f"The model has no adapter `{chosen}`: it has {', '.join(owner.peft_config)}. Pass one of these as `name`."
        )
    base = owner.get_base_model()
    found = adapted_anatomy(base)
    kinds = {layer.name: layer.kind for layer in layers(base, found)}
    part_of = {bare_name(key): part for key, part in found.part_of().items()}
    adapted: dict[str, Counter[str]] = {part: Counter() for part in found.parts()}
    saved: dict[str, list[str]] = {part: [] for part in found.parts()}
    for key, module in base.named_modules():
        place = _part(bare_name(key), part_of)
        if place is None:
            continue
        if _is_adapted(module, chosen):
            adapted[place][kinds.get(bare_name(key), type(module).__name__)] += 1
        elif _is_saved(module, chosen):
            saved[place].append(bare_name(key))
    rows: list[_Row] = []
    others = set(owner.peft_config) - {chosen}
    parameters = dict(base.named_parameters())
    for part, names in found.parts().items():
        trains = sum(parameters[one].numel() for one in names if parameters[one].requires_grad)
        in_all = sum(parameters[one].numel() for one in names if not _is_spare(one, chosen, others))
        rows.append(_Row(part, adapted[part], _shown(saved[part]), trains, in_all))
    prompt = sum(p.numel() for key, p in owner.named_parameters() if "prompt_encoder" in key and p.requires_grad)
    if prompt:
        rows.insert(0, _Row("prompt", Counter(), "-", prompt, prompt))
    trainable, total = sum(row.trainable for row in rows), sum(row.total for row in rows)
    method = owner.peft_config[chosen].peft_type
    title = (
        f"{getattr(method, 'value', method).lower()} `{chosen}` of {type(base).__name__}: {trainable:,} of {total:,} "
        f"parameters train ({100 * trainable / max(total, 1):.2f}%)"
    )
    shown = [row for row in rows if row.adapted or row.saved != "-" or row.trainable]
    return "\n".join([title, *_table(_joined(shown))])


def _active(model: Any) -> str:
    active = model.active_adapter
    return active if isinstance(active, str) else active[0]


def _part(name: str, part_of: dict[str, str]) -> str | None:
    """The part of the parameters that a module holds; `None` for a module that spans several or holds none."""
    places = {part for key, part in part_of.items() if key.startswith(f"{name}.")}
    return places.pop() if len(places) == 1 else None


def _is_adapted(module: nn.Module, name: str) -> bool:
    peft()
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(module, BaseTunerLayer) and name in module._get_available_adapters()


def _is_saved(module: nn.Module, name: str) -> bool:
    from peft.utils.other import ModulesToSaveWrapper

    return isinstance(module, ModulesToSaveWrapper) and name in module.modules_to_save


def _is_spare(parameter: str, name: str, others: Collection[str]) -> bool:
    """Whether a parameter does not run with this adapter: another's, or the original of what it saves whole."""
    keys = parameter.split(".")
    return "original_module" in keys or (name not in keys and any(other in keys for other in others))


def _counted(kinds: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "-"


def _shown(names: Sequence[str]) -> str:
    """The last words of up to three names."""
    short = [
        name if (tail := name.rpartition(".")[2]) == name else tail if not tail.isdigit() else _last_two(name)
        for name in names
    ]
    counts = Counter(short)
    shown = [word if count == 1 else f"{count} {word}" for word, count in counts.items()]
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "") or "-"


def _last_two(name: str) -> str:
    return ".".join(name.split(".")[-2:])


def _joined(rows: Sequence[_Row]) -> list[_Row]:
    """Neighbouring blocks with the same layers as one row, all numbers added up."""
    result: list[_Row] = []
    last_block: _Row | None = None
    for row in rows:
        is_block = row.part.startswith("block.") and row.saved == "-"
        if is_block and last_block is not None and last_block.adapted == row.adapted:
            last = result.pop()
            first = last.part.partition("-")[0]
            part = f"{first}-{row.part.removeprefix('block.')}"
            row_of_all = _Row(
                part, last.adapted + row.adapted, "-", last.trainable + row.trainable, last.total + row.total
            )
            result.append(row_of_all)
        else:
            result.append(row)
        last_block = row if is_block else None
    return result


def _table(rows: Sequence[_Row]) -> list[str]:
    cells = [
        _COLUMNS,
        *((row.part, _counted(row.adapted), row.saved, f"{row.trainable:,}", f"{row.total:,}") for row in rows),
    ]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_COLUMNS))]
    lines = []
    for row in cells:
        words = [cell.ljust(width) for cell, width in zip(row[:3], widths[:3], strict=True)]
        numbers = [cell.rjust(width) for cell, width in zip(row[3:], widths[3:], strict=True)]
        lines.append("  ".join(words) + "  " + " ".join(numbers))
    return [line.rstrip() for line in lines]
