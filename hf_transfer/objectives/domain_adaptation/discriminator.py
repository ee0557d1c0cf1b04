"""The small network that tells domains apart, or classifies beside the head."""

from __future__ import annotations

from torch import nn


def mlp(in_features: int, hidden_size: int, out_features: int) -> nn.Sequential:
    """
    Two hidden layers with LayerNorm and ReLU, and a linear output (logits).

    LayerNorm, because BatchNorm of a mixed batch would share statistics between the domains and make ranks differ.

    Shape:
        - `(N, in_features)` to `(N, out_features)`.
    """
    return nn.Sequential(
        nn.Linear(in_features, hidden_size),
        nn.LayerNorm(hidden_size),
        nn.ReLU(),
        nn.Linear(hidden_size, hidden_size),
        nn.LayerNorm(hidden_size),
        nn.ReLU(),
        nn.Linear(hidden_size, out_features),
    )
