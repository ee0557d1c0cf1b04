"""Where features are read off a model: the input of its head, the output of a block, the output of a base model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from hf_transfer._blocks import ForwardOrder
from hf_transfer.anatomy import anatomy
from hf_transfer.features.extraction.pooling import check_pooling


HEAD_COLUMN = "features"
"""Name of the column of the head's input, or of a base model's output."""

__all__ = ["HEAD_COLUMN", "Tap", "block_outputs", "find_taps", "head_modules", "is_base", "pretrained"]


@dataclass(frozen=True)
class Tap:
    """
    One place at which features are read.

    Args:
        column (`str`):
            Column of the result.
        kind (`"head"`, `"block"` or `"output"`):
            What is read: what enters a module, what leaves it, or what the base model returns.
        module (`str`):
            Name of the module, as in `model.named_modules()`; empty for the output of the model.
        pooling (`str`, *optional*):
            One of [`POOLINGS`]; `None` for the model's own.
    """

    column: str
    kind: Literal["head", "block", "output"]
    module: str
    pooling: str | None


def find_taps(
    model: nn.Module, taps: str | int | Sequence[str | int], pooling: str | None = None, *, head: str | None = None
) -> list[Tap]:
    """
    The places that `taps=` of [`extract_features`] names, in its order, each once.

    Args:
        model (`nn.Module`):
            Any model of `transformers`, with or without a head, also under PEFT.
        taps (`str`, `int` or a sequence of them):
            `"head"`, a block by number (`3`, `"block.3"`, `-1` for the last), `"blocks"` for all.
        pooling (`str`, *optional*):
            One of [`POOLINGS`], for blocks `"mean"` by default. It is the head's too where nothing else is tapped.
        head (`str`, *optional*):
            Name of the head, where it cannot be told from the model.

    Raises:
        ValueError: if there is no such tap, block or pooling, or none is given; if no unique head is found.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8)
        >>> [tap.module for tap in find_taps(BertForSequenceClassification(config), ["head", -1])]
        ['classifier', 'bert.encoder.layer.1']
    """
    check_pooling(pooling)
    wanted = [taps] if isinstance(taps, (str, int)) else list(taps)
    if not wanted:
        raise ValueError(
            "taps=[] names no place to read features at, so there would be none. "
            'Pass "head", the number of a block, or "blocks".'
        )
    blocks = block_outputs(model, head) if wanted != ["head"] else []
    found: dict[str, Tap] = {}
    for tap in wanted:
        if tap == "head":
            own = pooling if wanted == ["head"] else None
            found[HEAD_COLUMN] = _head(model, own, head)
            continue
        for number in range(len(blocks)) if tap == "blocks" else [_number(tap, len(blocks))]:
            column = f"block.{number}"
            found[column] = Tap(column, "block", blocks[number], pooling or "mean")
    return list(found.values())


def block_outputs(model: nn.Module, head: str | None = None) -> list[str]:
    """The module that returns the output of each block; of a block that is spread over several lists the last one."""
    return [piece.names[-1] for piece in ForwardOrder(model, head=head).pieces() if piece.is_block]


def pretrained(model: nn.Module) -> Any:
    """The outermost model of `transformers`, below PEFT or another wrapper; the model itself if there is none."""
    # by the class attribute of `PreTrainedModel`, as PEFT shows the attributes of instances
    return next((module for module in model.modules() if hasattr(type(module), "base_model_prefix")), model)


def is_base(model: nn.Module) -> bool:
    """Whether this is a model without a head, such as `BertModel`."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    names = {name for value in MODEL_MAPPING_NAMES.values() for name in ([value] if isinstance(value, str) else value)}
    inner = pretrained(model)
    return type(inner).__name__ in names and inner.base_model is inner


def head_modules(model: nn.Module, head: str | None = None) -> list[str]:
    """Names of the modules that make up the head: no feature depends on them. A base model has none."""
    if head is None and is_base(model):
        return []
    try:
        return anatomy(model, head=head).modules("head")
    except ValueError:
        return [] if head is None else [head]


def _head(model: nn.Module, pooling: str | None, head: str | None) -> Tap:
    if head is None and is_base(model):
        return Tap(HEAD_COLUMN, "output", "", pooling)
    try:
        return Tap(HEAD_COLUMN, "head", anatomy(model, head=head).head, pooling)
    except ValueError:
        inner = pretrained(model)
        if head is None and getattr(inner, "base_model", None) is inner:
            return Tap(HEAD_COLUMN, "output", "", pooling)
        raise


def _number(tap: str | int, count: int) -> int:
    text = str(tap).removeprefix("block.")
    digits = text.removeprefix("-")
    if isinstance(tap, bool) or not digits.isdecimal():
        raise ValueError(
            f"There is no tap {tap!r}: features are read at the head or at the output of a block, and another place "
            'may hold no hidden state. Pass "head", the number of a block such as 3, "block.3" or -1, or "blocks".'
        )
    number = int(text)
    if not -count <= number < count:
        raise ValueError(
            f"The model has {count} blocks, so there is no block {number} to read features at. "
            f'Pass a number from 0 to {count - 1}, or from -{count} to -1 counted from the last, or "blocks".'
        )
    return number % count
