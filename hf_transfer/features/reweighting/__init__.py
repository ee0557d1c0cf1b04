"""Weights under which source rows count as those of the target would; computed on features of a frozen model."""

from __future__ import annotations

from hf_transfer.features.reweighting.domain_classifier import DomainClassifier
from hf_transfer.features.reweighting.importance import METHODS, importance_weights
from hf_transfer.features.reweighting.label_shift import LabelShift, label_shift_weights
from hf_transfer.features.reweighting.mean_one import effective_sample_size
from hf_transfer.features.reweighting.tradaboost import InstanceTransfer, tradaboost
from hf_transfer.features.reweighting.weighted_source import reweight


__all__ = [
    "METHODS",
    "DomainClassifier",
    "InstanceTransfer",
    "LabelShift",
    "effective_sample_size",
    "importance_weights",
    "label_shift_weights",
    "reweight",
    "tradaboost",
]
