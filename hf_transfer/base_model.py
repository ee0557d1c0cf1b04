"""Models without a head, such as `BertModel`: what stands for their features, and their anatomy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from hf_transfer._blocks import ForwardOrder
from hf_transfer.anatomy import Anatomy


__all__ = ["base_anatomy", "base_features"]


def base_features(model: nn.Module, output: Any, inputs: Mapping[str, Any]) -> Tensor:
    """
    What a model without a head makes of each row: the output of its pooler, else the mean of its last hidden state
    over what is no padding. The same as [`extract_features`] reads.

    Args:
        model (`nn.Module`): the model.
        output (`ModelOutput`): what it returned.
        inputs (`Mapping[str, Any]`): what it was called with; `attention_mask` tells padding.

    Shape:
        - returns `(B, D)` float32.

    Raises:
        ValueError: if the output has neither.
    """
    from hf_transfer.features.extraction.pooling import as_tokens, pool, real_tokens

    pooled = getattr(output, "pooler_output", None)
    if pooled is not None:
        return pooled.float().flatten(1)
    hidden = getattr(output, "last_hidden_state", None)
    if hidden is None:
        raise ValueError(
            f"{type(model).__name__} returns {', '.join(output)} and no `last_hidden_state`: which of them are its "
            "features is unknown. Load it with the head it was trained with, as AutoModelFor...Classification."
        )
    tokens, _ = as_tokens(hidden.float(), model)
    mask = inputs.get("attention_mask")
    if mask is not None and mask.dim() == 2:
        mask = real_tokens(model, mask, tokens.shape[1])
    features = pool(tokens, "mean", mask)
    assert isinstance(features, Tensor)
    return features


def base_anatomy(model: nn.Module) -> Anatomy:
    """
    The anatomy of a model without a head: its blocks and embeddings; the head has no name, the features are as wide as
    its last norm or bias.

    Args:
        model (`nn.Module`): the model.

    Raises:
        ValueError: if it has no blocks, or nothing that tells how wide its features are.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=2, num_attention_heads=2)
        >>> found = base_anatomy(BertModel(config))
        >>> found.blocks, found.feature_dim, found.head
        (('encoder.layer.0', 'encoder.layer.1'), 8, '')
    """
    pieces = ForwardOrder(model).pieces()
    blocks = tuple(piece.names[0] for piece in pieces if piece.is_block)
    widths = [parameter.shape[0] for parameter in model.parameters() if parameter.dim() == 1]
    if not blocks or not widths:
        raise ValueError(
            f"{type(model).__name__} has {len(blocks)} blocks and {len(widths)} norms and biases: where its layers "
            "are and how wide its features are cannot be told. Give a model of transformers, or one with its head."
        )
    first = next(number for number, piece in enumerate(pieces) if piece.is_block)
    embeddings = tuple(piece.names[0] for number, piece in enumerate(pieces) if number < first or piece.is_embedding)
    return Anatomy(head="", blocks=blocks, embeddings=embeddings, feature_dim=widths[-1], _parts={}, _modules={})
