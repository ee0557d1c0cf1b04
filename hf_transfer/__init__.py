"""Transfer learning for the Hugging Face stack: objectives, callbacks and a trainer for transformers classifiers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Imported now because each function shares its name with its module, which would otherwise take its place here.
from hf_transfer.anatomy import Anatomy, anatomy
from hf_transfer.attach import Attachment, attach
from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.objective import Objective


if TYPE_CHECKING:
    from hf_transfer.arguments import TransferArguments
    from hf_transfer.callbacks import (
        ExponentialMovingAverage,
        FreezeBackbone,
        FreezeBatchNorm,
        GradualUnfreezing,
        Mixout,
        StochNorm,
        TrackProgress,
        UnfreezingSchedule,
    )
    from hf_transfer.data import mix_domains
    from hf_transfer.features import extract_features, fit_head, fit_probe, load_probe
    from hf_transfer.features.layers.layer_report import layer_report
    from hf_transfer.features.training.trainer import FeatureExtractionTrainer
    from hf_transfer.objectives import (
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
        RDrop,
        SupervisedContrastive,
    )
    from hf_transfer.presets import DomainAdversarialTrainer, FineTuningTrainer
    from hf_transfer.source import Source
    from hf_transfer.trainer import TransferTrainer
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
    "Anatomy",
    "Attachment",
    "BatchSpectralShrinkage",
    "BiTuning",
    "ClassBalanced",
    "CoTuning",
    "CutMix",
    "DomainAdversarial",
    "DomainAdversarialTrainer",
    "ExponentialMovingAverage",
    "FeatureExtractionTrainer",
    "FineTuningTrainer",
    "FocalLoss",
    "FreezeBackbone",
    "FreezeBatchNorm",
    "GradualUnfreezing",
    "LabelSmoothing",
    "LearningWithoutForgetting",
    "Mixout",
    "Mixup",
    "ModelSpec",
    "Objective",
    "RDrop",
    "Source",
    "StochNorm",
    "SupervisedContrastive",
    "TrackProgress",
    "TransferArguments",
    "TransferBatch",
    "TransferTrainer",
    "UnfreezingSchedule",
    "anatomy",
    "attach",
    "extract_features",
    "fit_head",
    "fit_probe",
    "greedy_soup",
    "layer_report",
    "load_probe",
    "mix_domains",
    "reinitialize_blocks",
    "snapshot",
    "transfer_parameters",
    "uniform_soup",
    "wise_ft",
]

# Loaded on first use: the Trainer alone takes longer to import than all the rest.
_LAZY = {
    "arguments": ["TransferArguments"],
    "callbacks": [
        "ExponentialMovingAverage",
        "FreezeBackbone",
        "FreezeBatchNorm",
        "GradualUnfreezing",
        "Mixout",
        "StochNorm",
        "TrackProgress",
        "UnfreezingSchedule",
    ],
    "data": ["mix_domains"],
    "features": ["extract_features", "fit_head", "fit_probe", "load_probe"],
    "features.layers.layer_report": ["layer_report"],
    "features.training.trainer": ["FeatureExtractionTrainer"],
    "objectives": [
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
    ],
    "presets": ["DomainAdversarialTrainer", "FineTuningTrainer"],
    "source": ["Source"],
    "trainer": ["TransferTrainer"],
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
