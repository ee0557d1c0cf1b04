"""Which models take a prompt or a prefix that is learned: what PEFT's forward for them needs."""

from __future__ import annotations

import inspect
import re
from typing import Any

from transformers import PreTrainedModel


# Said by the forward of a model that finds the last real token, or the end-of-sequence token, in `input_ids`.
_READS_IDS = re.compile(r"detect padding tokens|Passing input embeddings is currently not supported")

__all__ = ["check_prompt", "prompt_sizes"]


def check_prompt(model: Any, word: str, task_type: str | None, *, head: str) -> None:
    """
    Refuse a model whose logits would be wrong, or that PEFT's forward cannot run.

    Args:
        model (`PreTrainedModel`): the model.
        word (`str`): `"prefix_tuning"`, `"prompt_tuning"` or `"p_tuning"`.
        task_type (`str`, *optional*): PEFT's word for the task.
        head (`str`): name of the head.

    Raises:
        ValueError: if the model is no text classifier, or not one of those.
    """
    kind = type(model).__name__
    if task_type is None:
        raise ValueError(
            f"{kind} is no text or token classifier that PEFT has a forward for: {word} puts learned tokens before a "
            'text. Take a method that adapts layers, such as "lora".'
        )
    if word == "prefix_tuning":
        if not _takes_prefix(model):
            raise ValueError(
                f"{kind} takes no `past_key_values`, by which prefix tuning hands the prefix to the attention. Take "
                '"lora", or "prompt_tuning", which puts the tokens before the input.'
            )
        if not hasattr(model, head.partition(".")[0]) or not _calls_head(model, head):
            raise ValueError(
                f"PEFT's forward for prefix tuning calls a layer named `classifier` or `score`, and the head of "
                f'{kind} is `{head}`: it would not run. Take "lora" or "prompt_tuning".'
            )
    elif task_type == "TOKEN_CLS":
        raise ValueError(
            f"With {word} the model returns logits for the learned tokens too, which have no labels: the loss of "
            f'{kind} cannot be computed. Take "prefix_tuning" or "lora" for token classification.'
        )
    elif _READS_IDS.search(inspect.getsource(type(model).forward)):
        raise ValueError(
            f"{kind} finds the token at which it classifies in `input_ids`, and {word} passes `inputs_embeds`: padded "
            'rows would be classified at their padding. Take "prefix_tuning" or "lora".'
        )


def prompt_sizes(model: Any, blocks: int) -> dict[str, int]:
    """`token_dim`, `num_layers` and `num_attention_heads`, which PEFT finds only where a config calls them so."""
    config = model.config.get_text_config()
    sizes = {
        "token_dim": model.get_input_embeddings().embedding_dim,
        "num_layers": getattr(config, "num_hidden_layers", blocks),
        "num_attention_heads": getattr(config, "num_attention_heads", None),
    }
    return {key: value for key, value in sizes.items() if isinstance(value, int)}


def _takes_prefix(model: Any) -> bool:
    """Whether the model, or the transformer inside that PEFT runs in its place, takes `past_key_values`."""
    owners = [model, *[child for child in model.children() if isinstance(child, PreTrainedModel)][:1]]
    return any("past_key_values" in inspect.signature(type(owner).forward).parameters for owner in owners)


def _calls_head(model: Any, head: str) -> bool:
    """Whether PEFT runs the whole model, or finds the head by its name and runs that."""
    if "past_key_values" in inspect.signature(type(model).forward).parameters:
        return True
    return any(word in head.partition(".")[0] for word in ("classifier", "score"))
