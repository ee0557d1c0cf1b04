"""Choosing a model without labels of the target."""

from __future__ import annotations

from hf_transfer.validators.choosing import choose
from hf_transfer.validators.validation import validate_without_labels


__all__ = ["choose", "validate_without_labels"]
