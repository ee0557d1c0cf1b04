"""Which parameters meta-learning trains, and which of them the inner loop adapts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from hf_transfer.anatomy import anatomy
from hf_transfer.callbacks.selection import select_parameters
from hf_transfer.meta.scale_shift import is_scale_shift


WORDS = ("head", "lora", "scale_shift", "all")

__all__ = ["WORDS", "Selection", "select"]


@dataclass(frozen=True)
class Selection:
    """
    Names of parameters, in the order of the model.

    Args:
        trained (`tuple[str, ...]`): what the outer loop trains; the head is always among them.
        head (`tuple[str, ...]`): those of the head.
    """

    trained: tuple[str, ...]
    head: tuple[str, ...]


def select(model: nn.Module, parameters: str | Sequence[str]) -> Selection:
    """
    The parameters that a word or a list of patterns stands for, with those of the head.

    Args:
        model (`nn.Module`):
            Any classifier, also under PEFT. Of an adapter model only what its adapter trains can be chosen.
        parameters (`str` or `Sequence[str]`):
            `"head"`, `"lora"`, `"scale_shift"` (after `add_scale_shift`), `"all"` (whatever is not frozen), or
            patterns as `UnfreezingSchedule` has them: `["block.-1", "*.LayerNorm.*"]`.

    Raises:
        ValueError: if the word is unknown or stands for nothing in this model, or the head is frozen under PEFT.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> select(BertForSequenceClassification(config), "head").trained
        ('classifier.weight', 'classifier.bias')
    """
    parts = anatomy(model).parts()
    adapted = hasattr(model, "peft_config")
    order = [name for name, value in model.named_parameters() if value.requires_grad]
    free = set(order)
    head = [name for name in parts["head"] if not adapted or name in free]
    if not head:
        raise ValueError(
            "The adapter leaves the head frozen: every episode has classes of its own, and the head must learn them. "
            "Put the adapter in with `add_adapter(model)`, which trains the head beside it."
        )
    if isinstance(parameters, str):
        chosen = _by_word(parameters, order)
    else:
        chosen = select_parameters(parts, parameters) & (free if adapted else set(_names(model)))
    if isinstance(parameters, str) and parameters in ("lora", "scale_shift") and not chosen:
        call = "add_adapter(model)" if parameters == "lora" else "add_scale_shift(model)"
        raise ValueError(
            f'`parameters="{parameters}"`, but the model has none that train: nothing but its head would be learned. '
            f"Call `model = {call}` first, or choose another of {', '.join(WORDS)}."
        )
    chosen |= set(head)
    return Selection(tuple(name for name in _names(model) if name in chosen), tuple(head))


def _by_word(word: str, order: Sequence[str]) -> set[str]:
    if word == "head":
        return set()
    if word == "all":
        return set(order)
    if word == "lora":
        return {name for name in order if any(step.startswith("lora_") for step in name.split("."))}
    if word == "scale_shift":
        return {name for name in order if is_scale_shift(name)}
    raise ValueError(
        f"`parameters={word!r}` is no word for a part of a model: which parameters to train would be a guess. Use "
        f"one of {', '.join(WORDS)}, or a list of patterns such as `[{word!r}]`."
    )


def _names(model: nn.Module) -> list[str]:
    return [name for name, value in model.named_parameters() if value.is_floating_point()]
