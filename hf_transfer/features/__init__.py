"""Features of a frozen model: read once, kept on disk, and what is fitted on them."""

from __future__ import annotations

from hf_transfer.features.cache import matrix
from hf_transfer.features.extraction import extract_features
from hf_transfer.features.probe import Probe, fit_head, fit_probe, head_features, load_probe


__all__ = ["Probe", "extract_features", "fit_head", "fit_probe", "head_features", "load_probe", "matrix"]
