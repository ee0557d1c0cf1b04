"""Language models: which models predict tokens of a vocabulary, from which layer, and whether the next one."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from hf_transfer.functional.task_loss import UNLABELLED


__all__ = [
    "is_language_model",
    "next_token_labels",
    "output_layer",
    "predicts_next_token",
    "pretrained_part",
]

# How transformers calls the classes that fill in masked tokens. They cannot generate, which is what tells the others.
_MASKED = "ForMaskedLM"


def pretrained_part(model: nn.Module) -> tuple[str, nn.Module]:
    """The outermost model of `transformers`, below PEFT, DDP or `torch.compile`; the model itself if there is none."""
    for name, module in model.named_modules():
        # the class attribute of `PreTrainedModel`, whose import would take seconds; PEFT forwards it on instances only
        if hasattr(type(module), "base_model_prefix"):
            return name, module
    return "", model


def is_language_model(model: nn.Module) -> bool:
    """
    Whether a model predicts tokens of its vocabulary, told by its class: a token classifier returns logits of the same
    shape.

    Example:
        >>> from transformers import BertConfig, BertForMaskedLM, BertForTokenClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> is_language_model(BertForMaskedLM(config)), is_language_model(BertForTokenClassification(config))
        (True, False)
    """
    _, owner = pretrained_part(model)
    return (_generates(owner) or type(owner).__name__.endswith(_MASKED)) and output_layer(owner) is not None


def predicts_next_token(model: nn.Module) -> bool:
    """Whether a model predicts the token behind each one: a causal language model, without a decoder of its own."""
    _, owner = pretrained_part(model)
    encoder_decoder = getattr(getattr(owner, "config", None), "is_encoder_decoder", False)
    return _generates(owner) and not encoder_decoder and output_layer(owner) is not None


def output_layer(owner: Any) -> nn.Module | None:
    """The layer that returns the logits over the vocabulary, as a model of `transformers` names it."""
    getter = getattr(owner, "get_output_embeddings", None)
    return getter() if getter is not None else None


def next_token_labels(labels: Tensor) -> Tensor:
    """
    The label of each position of a causal language model: the token behind it, and none for the last.

    Args:
        labels (`Tensor`): `(B, T)`, as the model takes them; -100 where there is none.

    Example:
        >>> import torch
        >>> next_token_labels(torch.tensor([[4, 5, 6]])).tolist()
        [[5, 6, -100]]
    """
    return F.pad(labels[:, 1:], (0, 1), value=UNLABELLED)


def _generates(owner: Any) -> bool:
    can_generate = getattr(type(owner), "can_generate", None)
    return can_generate is not None and bool(can_generate())
