"""Strategies that a comparison runs side by side."""
