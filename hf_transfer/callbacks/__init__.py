"""Callbacks for any `transformers.Trainer`: freezing schedules and the progress of objectives."""

from __future__ import annotations

from hf_transfer.callbacks.adapt_batch_norm import AdaptBatchNorm
from hf_transfer.callbacks.batch_norm import FreezeBatchNorm
from hf_transfer.callbacks.freezing import FreezeBackbone
from hf_transfer.callbacks.gradual import GradualUnfreezing
from hf_transfer.callbacks.mixout import Mixout
from hf_transfer.callbacks.phases import Phase, Plateau
from hf_transfer.callbacks.progress import TrackProgress
from hf_transfer.callbacks.rank_allocation import AllocateRanks
from hf_transfer.callbacks.stochastic_normalization import StochNorm
from hf_transfer.callbacks.unfreezing import UnfreezingSchedule
from hf_transfer.callbacks.weight_average import ExponentialMovingAverage


__all__ = [
    "AdaptBatchNorm",
    "AllocateRanks",
    "ExponentialMovingAverage",
    "FreezeBackbone",
    "FreezeBatchNorm",
    "GradualUnfreezing",
    "Mixout",
    "Phase",
    "Plateau",
    "StochNorm",
    "TrackProgress",
    "UnfreezingSchedule",
]
