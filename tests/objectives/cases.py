"""What the contract suite needs to know of each objective: how to make it, and batches with a known answer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from hf_transfer import (
    DELTA,
    L2SP,
    BatchSpectralShrinkage,
    BiTuning,
    ClassBalanced,
    CoTuning,
    CutMix,
    DomainAdversarial,
    FocalLoss,
    LabelSmoothing,
    LearningWithoutForgetting,
    Mixup,
    ModelSpec,
    Objective,
    RDrop,
    SupervisedContrastive,
    TransferBatch,
)


LOG_3 = 1.0986122886681098


@dataclass(frozen=True)
class Case:
    """
    One objective in the contract suite.

    Args:
        make: a small instance for a model.
        solved: changes the built objective or the batch of a forward so that the term's target is met.
        solved_value: the term's value then.
        reads_features: whether the term depends on features or logits (a term on weights or hidden states does not).
        ascends: whether the gradient into the features climbs the term (an adversary) instead of descending it.
        idle: kinds of models for which the term is exactly zero in the contract's batches.
        refused: kinds of models that are refused, with what the error says.
    """

    make: Callable[[nn.Module], Objective]
    solved: Callable[[Objective, TransferBatch], TransferBatch]
    solved_value: float = 0.0
    reads_features: bool = True
    ascends: bool = False
    idle: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


def _indistinguishable(objective: Objective, batch: TransferBatch) -> TransferBatch:
    # The same features in both domains and a discriminator that is undecided.
    torch.nn.init.zeros_(objective.discriminator[-1].weight)
    torch.nn.init.zeros_(objective.discriminator[-1].bias)
    return replace(batch, features=batch.features[:1].expand_as(batch.features))


def _certain(objective: Objective, batch: TransferBatch) -> TransferBatch:
    # All of the probability on the label, or on the class itself where there are two candidates.
    return replace(batch, logits=1e4 * torch.nn.functional.one_hot(batch.labels.clamp(min=0), 3).float())


def _undecided(objective: Objective, batch: TransferBatch) -> TransferBatch:
    return replace(batch, logits=torch.zeros_like(batch.logits))


def _one_line(objective: Objective, batch: TransferBatch) -> TransferBatch:
    # Features on one line through the origin: all singular values but the first are zero.
    return replace(batch, features=batch.features[:1].expand_as(batch.features))


def _one_class_at_one_point(objective: Objective, batch: TransferBatch) -> TransferBatch:
    # Every other row is as near as can be, and as far as any: one of three others each.
    return replace(_one_line(objective, batch), labels=torch.zeros_like(batch.labels))


def _queues_at_one_point(objective: Objective, batch: TransferBatch) -> TransferBatch:
    # The same for one row and no keys: nothing to contrast.
    anatomy = batch.model.transfer_objectives.attachment.anatomy
    objective.build(ModelSpec(feature_dim=16, num_labels=3, model=batch.model, anatomy=anatomy))
    return replace(batch, features=batch.features[:1], labels=batch.labels[:1])


def _twice_the_same(objective: Objective, batch: TransferBatch) -> TransferBatch:
    first = batch.logits[: len(batch.logits) // 2]
    return replace(batch, logits=torch.cat([first, first]))


def _features_of_the_source(objective: Objective, batch: TransferBatch) -> TransferBatch:
    return replace(batch, features=objective.source(batch.inputs).features)


def _no_preference(objective: Objective, batch: TransferBatch) -> TransferBatch:
    # Target classes say nothing of the five source classes, and neither does the head.
    objective.relationship.fill_(1 / 5)
    for parameter in objective.source_head.parameters():
        torch.nn.init.zeros_(parameter)
    return batch


def _source_of(model: nn.Module) -> nn.Module:
    """A source of the same kind as the model, with five classes of its own."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = copy.deepcopy(model.config)
    config.num_labels = 5
    with torch.random.fork_rng():
        torch.manual_seed(9)
        return type(model)(config)


NO_IMAGES = {"text": "needs images", "tokens": "needs images"}

CASES: dict[str, Case] = {
    "DomainAdversarial": Case(
        make=lambda model: DomainAdversarial(hidden_size=8),
        solved=_indistinguishable,
        solved_value=0.6931471805599453,  # log 2: at chance
        ascends=True,
    ),
    "L2SP": Case(
        make=lambda model: L2SP(weight=0.1),
        solved=lambda objective, batch: batch,  # the weights are where they started
        reads_features=False,
    ),
    "BatchSpectralShrinkage": Case(make=lambda model: BatchSpectralShrinkage(), solved=_one_line),
    "BiTuning": Case(
        make=lambda model: BiTuning(queue_length=3, projection=4),
        solved=_queues_at_one_point,
    ),
    "ClassBalanced": Case(make=lambda model: ClassBalanced(beta=0.9), solved=_certain),
    "CoTuning": Case(
        make=lambda model: CoTuning(_source_of(model)),
        solved=_no_preference,
        solved_value=1.6094379124341003,  # log 5
    ),
    "CutMix": Case(make=lambda model: CutMix(), solved=_undecided, solved_value=LOG_3, refused=NO_IMAGES),
    "DELTA": Case(
        make=lambda model: DELTA(attention_rows=8),
        solved=lambda objective, batch: batch,  # the model is as it started
        reads_features=False,
    ),
    "FocalLoss": Case(make=lambda model: FocalLoss(), solved=_certain),
    "LabelSmoothing": Case(make=lambda model: LabelSmoothing(), solved=_undecided, solved_value=LOG_3),
    "LearningWithoutForgetting": Case(
        make=lambda model: LearningWithoutForgetting(_source_of(model)), solved=_features_of_the_source
    ),
    "Mixup": Case(make=lambda model: Mixup(), solved=_undecided, solved_value=LOG_3, refused=NO_IMAGES),
    "RDrop": Case(make=lambda model: RDrop(), solved=_twice_the_same, idle=("batch norm",)),
    "SupervisedContrastive": Case(
        make=lambda model: SupervisedContrastive(), solved=_one_class_at_one_point, solved_value=LOG_3
    ),
}
