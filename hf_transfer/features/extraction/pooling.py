"""From one vector per token to one per row: the poolings of block outputs, which honour padding on either side."""

from __future__ import annotations

import torch
from torch import Tensor, nn


POOLINGS = ("cls", "mean", "last", "none")
"""What `pooling=` may say."""

__all__ = ["POOLINGS", "as_tokens", "check_pooling", "pool", "real_tokens"]


def check_pooling(pooling: str | None) -> None:
    """
    Refuse an unknown pooling.

    Raises:
        ValueError: if it is neither `None` nor one of [`POOLINGS`].
    """
    if pooling is not None and pooling not in POOLINGS:
        raise ValueError(
            f'pooling="{pooling}" is unknown; it says how the vectors of a row\'s tokens become one. '
            f"Choose one of {', '.join(POOLINGS)}."
        )


def pool(tokens: Tensor, pooling: str, mask: Tensor | None = None) -> Tensor | list[Tensor]:
    r"""
    Pool `(B, T, D)` over the tokens that are real.

    With tokens $h_{it}$ of row $i$ and its real positions $R_i$ (all of them without a mask),

    $$ \text{mean}_i = \frac{1}{|R_i|} \sum_{t \in R_i} h_{it}, \quad \text{cls}_i = h_{i, \min R_i}, \quad
    \text{last}_i = h_{i, \max R_i} $$

    and `"none"` keeps $h_{it}$ for $t \in R_i$. Padding may stand on either side, also between tokens.

    Args:
        tokens (`Tensor`):
            Vectors `(B, T, D)` of any float type.
        pooling (`str`):
            One of `"cls"`, `"mean"`, `"last"`, `"none"`.
        mask (`Tensor`, *optional*):
            `(B, T)`, not zero at real tokens.

    Shape:
        - returns `(B, D)`; for `"none"` a list of `B` tensors `(|R_i|, D)`. Means are taken in float32.

    Degenerate:
        A row without a real token has mean zero; its first and last token are the first of the padding.

    Raises:
        ValueError: if the mask has other than `B` rows of `T` tokens.

    Example:
        >>> tokens = torch.tensor([[[9.0], [2.0], [4.0]]])
        >>> pool(tokens, "mean", torch.tensor([[0, 1, 1]]))
        tensor([[3.]])
    """
    check_pooling(pooling)
    if mask is None:
        if pooling == "none":
            return list(tokens.unbind())
        if pooling == "mean":
            return tokens.float().mean(1)
        return tokens[:, 0 if pooling == "cls" else -1]
    if mask.shape != tokens.shape[:2]:
        raise ValueError(
            f"The layer returns {tokens.shape[1]} vectors a row, the mask tells of {mask.shape[-1]} tokens: which "
            "vectors are padding is unknown, and they would count as if they were real. Tap a layer that keeps one "
            'vector per token, or the head: `taps="head"`.'
        )
    real = mask != 0
    if pooling == "none":
        return [row[kept] for row, kept in zip(tokens, real, strict=True)]
    if pooling == "mean":
        weights = real.unsqueeze(-1).to(torch.float32)
        # not a product: what stands at padding may be infinite or no number
        return tokens.float().masked_fill(~real.unsqueeze(-1), 0.0).sum(1) / weights.sum(1).clamp(min=1)
    positions = torch.arange(real.shape[1], device=real.device)
    chosen = real.long().argmax(1) if pooling == "cls" else (positions * real).argmax(1)
    return tokens[torch.arange(len(tokens), device=tokens.device), chosen]


def as_tokens(output: Tensor, module: nn.Module) -> tuple[Tensor, bool]:
    """
    The output of a block as `(B, T, D)`, and whether it was an image of `H x W` vectors.

    A map `(B, C, H, W)` or `(B, H, W, C)` becomes `H * W` tokens. Which of its dimensions is the width is read off
    the vectors (biases, scales of norms) among the parameters of the module. `(B, D)` becomes one token.

    Example:
        >>> as_tokens(torch.zeros(2, 8, 3, 3), nn.BatchNorm2d(8))[0].shape
        torch.Size([2, 9, 8])
    """
    if output.dim() == 4:
        widths = {parameter.shape[0] for parameter in module.parameters() if parameter.dim() == 1}
        last = output.shape[3] in widths and output.shape[1] not in widths
        return (output.flatten(1, 2) if last else output.flatten(2).transpose(1, 2)), True
    return (output if output.dim() == 3 else output.flatten(1).unsqueeze(1)), False


def real_tokens(model: nn.Module, mask: Tensor | None, count: int) -> Tensor | None:
    """
    The mask over the `count` vectors that a layer returns per row, from the mask over the model's inputs.

    They differ for sound, where convolutions shorten samples to frames: the models that do so tell how much.
    """
    if mask is None or mask.shape[1] == count:
        return mask
    # wav2vec2 and its relatives; no public name in transformers 5.23
    for module in model.modules():
        shorten = getattr(module, "_get_feature_vector_attention_mask", None)
        if shorten is not None:
            return shorten(count, mask)
    return None if bool((mask != 0).all()) else mask
