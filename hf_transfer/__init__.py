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
    from hf_transfer.callbacks import FreezeBackbone, GradualUnfreezing, TrackProgress, UnfreezingSchedule
    from hf_transfer.data import mix_domains
    from hf_transfer.objectives import L2SP, DomainAdversarial
    from hf_transfer.presets import DomainAdversarialTrainer, FineTuningTrainer
    from hf_transfer.trainer import TransferTrainer


__all__ = [
    "L2SP",
    "Anatomy",
    "Attachment",
    "DomainAdversarial",
    "DomainAdversarialTrainer",
    "FineTuningTrainer",
    "FreezeBackbone",
    "GradualUnfreezing",
    "ModelSpec",
    "Objective",
    "TrackProgress",
    "TransferArguments",
    "TransferBatch",
    "TransferTrainer",
    "UnfreezingSchedule",
    "anatomy",
    "attach",
    "mix_domains",
]

# Loaded on first use: the Trainer alone takes longer to import than all the rest.
_LAZY = {
    "arguments": ["TransferArguments"],
    "callbacks": ["FreezeBackbone", "GradualUnfreezing", "TrackProgress", "UnfreezingSchedule"],
    "data": ["mix_domains"],
    "objectives": ["L2SP", "DomainAdversarial"],
    "presets": ["DomainAdversarialTrainer", "FineTuningTrainer"],
    "trainer": ["TransferTrainer"],
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
