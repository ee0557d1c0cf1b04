"""Blocks that run backward by themselves: they must be told that something in them trains."""

from __future__ import annotations

from typing import Any


# `_ReversibleFunction` (transformers 5.23) hides the weights of the blocks from autograd
_REVERSIBLE = frozenset({"reformer"})

__all__ = ["let_gradients_in"]


def let_gradients_in(base: Any) -> None:
    """
    Make what enters reversible blocks require gradients.

    Autograd only sees the input of such blocks. With frozen embeddings it would take them for constants, and adapters
    in them would never train, without an error. Other models are left as they are.

    Args:
        base (`PreTrainedModel`): the model under the adapters.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> bert = BertModel(BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
        >>> let_gradients_in(bert)
        >>> len(bert.get_input_embeddings()._forward_hooks)
        0
    """
    if getattr(getattr(base, "config", None), "model_type", None) in _REVERSIBLE:
        base.enable_input_require_grads()
