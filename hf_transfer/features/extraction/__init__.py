"""Reading features off a frozen model: which modules, how pooled, in what batches, on which ranks."""

from __future__ import annotations

from hf_transfer.features.extraction.extract import extract_features


__all__ = ["extract_features"]
