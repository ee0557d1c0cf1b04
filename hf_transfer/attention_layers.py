"""Where a block computes its attention: the layer that holds the maps, and its projections."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn


Role = Literal["query", "key", "value"]
ROLES: tuple[Role, ...] = ("query", "key", "value")

# Names of the projections in transformers 5.23.
_NAMES: dict[Role, frozenset[str]] = {
    "query": frozenset({"query", "q_proj", "q_lin", "q", "Wq", "q_head", "linear_q", "query_proj"}),
    "key": frozenset({"key", "k_proj", "k_lin", "k", "Wk", "k_head", "linear_k", "key_proj"}),
    "value": frozenset({"value", "v_proj", "v_lin", "v", "Wv", "v_head", "linear_v", "value_proj"}),
}
# One layer for all three. Of these the thirds are queries, keys and values of all heads; others mix heads (BLOOM,
# GPT-NeoX, DeBERTa) or have fewer heads of keys than of queries (Phi-3).
_FUSED = frozenset({"c_attn", "qkv", "qkv_proj", "query_key_value", "Wqkv", "in_proj", "query_key"})
_THIRDS = frozenset({"Conv1D.c_attn", "Linear.Wqkv"})
_HEADS = ("num_attention_heads", "num_heads", "n_heads", "n_head", "num_head")
_HEAD_WIDTHS = ("attention_head_size", "attention_head_dim", "head_dim", "key_value_proj_dim")

__all__ = ["ROLES", "AttentionLayer", "Projection", "Role", "attention_layer"]


@dataclass(frozen=True)
class Projection:
    """
    Where queries, keys or values come from.

    Args:
        module (`str`): name of the linear layer.
        width (`int`): how many numbers it returns for one position, all heads together.
        third (`int`, *optional*): which third of its output they are, where one layer returns all three.
    """

    module: str
    width: int
    third: int | None = None

    def of(self, output: Tensor) -> Tensor:
        """`(B, T, width)`: its part of what the linear layer returned."""
        return output if self.third is None else output.chunk(3, -1)[self.third]


@dataclass(frozen=True)
class AttentionLayer:
    """
    One attention layer of a model; made by [`attention_layer`].

    Args:
        name (`str`): of the module that returns the maps.
        implementation (`str`): how attention is computed; `"eager"` forms the maps.
        records_maps (`bool`): whether the module returns its maps second whenever it forms them.
        heads (`int`, *optional*): number of heads of queries; of maps.
        head_width (`int`, *optional*): width of one head.
        projections (`dict`): by role; empty where they cannot be told apart.
        fused (`str`, *optional*): the layer that returns queries, keys and values mixed.
    """

    name: str
    implementation: str
    records_maps: bool
    heads: int | None
    head_width: int | None
    projections: dict[Role, Projection]
    fused: str | None = None


def attention_layer(model: nn.Module, block: str) -> AttentionLayer:
    """
    The attention of a block, the first if it has several (self-attention before cross-attention).

    It is told by its children: linear layers for queries, keys and values, or one for all three. So it is found in
    every transformer of `transformers`, also under PEFT.

    Args:
        model (`nn.Module`): any classifier.
        block (`str`): name of a block, as in `Anatomy.blocks`, or of the attention layer itself.

    Raises:
        ValueError: if there is no attention in it.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> layer = attention_layer(BertForSequenceClassification(config), "bert.encoder.layer.0")
        >>> layer.name, layer.heads, layer.head_width
        ('bert.encoder.layer.0.attention.self', 2, 4)
        >>> layer.projections["value"]
        Projection(module='bert.encoder.layer.0.attention.self.value', width=8, third=None)
    """
    for name, module in model.get_submodule(block).named_modules(prefix=block):
        children = dict(module.named_children())
        found = _separate(name, children)
        fused = None
        if "attention" in type(module).__name__.lower():  # state-space layers have an `in_proj`, too
            fused = next((key for key, child in children.items() if key in _FUSED and _width(child) is not None), None)
        if found or fused is not None:
            config = getattr(module, "config", None) or getattr(model, "config", None)
            if not found and fused is not None:
                found = _thirds(name, fused, children[fused])
            heads = _number(module, _HEADS) or _number(config, _HEADS)
            query = found.get("query")
            head_width = _number(module, _HEAD_WIDTHS)
            if head_width is None and heads and query is not None and query.width % heads == 0:
                head_width = query.width // heads
            return AttentionLayer(
                name=name,
                implementation=str(getattr(config, "_attn_implementation", None) or "eager"),
                records_maps=_records_maps(model, name, module),
                heads=heads,
                head_width=head_width,
                projections=found,
                fused=None if found or fused is None else f"{name}.{fused}",
            )
    raise ValueError(
        f"`{block}` ({type(model.get_submodule(block)).__name__}) has no attention: no layers for queries, keys and "
        "values. There is nothing whose relations could be compared. Name a block of a transformer by "
        "`layers={...}`; for convolutional networks use `AttentionTransfer` or `SimilarityPreserving`."
    )


def _separate(name: str, children: dict[str, nn.Module]) -> dict[Role, Projection]:
    found: dict[Role, Projection] = {}
    for role in ROLES:
        for key, child in children.items():
            width = _width(child)
            if key in _NAMES[role] and width is not None:
                found[role] = Projection(f"{name}.{key}", width)
    return found if len(found) == len(ROLES) else {}


def _thirds(name: str, key: str, layer: nn.Module) -> dict[Role, Projection]:
    bare = _bare(layer)
    width, into = _width(layer), getattr(bare, "in_features", None) or getattr(bare, "nx", None)
    if f"{type(bare).__name__}.{key}" not in _THIRDS or width is None or into is None or width != 3 * into:
        return {}
    return {role: Projection(f"{name}.{key}", width // 3, third) for third, role in enumerate(ROLES)}


def _bare(layer: nn.Module) -> Any:
    """The layer itself, below the adapters that PEFT put around it."""
    return getattr(layer, "base_layer", layer)


def _width(layer: nn.Module) -> int | None:
    """Outputs of a linear layer, quantised ones and GPT-2's `Conv1D` among them; `None` for anything else."""
    bare = _bare(layer)
    width = getattr(bare, "nf", None) if type(bare).__name__ == "Conv1D" else getattr(bare, "out_features", None)
    return width if isinstance(width, int) else None


def _number(owner: Any, names: Iterable[str]) -> int | None:
    for name in names:
        value = getattr(owner, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def _records_maps(model: nn.Module, name: str, module: nn.Module) -> bool:
    """
    Whether `transformers` itself reads the maps of a model as the second thing this module returns.

    Others return something else there (T5: the position bias) or maps only when `output_attentions` asks for them.
    """
    for owner in model.modules():
        wanted = (getattr(owner, "_can_record_outputs", None) or {}).get("attentions", ())
        for one in _listed(wanted):
            if isinstance(one, str):
                if type(module).__name__ == one:
                    return True
            elif isinstance(one, type):
                if isinstance(module, one):
                    return True
            elif one.index == 1 and _is_recorded(one, name, module):
                return True
    return False


def _listed(wanted: Any) -> Iterator[Any]:
    yield from wanted if isinstance(wanted, Sequence) and not isinstance(wanted, str) else [wanted]


def _is_recorded(recorder: Any, name: str, module: nn.Module) -> bool:
    if recorder.layer_name is not None and recorder.layer_name not in name:
        return False
    if recorder.target_class is not None:
        return isinstance(module, recorder.target_class)
    return recorder.class_name is not None and name.endswith(recorder.class_name)
