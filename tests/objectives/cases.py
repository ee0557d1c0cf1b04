"""What the contract suite needs to know of each objective: how to make it, and batches with a known answer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from hf_transfer import (
    DELTA,
    DIST,
    L2SP,
    AdaptiveFeatureNorm,
    AttentionDistillation,
    AttentionTransfer,
    BatchNuclearNorm,
    BatchSpectralPenalization,
    BatchSpectralShrinkage,
    BiTuning,
    CentralMomentDiscrepancy,
    ClassBalanced,
    ConditionalAdversarial,
    ContrastiveRepresentation,
    CoTuning,
    CutMix,
    DecoupledDistillation,
    DeepCORAL,
    DomainAdversarial,
    EmbeddingDistillation,
    EntropyMinimization,
    FixMatch,
    FocalLoss,
    HintDistillation,
    InformationMaximization,
    JointMaximumMeanDiscrepancy,
    LabelSmoothing,
    LearningWithoutForgetting,
    LocalMaximumMeanDiscrepancy,
    LogitDistillation,
    LogitStandardization,
    MarginDisparity,
    MaximumClassifierDiscrepancy,
    MaximumMeanDiscrepancy,
    MinimumClassConfusion,
    Mixup,
    ModelSpec,
    MultiTask,
    Objective,
    PairSimilarity,
    PatientDistillation,
    PrototypicalEpisodes,
    PseudoLabels,
    RDrop,
    RelationalDistillation,
    Rule,
    RuleConstraint,
    SimilarityPreserving,
    SlicedWasserstein,
    SupervisedContrastive,
    Task,
    TransferBatch,
    WassersteinDistance,
)
from hf_transfer.anatomy import anatomy


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
        target_side: whether the contract's batches have rows without a label too, those of domain 1.
        signed: whether the term may be on either side of zero, as an unbiased estimate is.
        negative: whether the term is below zero, as the paper has it.
        measure: of the features, what the gradient lowers, where the value of the term does not show it.
        idle: kinds of models for which the term is exactly zero in the contract's batches.
        refused: kinds of models that are refused, with what the error says.
    """

    make: Callable[[nn.Module], Objective]
    solved: Callable[[Objective, TransferBatch], TransferBatch]
    solved_value: float = 0.0
    reads_features: bool = True
    ascends: bool = False
    target_side: bool = False
    signed: bool = False
    negative: bool = False
    measure: Callable[[torch.Tensor], torch.Tensor] | None = None
    idle: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


def _indistinguishable(objective: Objective, batch: TransferBatch) -> TransferBatch:
    # The same features in both domains and a discriminator that is undecided.
    torch.nn.init.zeros_(objective.discriminator[-1].weight)
    torch.nn.init.zeros_(objective.discriminator[-1].bias)
    return replace(batch, features=batch.features[:1].expand_as(batch.features))


def _no_margin(objective: Objective, batch: TransferBatch) -> TransferBatch:
    # An adversarial classifier that gives every class a third.
    torch.nn.init.zeros_(objective.classifier[-1].weight)
    torch.nn.init.zeros_(objective.classifier[-1].bias)
    return batch


def _no_discrepancy(objective: Objective, batch: TransferBatch) -> TransferBatch:
    # Two classifiers that know nothing agree.
    for parameter in (*objective.first[-1].parameters(), *objective.second[-1].parameters()):
        torch.nn.init.zeros_(parameter)
    return batch


def _unit_slope(objective: Objective, batch: TransferBatch) -> TransferBatch:
    # The critic reads off one feature, with all its units on, and both domains are at one point.
    for parameter in objective.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        for layer in objective.critic[::2]:
            layer.weight[0, 0] = 1
        objective.critic[0].bias.fill_(100)
    return _one_line(objective, batch)


