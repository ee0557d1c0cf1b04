"""What is trained in full beside an adapter and saved with it (`modules_to_save`), by full names."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from torch import nn
from transformers.utils import logging

from hf_transfer._blocks import ancestors, bare_modules, bare_name
from hf_transfer.anatomy import Anatomy
from hf_transfer.norms import has_statistics


# PEFT matches these beside the names it is given, see `PeftModelForSequenceClassification.__init__` (0.21).
_ALWAYS = {"SEQ_CLS": ("classifier", "score"), "TOKEN_CLS": ("classifier", "score")}

__all__ = ["outermost", "saved_modules", "statistics", "wrapped_modules"]

logger = logging.get_logger(__name__)


def saved_modules(
    model: nn.Module, found: Anatomy, *, missing: Collection[str] | None, train_blocks: int = 0
) -> list[str]:
    """
    The modules whose weights the base checkpoint does not hold or an adapter cannot carry.

    These are the head, the `train_blocks` topmost blocks, what the checkpoint lacks (a new pooler), and every layer
    with running statistics, since the files of an adapter hold no buffers. Where it is not known what the checkpoint
    lacks, all that lies between the last block and the head.

    Args:
        model (`nn.Module`): the model, without PEFT around it.
        found (`Anatomy`): its anatomy.
        missing (`Collection[str]`, *optional*): names of weights that the checkpoint lacks; `None` for unknown.
        train_blocks (`int`, *optional*, defaults to 0): how many blocks to train in full.

    Raises:
        ValueError: if the model has fewer blocks.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from hf_transfer import anatomy
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=2, num_attention_heads=2)
        >>> bert = BertForSequenceClassification(config)
        >>> saved_modules(bert, anatomy(bert), missing=None, train_blocks=1)
        ['classifier', 'bert.encoder.layer.1', 'bert.pooler']
        >>> saved_modules(bert, anatomy(bert), missing=[])
        ['classifier']
    """
    if not 0 <= train_blocks <= len(found.blocks):
        raise ValueError(
            f"train_blocks={train_blocks}, but {type(model).__name__} has {len(found.blocks)} blocks: it counts the "
            f"topmost ones, which train in full. Pass a number from 0 to {len(found.blocks)}."
        )
    count = len(found.blocks)
    names = list(found.modules("head"))
    for number in range(count - train_blocks, count):
        names += found.modules(f"block.{number}")
    if missing is None:
        names += found.modules("neck")
    else:
        # a parameter beside other modules (a mask token) has no module of its own that PEFT could wrap
        leaves = {bare_name(name) for name, module in bare_modules("", model) if not any(module.children())}
        names += sorted(owner for name in missing if (owner := name.rpartition(".")[0]) in leaves)
    return outermost([*_callable(model, names), *statistics(model)])


def statistics(model: nn.Module) -> list[str]:
    """Names of the layers with running statistics."""
    return list(dict.fromkeys(bare_name(name) for name, module in bare_modules("", model) if has_statistics(module)))


def wrapped_modules(
    model: nn.Module, found: Anatomy, wanted: Sequence[str], task_type: str | None, *, optional: Collection[str] = ()
) -> list[str]:
    """
    What PEFT makes of a list of names: it takes every module whose name ends with one of them, even in the middle of a
    word (`classifier` is `pre_classifier` too), and for some tasks more names. The outermost of these, so that no copy
    lies inside another.

    A name of a part of the backbone that is matched so is trained and saved too, which a log message tells.

    Args:
        model (`nn.Module`): the model, without PEFT around it.
        found (`Anatomy`): its anatomy.
        wanted (`Sequence[str]`): full names.
        task_type (`str`, *optional*): PEFT's word for the task.
        optional (`Collection[str]`): those of `wanted` to leave out rather than to train a part of the backbone.
    """
    names = list(dict.fromkeys(bare_name(name) for name, _ in bare_modules("", model) if name))
    above_heads = {above for name in found.modules("head") for above in ancestors(name) if above}
    meant = {*wanted, *found.modules("neck"), *above_heads}

    def surplus(endings: tuple[str, ...]) -> list[str]:
        matches = outermost(name for name in names if name.endswith(endings))
        return [name for name in matches if name not in meant and not meant & set(ancestors(name))]

    kept = [name for name in wanted if name not in optional or not surplus((name,))]
    endings = (*kept, *_ALWAYS.get(task_type or "", ()))
    if left_out := sorted(set(wanted) - set(kept)):
        logger.warning(
            f"{', '.join(left_out)} is neither trained nor saved: PEFT matches the end of a name, and would take "
            "parts of the backbone too. The checkpoint under the adapter has to hold it."
        )
    if more := surplus(endings):
        logger.warning(
            f"{', '.join(more)} will be trained and saved whole too: PEFT matches the end of a name, and these end as "
            "the head or another module that has to be saved does."
        )
    return outermost(name for name in names if name.endswith(endings))


def outermost(names: Iterable[str]) -> list[str]:
    """
    The names without those that lie below another, each once.

    Example:
        >>> outermost(["a.b", "a", "ab", "a"])
        ['a', 'ab']
    """
    unique = list(dict.fromkeys(names))
    chosen = set(unique)
    return [name for name in unique if not chosen & {above for above in ancestors(name) if above}]


def _callable(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Lists opened into their items, because PEFT can only wrap what is called."""
    modules = {bare_name(name): module for name, module in bare_modules("", model)}
    result: list[str] = []
    for name in (bare_name(name) for name in names):
        module = modules[name]
        if isinstance(module, nn.ModuleList | nn.ModuleDict):
            result += _callable(model, [f"{name}.{key}" for key, _ in module.named_children()])
        elif any(True for _ in module.parameters()) or any(True for _ in module.buffers()):
            result.append(name)
    return result
