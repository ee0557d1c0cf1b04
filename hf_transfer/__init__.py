"""Transfer learning for the Hugging Face stack: objectives, callbacks and a trainer for transformers classifiers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Imported now because each function shares its name with its module, which would otherwise take its place here.
from hf_transfer.anatomy import Anatomy, anatomy
from hf_transfer.attach import Attachment, attach
from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.objective import Objective


if TYPE_CHECKING:
    from hf_transfer.adaptation import adapt_at_test_time, adapt_batch_norm, adapt_source_free
    from hf_transfer.arguments import TransferArguments
    from hf_transfer.callbacks import (
        AdaptBatchNorm,
        ExponentialMovingAverage,
        FreezeBackbone,
        FreezeBatchNorm,
        GradualUnfreezing,
        Mixout,
        StochNorm,
        TrackProgress,
        UnfreezingSchedule,
    )
    from hf_transfer.callbacks.domain_health import DomainHealth
    from hf_transfer.callbacks.target_validation import TargetValidation
    from hf_transfer.data import mix_domains
    from hf_transfer.data.views import TwoViewsCollator
    from hf_transfer.diagnostics import (
        class_shift,
        domain_bound,
        feature_plot,
        mmd_test,
        proxy_a_distance,
    )
    from hf_transfer.features import extract_features, fit_head, fit_probe, load_probe
    from hf_transfer.features.layers.layer_report import layer_report
    from hf_transfer.features.reweighting import importance_weights, label_shift_weights, reweight, tradaboost
    from hf_transfer.features.training.trainer import FeatureExtractionTrainer
    from hf_transfer.objectives import (
        DELTA,
        L2SP,
        AdaptiveFeatureNorm,
        BatchNuclearNorm,
        BatchSpectralPenalization,
        BatchSpectralShrinkage,
        BiTuning,
        CentralMomentDiscrepancy,
        ClassBalanced,
        ConditionalAdversarial,
        CoTuning,
        CutMix,
        DeepCORAL,
        DomainAdversarial,
        EntropyMinimization,
        FixMatch,
        FocalLoss,
        InformationMaximization,
        JointMaximumMeanDiscrepancy,
        LabelSmoothing,
        LearningWithoutForgetting,
        LocalMaximumMeanDiscrepancy,
        MarginDisparity,
        MaximumClassifierDiscrepancy,
        MaximumMeanDiscrepancy,
        MinimumClassConfusion,
        Mixup,
        PseudoLabels,
        RDrop,
        SlicedWasserstein,
        SupervisedContrastive,
        WassersteinDistance,
    )
    from hf_transfer.presets import DomainAdversarialTrainer, FineTuningTrainer
    from hf_transfer.source import Source
    from hf_transfer.trainer import TransferTrainer
    from hf_transfer.validators import validate_without_labels
    from hf_transfer.weights import (
        greedy_soup,
        reinitialize_blocks,
        snapshot,
        transfer_parameters,
        uniform_soup,
        wise_ft,
    )


__all__ = [
    "DELTA",
    "L2SP",
    "AdaptBatchNorm",
    "AdaptiveFeatureNorm",
    "Anatomy",
    "Attachment",
    "BatchNuclearNorm",
    "BatchSpectralPenalization",
    "BatchSpectralShrinkage",
    "BiTuning",
    "CentralMomentDiscrepancy",
    "ClassBalanced",
    "CoTuning",
    "ConditionalAdversarial",
    "CutMix",
    "DeepCORAL",
    "DomainAdversarial",
    "DomainAdversarialTrainer",
    "DomainHealth",
    "EntropyMinimization",
    "ExponentialMovingAverage",
    "FeatureExtractionTrainer",
    "FineTuningTrainer",
    "FixMatch",
    "FocalLoss",
    "FreezeBackbone",
    "FreezeBatchNorm",
    "GradualUnfreezing",
    "InformationMaximization",
    "JointMaximumMeanDiscrepancy",
    "LabelSmoothing",
    "LearningWithoutForgetting",
    "LocalMaximumMeanDiscrepancy",
    "MarginDisparity",
    "MaximumClassifierDiscrepancy",
    "MaximumMeanDiscrepancy",
    "MinimumClassConfusion",
    "Mixout",
    "Mixup",
    "ModelSpec",
    "Objective",
    "PseudoLabels",
    "RDrop",
    "SlicedWasserstein",
    "Source",
    "StochNorm",
    "SupervisedContrastive",
    "TargetValidation",
    "TrackProgress",
    "TransferArguments",
    "TransferBatch",
    "TransferTrainer",
    "TwoViewsCollator",
    "UnfreezingSchedule",
    "WassersteinDistance",
    "adapt_at_test_time",
    "adapt_batch_norm",
    "adapt_source_free",
    "anatomy",
    "attach",
    "class_shift",
    "domain_bound",
    "extract_features",
    "feature_plot",
    "fit_head",
    "fit_probe",
    "greedy_soup",
    "importance_weights",
    "label_shift_weights",
    "layer_report",
    "load_probe",
    "mix_domains",
    "mmd_test",
    "proxy_a_distance",
    "reinitialize_blocks",
    "reweight",
    "snapshot",
    "tradaboost",
    "transfer_parameters",
    "uniform_soup",
    "validate_without_labels",
    "wise_ft",
]

# Loaded on first use: the Trainer alone takes longer to import than all the rest.
_LAZY = {
    "adaptation": ["adapt_at_test_time", "adapt_batch_norm", "adapt_source_free"],
    "arguments": ["TransferArguments"],
    "callbacks": [
        "AdaptBatchNorm",
        "ExponentialMovingAverage",
        "FreezeBackbone",
        "FreezeBatchNorm",
        "GradualUnfreezing",
        "Mixout",
        "StochNorm",
        "TrackProgress",
        "UnfreezingSchedule",
    ],
    "callbacks.domain_health": ["DomainHealth"],
    "callbacks.target_validation": ["TargetValidation"],
    "data": ["mix_domains"],
    "data.views": ["TwoViewsCollator"],
    "diagnostics": ["class_shift", "domain_bound", "feature_plot", "mmd_test", "proxy_a_distance"],
    "features": ["extract_features", "fit_head", "fit_probe", "load_probe"],
    "features.layers.layer_report": ["layer_report"],
    "features.reweighting": ["importance_weights", "label_shift_weights", "reweight", "tradaboost"],
    "features.training.trainer": ["FeatureExtractionTrainer"],
    "objectives": [
        "DELTA",
        "L2SP",
        "AdaptiveFeatureNorm",
        "BatchNuclearNorm",
        "BatchSpectralPenalization",
        "BatchSpectralShrinkage",
        "BiTuning",
        "CentralMomentDiscrepancy",
        "ClassBalanced",
        "CoTuning",
        "ConditionalAdversarial",
        "CutMix",
        "DeepCORAL",
        "DomainAdversarial",
        "EntropyMinimization",
        "FixMatch",
        "FocalLoss",
        "InformationMaximization",
        "JointMaximumMeanDiscrepancy",
        "LabelSmoothing",
        "LearningWithoutForgetting",
        "LocalMaximumMeanDiscrepancy",
        "MarginDisparity",
        "MaximumClassifierDiscrepancy",
        "MaximumMeanDiscrepancy",
        "MinimumClassConfusion",
        "Mixup",
        "PseudoLabels",
        "RDrop",
        "SlicedWasserstein",
        "SupervisedContrastive",
        "WassersteinDistance",
    ],
    "presets": ["DomainAdversarialTrainer", "FineTuningTrainer"],
    "source": ["Source"],
    "trainer": ["TransferTrainer"],
    "validators": ["validate_without_labels"],
    "weights": ["greedy_soup", "reinitialize_blocks", "snapshot", "transfer_parameters", "uniform_soup", "wise_ft"],
}
_MODULE_OF = {name: module for module, names in _LAZY.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module `hf_transfer` has no attribute `{name}`")
    value = getattr(import_module(f"hf_transfer.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