def _certain(objective: Objective, batch: TransferBatch) -> TransferBatch:
    # All of the probability on the label, or on the class itself where there are two candidates.
    return replace(batch, logits=1e4 * torch.nn.functional.one_hot(batch.labels.clamp(min=0), 3).float())


def _certain_and_varied(objective: Objective, batch: TransferBatch) -> TransferBatch:
    # Three rows of the target, each certain of a class of its own.
    return replace(batch, logits=1e4 * torch.eye(3), labels=torch.full((3,), -100))


def _no_features(objective: Objective, batch: TransferBatch) -> TransferBatch:
    return replace(batch, features=torch.zeros_like(batch.features))


def _undecided(objective: Objective, batch: TransferBatch) -> TransferBatch:
    return replace(batch, logits=torch.zeros_like(batch.logits))


def _one_line(objective: Objective, batch: TransferBatch) -> TransferBatch:
    # Features on one line through the origin: all singular values but the first are zero.
    return replace(batch, features=batch.features[:1].expand_as(batch.features))


def _at_one_point_alike(objective: Objective, batch: TransferBatch) -> TransferBatch:
    # The same features, the same predictions and, where there is one, the same label.
    labels = batch.labels.clamp(max=0)
    return replace(_certain(objective, replace(_one_line(objective, batch), labels=labels)), labels=labels)


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


def _teacher_of(model: nn.Module) -> nn.Module:
    """A teacher of the same kind as the model and for its classes, with weights of its own."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    with torch.random.fork_rng():
        torch.manual_seed(9)
        teacher = type(model)(copy.deepcopy(model.config))
        head = anatomy(teacher).head
        torch.nn.init.normal_(teacher.get_submodule(head).weight)  # an untrained one has no opinion
    return teacher


def _sharp(model: nn.Module) -> nn.Module:
    """The model with large weights of its linear layers."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.5, generator=torch.Generator().manual_seed(1))
    return model


def _logits_of_the_teacher(objective: Objective, batch: TransferBatch) -> TransferBatch:
    return replace(batch, logits=objective.teacher(batch).logits)


def _other_teacher_of(model: nn.Module) -> nn.Module:
    """A teacher of the same kind as the model and for its classes, of another width."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = copy.deepcopy(model.config)
    if hasattr(config, "hidden_sizes"):
        config.embedding_size, config.hidden_sizes = 12, [12, 24]
    else:
        config.hidden_size = 24
    with torch.random.fork_rng():
        torch.manual_seed(9)
        return type(model)(config)


def _blocks_of_the_teacher(objective: Objective, batch: TransferBatch) -> TransferBatch:
    # The student returns what the teacher does, and nothing is projected.
    if hasattr(objective, "projections"):
        objective.projections = nn.ModuleList(nn.Identity() for _ in objective.pairs)
    said = objective.teacher(batch).hidden_states
    return replace(batch, hidden_states={own: said[other] for own, other in objective.pairs.items()})


def _embeddings_of_the_teacher(objective: Objective, batch: TransferBatch) -> TransferBatch:
    objective.feature_projection = nn.Identity()
    return replace(batch, features=objective.teacher(batch).features)


def _features_of_the_teacher(objective: Objective, batch: TransferBatch) -> TransferBatch:
    return replace(batch, features=objective.teacher(batch).features)


def _projections_of_the_teacher(objective: Objective, batch: TransferBatch) -> TransferBatch:
    # The same kind of model: the same names of layers.
    return replace(batch, hidden_states=objective.teacher(batch).hidden_states)


def _two_rows_told_apart(objective: Objective, batch: TransferBatch) -> TransferBatch:
    # Both models put one row at 1 and the other at -1.
    rows = {name: getattr(batch, name)[:2] for name in ("features", "logits", "attention_mask")}
    inputs, columns = ({name: x[:2] for name, x in given.items()} for given in (batch.inputs, batch.columns))
    batch = replace(batch, **rows, inputs=inputs, columns=columns, labels=torch.tensor([0, 1]))
    objective.bank = type(objective.bank)(2, objective.embed_dim)
    with torch.no_grad():
        for projection, (first, second) in (
            (objective.student_projection, batch.features),
            (objective.teacher_projection, objective.teacher(batch).features),
        ):
            projection.weight.zero_()
            projection.bias.zero_()
            projection.weight[0] = (first - second) / (first - second).norm() ** 2
            projection.bias[0] = -projection.weight[0] @ (first + second) / 2
    return batch


class _WithIndex(ContrastiveRepresentation):
    """CRD with the numbers of the rows made here, in place of `with_index`: the contract's batches have none."""

    __doc__ = ContrastiveRepresentation.__doc__

    def transform(self, inputs):
        return {**inputs, "index": torch.arange(len(inputs["labels"]))}


