"""Callbacks for any `transformers.Trainer`: freezing schedules and the progress of objectives."""

from __future__ import annotations

from hf_transfer.callbacks.batch_norm import FreezeBatchNorm
from hf_transfer.callbacks.freezing import FreezeBackbone
from hf_transfer.callbacks.gradual import GradualUnfreezing
from hf_transfer.callbacks.phases import Phase, Plateau
from hf_transfer.callbacks.progress import TrackProgress
from hf_transfer.callbacks.unfreezing import UnfreezingSchedule


__all__ = ["FreezeBackbone", "FreezeBatchNorm", "GradualUnfreezing", "Phase", "Plateau", "TrackProgress", "UnfreezingSchedule"]
