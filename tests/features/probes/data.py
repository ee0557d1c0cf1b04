"""Small sets of features with labels that can be learned, but not perfectly."""

from __future__ import annotations

import numpy as np

from hf_transfer.features.probes.labelled_rows import ProbeRows
from hf_transfer.features.probes.training import Training, standardised


def blobs(rows=60, width=5, classes=3, *, seed=0, spread=1.0):
    """Rows around a mean of each class, of features at different scales, float32."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(rows) % classes)
    means = 2 * np.random.default_rng(99).standard_normal((classes, width))
    features = means[labels] + spread * generator.standard_normal((rows, width))
    return (features * np.logspace(-1, 1, width) + np.arange(width)).astype(np.float32), labels


def several(rows=60, width=5, classes=3, *, seed=0):
    """Rows with a yes or no to each class."""
    generator = np.random.default_rng(seed)
    features = generator.standard_normal((rows, width)).astype(np.float32)
    weight = np.random.default_rng(98).standard_normal((width, classes))
    return features, (features @ weight + generator.standard_normal((rows, classes)) > 0).astype(np.int64)


def values(rows=40, width=5, targets=2, *, seed=0):
    """Rows with real values."""
    generator = np.random.default_rng(seed)
    features = generator.standard_normal((rows, width)).astype(np.float32)
    weight = np.random.default_rng(97).standard_normal((width, targets))
    return features, 3 + features @ weight + 0.3 * generator.standard_normal((rows, targets))


def training_of(features, targets, *, validation=None, **options) -> Training:
    """The rows as [`fit_probe`] prepares them."""
    targets = np.asarray(targets)
    kind = "classes" if targets.ndim == 1 else "several" if np.isin(targets, (0, 1)).all() else "values"
    held = None if validation is None else ProbeRows(*validation, task="single_label")
    rows = ProbeRows(features, targets, task="single_label")
    inputs, _, _ = standardised(rows, held, standardize=True, centred=options.get("intercept", True))
    everything = targets if held is None else np.concatenate([targets, held.targets])
    classes = int(everything.max()) + 1 if kind == "classes" else targets.shape[1]
    options = {"classes": classes, **options}
    return Training(inputs, everything, rows=len(targets), labels=kind, **options)
