"""Every objective of the library: one class per method, in folders by family."""

from hf_transfer.objectives.domain_adaptation.domain_adversarial import DomainAdversarial
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
    "L2SP",
    "BatchSpectralShrinkage",
    "BiTuning",
    "ClassBalanced",
    "CoTuning",
    "CutMix",
    "DomainAdversarial",
    "FocalLoss",
    "LabelSmoothing",
    "LearningWithoutForgetting",
    "Mixup",
    "RDrop",
    "SupervisedContrastive",
]
