"""Strategies that a comparison runs side by side."""

from __future__ import annotations

from hf_transfer.compare.strategies.baselines import Majority
from hf_transfer.compare.strategies.fine_tune import FineTune
from hf_transfer.compare.strategies.probing import LinearProbe
from hf_transfer.compare.strategies.standard import STANDARD, strategies_for
from hf_transfer.compare.strategies.strategy import Fitted, Strategy


__all__ = ["STANDARD", "FineTune", "Fitted", "LinearProbe", "Majority", "Strategy", "strategies_for"]
