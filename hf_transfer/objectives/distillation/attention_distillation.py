"""Distillation of self-attention: attention maps, and relations of queries, keys and values (MiniLM)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from typing_extensions import Self

from hf_transfer.attention_layers import ROLES, AttentionLayer, attention_layer
from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.attention_distillation import attention_divergence, relation_divergence, split_heads
from hf_transfer.layer_maps import Layers, check_layers, layer_map
from hf_transfer.objectives.distillation.attention_checks import (
    check_heads,
    check_length,
    check_maps,
    check_relation_heads,
    check_same_shape,
    heads_of,
    projection_of,
)
from hf_transfer.objectives.distillation.teacher_objective import TeacherObjective
from hf_transfer.schedules import Schedule
from hf_transfer.source import Source
from hf_transfer.teacher import Teacher


Relation = Literal["attention", "query", "key", "value"]
RELATIONS: tuple[Relation, ...] = ("attention", *ROLES)


class AttentionDistillation(TeacherObjective):
    r"""
    Attention distillation (MiniLM, MiniLMv2): the student's tokens attend to each other, and their values relate to
    each other, as the teacher's do.

    For attention maps $A$ of $H$ heads and positions $P_b$ that count, the term is the sum over `relations` of

    $$ \frac{1}{B} \sum_b \frac{1}{H |P_b|} \sum_{a=1}^{H} \sum_{p \in P_b} \operatorname{KL}\big(A^T_{bap} \Vert
    A^S_{bap}\big) $$

    and the same of $\operatorname{softmax}(V V^\top / \sqrt{d})$ in place of $A$, with the values, queries or keys $V$
    of a head, $d$ wide. The default is MiniLM; `relations=("query", "key", "value")` with `relation_heads` is
    MiniLMv2.

    Args:
        teacher (`Teacher`, `Source`, `nn.Module`, `str` or path):
            The teacher, a transformer.
        relations (`Sequence[str]`, *optional*, defaults to `("attention", "value")`):
            Some of `"attention"`, `"query"`, `"key"` and `"value"`, each at the same weight. `"attention"` needs
            models loaded with `attn_implementation="eager"`, student and teacher; the others are read off linear
            layers and work with every kernel.
        relation_heads (`int`, *optional*):
            Cut queries, keys and values anew into as many heads, so that the models may have other numbers of heads
            and other widths; both widths must be multiples of it. 48 for a teacher of the size of BERT-large, 24 or
            12 for smaller ones in the paper of MiniLMv2. By default each model's own heads, of which both must have
            as many.
        layers (`str` or `Mapping`, *optional*, defaults to `"last"`):
            Which layers are compared, as in [`layer_map`]; the terms of several add up. MiniLMv2 takes a layer of a
            large teacher before its last, such as `{-1: 20}`.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Strength (dimensionless).

    Shape:
        - `batch.attentions`: `(B, H, T, T)`; `batch.hidden_states`: outputs of the projections, `(B, T, H d)`;
          `batch.attention_mask`: `(B, T)`. No labels are read.
        - returns: scalar float32, in nats per position; zero when the student relates positions as the teacher does.

    Degenerate batches:
        One row, and one position, is enough. Rows without positions count as zero. A layer left out of a step
        (LayerDrop) is left out here; without any the term is an exact zero that still depends on `features`.

    Deviations from the paper:
        Padding is left out of rows and columns. In training `transformers` returns the student's maps after dropout:
        entries that it set to zero are left out of both distributions, and the rest is scaled to a sum of 1, so that
        dropout adds nothing to the term. It is added to the task loss, where the paper trains with it alone, on text
        without labels; `weight` large or labels of -100 do the same.

    Raises:
        ValueError: if an option is out of range; at attach time if a block has no attention (convolutional networks),
            maps are asked of a fused kernel or of a layer that does not return them, a fused projection cannot be cut
            up, or heads or widths do not fit; at the first batch if the models see different positions.

    Relations:
        [`AttentionTransfer`] compares how strong each place is, for networks of convolutions too.
        [`HintDistillation`] compares the hidden states themselves and needs a projection. Maps keep $B H T^2$ numbers
        a layer for the backward and rule out fused kernels in every layer of both models: without them a step is
        faster and smaller, the more so the longer the text.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> teacher = BertForSequenceClassification(config)
        >>> objective = AttentionDistillation(teacher, relations=("query", "key", "value"), relation_heads=4)
        >>> objective.relation_heads
        4

    Paper: Wang et al., "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression...", NeurIPS 2020, https://huggingface.co/papers/2002.10957
    """

    def __init__(
        self,
        teacher: Teacher | Source | nn.Module | str | os.PathLike[str],
        *,
        relations: Sequence[Relation] = ("attention", "value"),
        relation_heads: int | None = None,
        layers: Layers = "last",
        weight: float | Schedule = 1.0,
    ):
        super().__init__(teacher, weight=weight)
        unknown = [name for name in relations if name not in RELATIONS] if not isinstance(relations, str) else [1]
        if unknown or not relations or len(set(relations)) < len(relations):
            raise ValueError(
                f"`relations={relations!r}` is no choice of different relations: what is compared is not said. Give "
                'some of "attention", "query", "key" and "value", such as ("attention", "value").'
            )
        if relation_heads is not None and (relation_heads < 1 or set(relations) == {"attention"}):
            raise ValueError(
                f"`relation_heads={relation_heads}` with relations={tuple(relations)}: queries, keys and values are "
                'cut into so many heads, maps have those of their model. Give a positive number beside "value", or '
                "leave it out."
            )
        check_layers(layers)
        self.relations = tuple(relations)
        self.relation_heads = relation_heads
        self.layers: Layers = layers
        self._pairs: list[tuple[AttentionLayer, AttentionLayer]] = []

    def build(self, spec: ModelSpec) -> Self:
        """Find the attention layers of both models and check that they can be compared."""
        super().build(spec)
        assert spec.model is not None and spec.anatomy is not None  # `attach` gives both
        models = (spec.model, self.teacher.model)
        self._pairs = []
        for own, theirs in layer_map(spec.anatomy, self.teacher.anatomy, self.layers).items():
            ours, other = (attention_layer(model, name) for model, name in zip(models, (own, theirs), strict=True))
            self._pairs.append((ours, other))
            for whose, layer in (("student", ours), ("teacher", other)):
                if "attention" in self.relations:
                    check_maps(whose, layer)
                for role in self._roles:
                    width = projection_of(whose, layer, role).width
                    check_relation_heads(whose, layer, role, width, self.relation_heads)
            if "attention" in self.relations:
                check_heads("attention", ours, ours.heads, other, other.heads)
            for role in self._roles if self.relation_heads is None else ():
                check_heads(role, ours, heads_of(ours, role), other, heads_of(other, role))
        self.hidden_states, self.attentions = self._names_of(0)
        hidden_states, attentions = self._names_of(1)
        self.teacher.require(hidden_states=hidden_states, attentions=attentions)
        return self

    @property
    def _roles(self) -> list[Literal["query", "key", "value"]]:
        return [role for role in ROLES if role in self.relations]

    def _names_of(self, side: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the projections and of the layers with maps that are read, of the student (0) or teacher (1)."""
        layers = [pair[side] for pair in self._pairs]
        projections = dict.fromkeys(layer.projections[role].module for layer in layers for role in self._roles)
        maps = dict.fromkeys(layer.name for layer in layers) if "attention" in self.relations else ()
        return tuple(projections), tuple(maps)

    def forward(self, batch: TransferBatch) -> Tensor:
        """The divergences of all relations of all layers."""
        taught = self.taught(batch)
        total = (0 * batch.features).sum()
        for ours, theirs in self._pairs:
            if "attention" in self.relations and ours.name in batch.attentions:
                maps, reference = batch.attentions[ours.name], taught.attentions[theirs.name]
                check_same_shape(ours.name, maps, reference)
                total = total + attention_divergence(maps, reference, check_length(ours.name, maps.shape[-2], batch))
            for role in self._roles:
                own, other = ours.projections[role], theirs.projections[role]
                if own.module not in batch.hidden_states:
                    continue  # dropped in this step
                vectors = own.of(batch.hidden_states[own.module])
                reference = other.of(taught.hidden_states[other.module])
                check_same_shape(own.module, vectors[..., :1], reference[..., :1])
                mask = check_length(own.module, vectors.shape[1], batch)
                vectors, reference = (
                    split_heads(side, self.relation_heads or heads_of(layer, role) or 1)
                    for side, layer in ((vectors, ours), (reference, theirs))
                )
                total = total + relation_divergence(vectors, reference, mask)
        return total
