"""Which parts of a model form a frozen prefix."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from hf_transfer.anatomy import Anatomy


__all__ = ["Prefix", "Unsuitable", "frozen_prefix"]


class Unsuitable(Exception):
    """Why a phase trains without the cache; says what was seen, why it matters and what to do."""


@dataclass(frozen=True)
class Prefix:
    """
    The embeddings and the first blocks of a model, all frozen.

    Args:
        blocks (`int`): number of whole blocks.
        modules (`tuple[str, ...]`): names of the modules of these blocks.
        embeddings (`tuple[str, ...]`): names of the modules before them.
        parameters (`tuple[str, ...]`): names of all parameters of both.
    """

    blocks: int
    modules: tuple[str, ...]
    embeddings: tuple[str, ...]
    parameters: tuple[str, ...]

    @property
    def everything(self) -> tuple[str, ...]:
        """Names of parameters and modules, to tell the weights of the prefix from the rest."""
        return (*self.embeddings, *self.modules, *self.parameters)


def frozen_prefix(model: nn.Module, anatomy: Anatomy) -> Prefix | None:
    """
    The longest prefix of a model in which nothing trains; `None` if that is not even the embeddings and one block.

    Args:
        model (`nn.Module`): the model, with `requires_grad` as the phase sets it.
        anatomy (`Anatomy`): its anatomy.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from hf_transfer.anatomy import anatomy
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=3, num_attention_heads=2)
        >>> model = BertForSequenceClassification(config)
        >>> frozen_prefix(model, anatomy(model)) is None
        True
        >>> for part in (model.bert.embeddings, *model.bert.encoder.layer[:2]):
        ...     _ = part.requires_grad_(False)
        >>> frozen_prefix(model, anatomy(model)).modules
        ('bert.encoder.layer.0', 'bert.encoder.layer.1')
    """
    parameters = dict(model.named_parameters())
    parts = anatomy.parts()
    frozen: list[str] = []
    for part in ("embeddings", *(f"block.{number}" for number in range(len(anatomy.blocks)))):
        if any(parameters[name].requires_grad for name in parts[part]):
            break
        frozen.append(part)
    if len(frozen) < 2:
        return None
    embeddings, *blocks = frozen
    return Prefix(
        blocks=len(blocks),
        modules=tuple(name for part in blocks for name in anatomy.modules(part)),
        embeddings=tuple(anatomy.modules(embeddings)),
        parameters=tuple(name for part in frozen for name in parts[part]),
    )
