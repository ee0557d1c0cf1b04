"""Random features with classes, for the tests of the transferability scores."""

from __future__ import annotations

import numpy as np


def made(rows=60, width=5, classes=3, *, apart=1.0, seed=0):
    """Features around class centres that lie `apart` (in units of the noise), and labels in random order."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(rows) % classes)
    centres = apart * generator.standard_normal((classes, width))
    spread = np.linspace(0.5, 2.0, width)
    return (centres[labels] + generator.standard_normal((rows, width))) * spread + 0.7, labels


def shuffled(labels, *, seed=1):
    return np.random.default_rng(seed).permutation(labels)


def rotation(width, *, seed=2):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))[0]


def scaled_columns(features):
    """Not a rotation, nor one scale."""
    return features * np.geomspace(0.1, 10, features.shape[1])


DEGENERATE = {
    "one class": (np.arange(12.0).reshape(6, 2) ** 1.5, np.zeros(6, dtype=int)),
    "one row": (np.array([[1.0, 2.0]]), np.array([3])),
    "constant features": (np.full((6, 3), 0.1), np.array([0, 0, 1, 1, 2, 2])),
    "features of zeros": (np.zeros((4, 2)), np.array([0, 1, 0, 1])),
    "one row in each class": (np.array([[0.0, 1.0], [1.0, 0.5], [2.0, 0.1]]), np.array([0, 1, 2])),
    "one class of one row": (np.array([[0.0], [1.0], [1.5], [9.0]]), np.array([0, 0, 0, 4])),
    "duplicated rows": (np.repeat([[0.0, 1.0], [2.0, 5.0]], 4, axis=0), np.repeat([0, 1], 4)),
    "fewer rows than columns": (np.random.default_rng(0).standard_normal((6, 40)), np.array([0, 1, 2, 0, 1, 2])),
    "duplicated columns": (np.tile(np.random.default_rng(0).standard_normal((9, 2)), 3), np.arange(9) % 3),
    "rows of large numbers": (1e6 * np.random.default_rng(0).standard_normal((9, 2)), np.arange(9) % 3),
}
"""Name, features and labels of what a score must give a finite number for."""
