"""Features of a frozen model and what is fitted on them."""

from __future__ import annotations

from hf_transfer.features.probe import Probe, fit_head, head_features


__all__ = ["Probe", "fit_head", "head_features"]
