"""Probes on cached features: small models that are fitted in seconds and can become the head of the large one."""

from __future__ import annotations

from hf_transfer.features.probes.files import load_probe
from hf_transfer.features.probes.fitting import fit_probe
from hf_transfer.features.probes.probe import Probe
from hf_transfer.features.probes.training import STRENGTHS


__all__ = ["STRENGTHS", "Probe", "fit_probe", "load_probe"]