_WithIndex.__name__ = "ContrastiveRepresentation"


class _WithViews(FixMatch):
    """FixMatch with the strong views made here, in place of a collator: the contract's batches have none."""

    __doc__ = FixMatch.__doc__

    def transform(self, inputs):
        name = "input_ids" if "input_ids" in inputs else "pixel_values"
        row = (inputs["labels"].flatten(1) if inputs["labels"].dim() > 1 else inputs["labels"][:, None]).eq(-100)
        row = row.all(1).nonzero().flatten()
        return super().transform({**inputs, "strong_view": {name: inputs[name][row].flip(-1), "row": row}})


_WithViews.__name__ = "FixMatch"


class _InEpisodes(PrototypicalEpisodes):
    """ProtoNet with the classes put in the order of episodes here, in place of a sampler: the batches have none."""

    __doc__ = PrototypicalEpisodes.__doc__

    def forward(self, batch):
        order = torch.arange(len(batch.labels)) % self.n_way
        return super().forward(replace(batch, labels=torch.where(batch.labels == -100, -100, order)))


_InEpisodes.__name__ = "PrototypicalEpisodes"


def _far_apart(objective: Objective, batch: TransferBatch) -> TransferBatch:
    # Support and queries of a class at one point, the other class a long way off.
    return replace(batch, features=torch.zeros_like(batch.features) + 1e3 * (torch.arange(4) % 2)[:, None])


class _WithTasks(MultiTask):
    """MultiTask with label columns made of the labels here, in place of `mix_tasks`."""

    __doc__ = MultiTask.__doc__
    inspect = Objective.inspect  # the data have no such columns

    def transform(self, inputs):
        labels = inputs["labels"]
        return {**inputs, **{task.column: labels.float() if task.num_labels == 1 else labels for task in self.tasks}}


_WithTasks.__name__ = "MultiTask"


def _tasks_for(model: nn.Module) -> list[Task]:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if type(base).__name__.endswith("TokenClassification"):
        return [Task("first", "tokens", num_labels=3), Task("second", "tokens", num_labels=4, weight=0.5)]
    return [Task("first", num_labels=3), Task("second", "regression")]


