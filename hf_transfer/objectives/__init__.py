"""Every objective of the library: one class per method, in folders by family."""

from hf_transfer.objectives.distillation.attention_distillation import AttentionDistillation
from hf_transfer.objectives.distillation.attention_transfer import AttentionTransfer
from hf_transfer.objectives.distillation.contrastive_representation import ContrastiveRepresentation
from hf_transfer.objectives.distillation.decoupled_distillation import DecoupledDistillation
from hf_transfer.objectives.distillation.dist import DIST
from hf_transfer.objectives.distillation.embedding_distillation import EmbeddingDistillation
from hf_transfer.objectives.distillation.hint_distillation import HintDistillation
from hf_transfer.objectives.distillation.logit_distillation import LogitDistillation
from hf_transfer.objectives.distillation.logit_standardization import LogitStandardization
from hf_transfer.objectives.distillation.patient_distillation import PatientDistillation
from hf_transfer.objectives.distillation.relational_distillation import RelationalDistillation
from hf_transfer.objectives.distillation.similarity_preserving import SimilarityPreserving
from hf_transfer.objectives.domain_adaptation.adaptive_feature_norm import AdaptiveFeatureNorm
from hf_transfer.objectives.domain_adaptation.batch_nuclear_norm import BatchNuclearNorm
from hf_transfer.objectives.domain_adaptation.batch_spectral_penalization import BatchSpectralPenalization
from hf_transfer.objectives.domain_adaptation.central_moment_discrepancy import CentralMomentDiscrepancy
from hf_transfer.objectives.domain_adaptation.conditional_adversarial import ConditionalAdversarial
from hf_transfer.objectives.domain_adaptation.consistency_regularization import FixMatch
from hf_transfer.objectives.domain_adaptation.deep_coral import DeepCORAL
from hf_transfer.objectives.domain_adaptation.domain_adversarial import DomainAdversarial
from hf_transfer.objectives.domain_adaptation.entropy_minimization import EntropyMinimization
from hf_transfer.objectives.domain_adaptation.information_maximization import InformationMaximization
from hf_transfer.objectives.domain_adaptation.joint_maximum_mean_discrepancy import JointMaximumMeanDiscrepancy
from hf_transfer.objectives.domain_adaptation.local_maximum_mean_discrepancy import LocalMaximumMeanDiscrepancy
from hf_transfer.objectives.domain_adaptation.margin_disparity import MarginDisparity
from hf_transfer.objectives.domain_adaptation.maximum_classifier_discrepancy import MaximumClassifierDiscrepancy
from hf_transfer.objectives.domain_adaptation.maximum_mean_discrepancy import MaximumMeanDiscrepancy
from hf_transfer.objectives.domain_adaptation.minimum_class_confusion import MinimumClassConfusion
from hf_transfer.objectives.domain_adaptation.pseudo_labels import PseudoLabels
from hf_transfer.objectives.domain_adaptation.sliced_wasserstein import SlicedWasserstein
from hf_transfer.objectives.domain_adaptation.wasserstein_distance import WassersteinDistance
from hf_transfer.objectives.few_shot.pair_similarity import PairSimilarity
from hf_transfer.objectives.few_shot.prototypical_episodes import PrototypicalEpisodes
from hf_transfer.objectives.knowledge.rule_constraint import RuleConstraint
from hf_transfer.objectives.multitask.multi_task import MultiTask
from hf_transfer.objectives.regularization.batch_spectral_shrinkage import BatchSpectralShrinkage
from hf_transfer.objectives.regularization.bi_tuning import BiTuning
from hf_transfer.objectives.regularization.co_tuning import CoTuning
from hf_transfer.objectives.regularization.delta import DELTA
from hf_transfer.objectives.regularization.l2sp import L2SP
from hf_transfer.objectives.regularization.learning_without_forgetting import LearningWithoutForgetting
from hf_transfer.objectives.regularization.r_drop import RDrop
from hf_transfer.objectives.regularization.supervised_contrastive import SupervisedContrastive
from hf_transfer.objectives.task.class_balanced import ClassBalanced
from hf_transfer.objectives.task.focal_loss import FocalLoss
from hf_transfer.objectives.task.label_smoothing import LabelSmoothing
from hf_transfer.objectives.task.mixup import CutMix, Mixup


__all__ = [
    "DELTA",
    "DIST",
    "L2SP",
    "AdaptiveFeatureNorm",
    "AttentionDistillation",
    "AttentionTransfer",
    "BatchNuclearNorm",
    "BatchSpectralPenalization",
    "BatchSpectralShrinkage",
    "BiTuning",
    "CentralMomentDiscrepancy",
    "ClassBalanced",
    "CoTuning",
    "ConditionalAdversarial",
    "ContrastiveRepresentation",
    "CutMix",
    "DecoupledDistillation",
    "DeepCORAL",
    "DomainAdversarial",
    "EmbeddingDistillation",
    "EntropyMinimization",
    "FixMatch",
    "FocalLoss",
    "HintDistillation",
    "InformationMaximization",
    "JointMaximumMeanDiscrepancy",
    "LabelSmoothing",
    "LearningWithoutForgetting",
    "LocalMaximumMeanDiscrepancy",
    "LogitDistillation",
    "LogitStandardization",
    "MarginDisparity",
    "MaximumClassifierDiscrepancy",
    "MaximumMeanDiscrepancy",
    "MinimumClassConfusion",
    "Mixup",
    "MultiTask",
    "PairSimilarity",
    "PatientDistillation",
    "PrototypicalEpisodes",
    "PseudoLabels",
    "RDrop",
    "RelationalDistillation",
    "RuleConstraint",
    "SimilarityPreserving",
    "SlicedWasserstein",
    "SupervisedContrastive",
    "WassersteinDistance",
]
