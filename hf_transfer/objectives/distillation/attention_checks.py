"""What two attention layers need to be compared; else an error that says what to do."""

from __future__ import annotations

from torch import Tensor

from hf_transfer.attention_layers import AttentionLayer, Projection, Role
from hf_transfer.batch import TransferBatch


__all__ = [
    "check_heads",
    "check_length",
    "check_maps",
    "check_relation_heads",
    "check_same_shape",
    "heads_of",
    "projection_of",
]

_WITHOUT_MAPS = 'relations=("query", "key", "value"), which needs no maps'


def check_maps(whose: str, layer: AttentionLayer) -> None:
    """Check that the layer forms attention maps and returns them."""
    if layer.implementation != "eager":
        raise ValueError(
            f'Attention maps asked from a fused kernel: `{layer.name}` of the {whose} runs "{layer.implementation}", '
            'which never forms them. Load both models with `attn_implementation="eager"` (slower, and memory grows '
            f"with the square of the length), or compare {_WITHOUT_MAPS}."
        )
    if not layer.records_maps:
        raise ValueError(
            f"`{layer.name}` of the {whose} does not return its attention maps by itself in transformers: there is "
            f"nothing to compare. Compare {_WITHOUT_MAPS}, or take another architecture."
        )


def projection_of(whose: str, layer: AttentionLayer, role: Role) -> Projection:
    """Where the queries, keys or values of a layer come from."""
    if role not in layer.projections:
        raise ValueError(
            f"`{layer.fused}` of the {whose} returns queries, keys and values in one, in an order that differs "
            f"between models: the {role} of a head cannot be told. "
            'Compare relations=("attention",) with `attn_implementation="eager"`, or take a model with a layer for '
            "each."
        )
    return layer.projections[role]


def check_relation_heads(whose: str, layer: AttentionLayer, role: Role, width: int, heads: int | None) -> None:
    """Check that a projection can be cut into so many heads, or into the model's own."""
    if heads is None and heads_of(layer, role) is None:
        raise ValueError(
            f"`{layer.name}` of the {whose} does not say how many heads it has: its {role} cannot be cut into them. "
            "Give their number: `relation_heads=12`."
        )
    if heads is not None and width % heads:
        raise ValueError(
            f"`relation_heads={heads}` does not divide the {role} of `{layer.name}` of the {whose}, {width} wide: the "
            "heads would not be of one width. Give a divisor of the widths of both models."
        )


def heads_of(layer: AttentionLayer, role: Role) -> int | None:
    """How many heads of queries, keys or values a layer has; keys and values may be shared by several queries."""
    projection, width = layer.projections[role], layer.head_width
    return projection.width // width if width and projection.width % width == 0 else None


def check_heads(
    relation: str, ours: AttentionLayer, own: int | None, theirs: AttentionLayer, other: int | None
) -> None:
    """Check that both models have as many heads."""
    if own != other:
        instead = (
            f"Compare {_WITHOUT_MAPS}, and give `relation_heads`"
            if relation == "attention"
            else "Give `relation_heads`"
        )
        raise ValueError(
            f"`{ours.name}` of the student has {own} heads and `{theirs.name}` of the teacher {other}: which "
            f"{relation} belongs to which is not said. {instead}, a number of which both widths are multiples."
        )


def check_same_shape(name: str, ours: Tensor, theirs: Tensor) -> None:
    """Check that both models relate the same positions."""
    if ours.shape != theirs.shape:
        raise ValueError(
            f"`{name}` of the student sees {tuple(ours.shape)} and the teacher's layer {tuple(theirs.shape)}: they "
            "relate other positions, as with another tokenizer or patch size. Give a teacher with the student's "
            "tokenizer and sizes, or use `SimilarityPreserving` or `RelationalDistillation`, which relate whole rows."
        )


def check_length(name: str, length: int, batch: TransferBatch) -> Tensor | None:
    """The mask of the positions of a layer, if there is one, after a check that it is for them."""
    mask = batch.attention_mask
    if mask is not None and (mask.dim() != 2 or mask.shape[1] != length):
        raise ValueError(
            f"`{name}` sees {length} positions and the attention mask is {tuple(mask.shape)}: which of them are "
            "padding is not said. Compare layers that keep the positions by `layers={...}`, or train on rows of one "
            "length without a mask."
        )
    return mask