def _tasks_without_an_opinion(objective: Objective, batch: TransferBatch) -> TransferBatch:
    # Logits of 0: log 3 for the classes, and the mean square of the labels.
    for parameter in objective.heads.parameters():
        torch.nn.init.zeros_(parameter)
    return replace(batch, columns={**batch.columns, "labels_second": torch.zeros(len(batch.features))})


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
    "AdaptiveFeatureNorm": Case(
        make=lambda model: AdaptiveFeatureNorm(),
        solved=lambda objective, batch: batch,  # its target moves ahead of the features
        solved_value=1.0,
        measure=lambda features: -features.norm(dim=-1).mean(),
        target_side=True,
    ),
    "AttentionDistillation": Case(
        make=lambda model: AttentionDistillation(
            # sharp, so that the slope at an untrained layer is above the rounding of the value
            _sharp(_teacher_of(model)),
            relations=("query", "key", "value"),
        ),
        solved=_projections_of_the_teacher,
        reads_features=False,
        refused={"batch norm": "ResNetBasicLayer.* has no attention.*AttentionTransfer"},
    ),
    "AttentionTransfer": Case(
        make=lambda model: AttentionTransfer(_other_teacher_of(model)),
        solved=_blocks_of_the_teacher,
        reads_features=False,
    ),
    "BatchNuclearNorm": Case(
        make=lambda model: BatchNuclearNorm(),
        solved=_certain_and_varied,
        solved_value=-1.0,
        negative=True,
        target_side=True,
    ),
    "BatchSpectralPenalization": Case(make=lambda model: BatchSpectralPenalization(), solved=_no_features),
    "BatchSpectralShrinkage": Case(make=lambda model: BatchSpectralShrinkage(), solved=_one_line),
    "BiTuning": Case(
        make=lambda model: BiTuning(queue_length=3, projection=4),
        solved=_queues_at_one_point,
    ),
    "CentralMomentDiscrepancy": Case(make=lambda model: CentralMomentDiscrepancy(), solved=_one_line),
    "ClassBalanced": Case(make=lambda model: ClassBalanced(beta=0.9), solved=_certain),
    "CoTuning": Case(
        make=lambda model: CoTuning(_source_of(model)),
        solved=_no_preference,
        solved_value=1.6094379124341003,  # log 5
    ),
    "ConditionalAdversarial": Case(
        make=lambda model: ConditionalAdversarial(hidden_size=8),
        solved=_indistinguishable,
        solved_value=0.6931471805599453,  # log 2: at chance
        ascends=True,
    ),
    "ContrastiveRepresentation": Case(
        make=lambda model: _WithIndex(_teacher_of(model), embed_dim=4, bank_size=8),
        solved=_two_rows_told_apart,
    ),
    "CutMix": Case(make=lambda model: CutMix(), solved=_undecided, solved_value=LOG_3, refused=NO_IMAGES),
    "DELTA": Case(
        make=lambda model: DELTA(attention_rows=8),
        solved=lambda objective, batch: batch,  # the model is as it started
        reads_features=False,
    ),
    "DIST": Case(make=lambda model: DIST(_teacher_of(model)), solved=_logits_of_the_teacher),
    "DecoupledDistillation": Case(
        make=lambda model: DecoupledDistillation(_teacher_of(model)), solved=_logits_of_the_teacher
    ),
    "DeepCORAL": Case(make=lambda model: DeepCORAL(), solved=_one_line),
    "EmbeddingDistillation": Case(
        make=lambda model: EmbeddingDistillation(_other_teacher_of(model)), solved=_embeddings_of_the_teacher
    ),
    "EntropyMinimization": Case(make=lambda model: EntropyMinimization(), solved=_certain, target_side=True),
    "FixMatch": Case(
        make=lambda model: _WithViews(threshold=0.0),
        solved=lambda objective, batch: replace(batch, logits=1e4 * torch.eye(3)[0].expand_as(batch.logits)),
        target_side=True,
        refused={"tokens": "FixMatch on a token classifier.*PseudoLabels"},
    ),
    "FocalLoss": Case(make=lambda model: FocalLoss(), solved=_certain),
    "HintDistillation": Case(
        make=lambda model: HintDistillation(_other_teacher_of(model)),
        solved=_blocks_of_the_teacher,
        reads_features=False,
    ),
    "InformationMaximization": Case(
        make=lambda model: InformationMaximization(), solved=_certain_and_varied, target_side=True
    ),
    "JointMaximumMeanDiscrepancy": Case(
        make=lambda model: JointMaximumMeanDiscrepancy(), solved=_at_one_point_alike, signed=True
    ),
    "LabelSmoothing": Case(make=lambda model: LabelSmoothing(), solved=_undecided, solved_value=LOG_3),
    "LearningWithoutForgetting": Case(
        make=lambda model: LearningWithoutForgetting(_source_of(model)), solved=_features_of_the_source
    ),
    "LocalMaximumMeanDiscrepancy": Case(
        make=lambda model: LocalMaximumMeanDiscrepancy(), solved=_at_one_point_alike, target_side=True
    ),
    "LogitDistillation": Case(make=lambda model: LogitDistillation(_teacher_of(model)), solved=_logits_of_the_teacher),
    "LogitStandardization": Case(
        make=lambda model: LogitStandardization(_teacher_of(model)), solved=_logits_of_the_teacher
    ),
    "MarginDisparity": Case(
        make=lambda model: MarginDisparity(hidden_size=8),
        solved=_no_margin,
        solved_value=4 * LOG_3 + 0.4054651081081644,  # log 3/2: not of the predicted class
        ascends=True,
        target_side=True,
    ),
    "MaximumClassifierDiscrepancy": Case(
        make=lambda model: MaximumClassifierDiscrepancy(hidden_size=8),
        solved=_no_discrepancy,
        solved_value=2 * LOG_3,
        target_side=True,
    ),
    "MaximumMeanDiscrepancy": Case(make=lambda model: MaximumMeanDiscrepancy(), solved=_one_line, signed=True),
    "MinimumClassConfusion": Case(
        # sharp, so that the slope at an untrained head is above the rounding of the value
        make=lambda model: MinimumClassConfusion(temperature=0.2),
        solved=_certain_and_varied,
        target_side=True,
    ),
    "Mixup": Case(make=lambda model: Mixup(), solved=_undecided, solved_value=LOG_3, refused=NO_IMAGES),
    "PairSimilarity": Case(
        make=lambda model: PairSimilarity(),
        solved=_one_class_at_one_point,
        refused={"tokens": "PairSimilarity on a token classifier.*one class a row"},
    ),
    "MultiTask": Case(
        make=lambda model: _WithTasks(_tasks_for(model)),
        solved=_tasks_without_an_opinion,
        solved_value=LOG_3,
    ),
    "PatientDistillation": Case(
        make=lambda model: PatientDistillation(_other_teacher_of(model)),
        solved=_blocks_of_the_teacher,
        reads_features=False,
    ),
    "PrototypicalEpisodes": Case(
        make=lambda model: _InEpisodes(n_way=2, k_shot=1, queries=1),
        solved=_far_apart,
        refused={"tokens": "PrototypicalEpisodes on a token classifier.*one class a row"},
    ),
    "PseudoLabels": Case(
        make=lambda model: PseudoLabels(threshold=0.0, class_balanced=True), solved=_certain, target_side=True
    ),
    "RelationalDistillation": Case(
        make=lambda model: RelationalDistillation(_other_teacher_of(model)),
        solved=_features_of_the_teacher,
    ),
    "RDrop": Case(make=lambda model: RDrop(), solved=_twice_the_same, idle=("batch norm",)),
    "RuleConstraint": Case(
        make=lambda model: RuleConstraint([Rule(lambda inputs, probabilities: probabilities[..., 0], name="first")]),
        solved=lambda objective, batch: replace(batch, logits=1e4 * torch.eye(3)[0].expand_as(batch.logits)),
    ),
    "SimilarityPreserving": Case(
        make=lambda model: SimilarityPreserving(_other_teacher_of(model)),
        solved=_features_of_the_teacher,
    ),
    "SlicedWasserstein": Case(make=lambda model: SlicedWasserstein(num_projections=8), solved=_one_line),
    "SupervisedContrastive": Case(
        make=lambda model: SupervisedContrastive(), solved=_one_class_at_one_point, solved_value=LOG_3
    ),
    "WassersteinDistance": Case(
        # wide enough for some unit to be on in one row and off in another
        make=lambda model: WassersteinDistance(hidden_size=64),
        solved=_unit_slope,
        ascends=True,
    ),
}
