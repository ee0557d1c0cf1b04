"""Objectives that learn from few labels: prototypical episodes and pairs."""
