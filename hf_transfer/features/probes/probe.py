"""A fitted probe: what it predicts, how well, and the way into a model and onto the disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from hf_transfer.features.probes.labelled_rows import ProbeRows, Task, read_features, read_rows
from hf_transfer.features.probes.mlp import mlp_logits
from hf_transfer.features.probes.neighbours import neighbour_logits
from hf_transfer.features.probes.scores import scores_of
from hf_transfer.features.probes.training import Candidate


_BLOCK = 4096  # rows that are predicted at a time
_LINEAR = ("logistic", "ridge", "nearest_class_mean")

__all__ = ["Probe"]


@dataclass(frozen=True, eq=False)
class Probe:
    """
    A probe that [`fit_probe`] fitted to features.

    Args:
        strength (`float` or `str`):
            The chosen candidate: the inverse regularisation (dimensionless) of a logistic regression (`C`), a ridge
            regression or a network (1 / penalty); the shrinkage of class means; metric and number of neighbours.
        scores (`dict`):
            Held-out score of each candidate: mean accuracy; micro F1 for several labels a row, the negative squared
            error for a regression. Empty where there was one candidate, or too few rows to hold any out.
        rows (`int`):
            Labelled rows (tokens) it was fitted to.
        kind (`str`):
            `logistic`, `ridge`, `nearest_class_mean`, `knn` or `mlp`.
        task (`str`):
            `single_label`, `multi_label`, `regression` or `token`.
        label_names (`tuple[str, ...]`):
            Names of the classes by number; empty where the data had none.
        mean (`np.ndarray`):
            `(D,)`, what is taken off the features.
        scale (`np.ndarray`):
            `(D,)`, by what they are divided then.
        arrays (`Mapping[str, np.ndarray]`):
            What it predicts with: `weight` and `bias` on standardised features for the linear kinds.
        settings (`Mapping`):
            Further numbers and names it predicts with.
        column (`str`):
            The features it reads.
        sample (`np.ndarray`):
            `(n, D)` some of the rows it was fitted to, by which [`~Probe.fold_into`] checks its work.

    Example:
        >>> from hf_transfer.features import fit_probe
        >>> features = np.array([[0.0, 1.0], [0.2, 0.9], [2.0, 1.1], [2.1, 1.0]] * 3)
        >>> probe = fit_probe(features, np.array([0, 0, 1, 1] * 3))
        >>> probe.predict([[0.1, 1.0], [1.9, 1.0]]).tolist()
        [0, 1]
        >>> probe.score(features, np.array([0, 0, 1, 1] * 3))
        {'accuracy': 1.0, 'macro_f1': 1.0}
    """

    strength: Candidate
    scores: Mapping[Candidate, float]
    rows: int
    kind: str
    task: Task
    label_names: tuple[str, ...] = field(repr=False)
    mean: np.ndarray = field(repr=False)
    scale: np.ndarray = field(repr=False)
    arrays: Mapping[str, np.ndarray] = field(repr=False)
    settings: Mapping[str, Any] = field(repr=False)
    column: str
    sample: np.ndarray = field(repr=False)

    @property
    def classes(self) -> int:
        """Number of logits a row."""
        return int(self.settings["classes"])

    @property
    def is_linear(self) -> bool:
        """Whether it is one linear layer, which can become the head of a model."""
        return self.kind in _LINEAR

    def linear(self) -> tuple[np.ndarray, np.ndarray]:
        """
        Weights `(C, D)` and biases `(C,)` on the features as they are, in float64: the standardisation folded in.

        Raises:
            ValueError: if the probe is no linear layer.
        """
        if not self.is_linear:
            raise ValueError(
                f"A probe of the kind `{self.kind}` is not linear: no weights and biases are equal to it, and the "
                f"head of a model would predict something else. Fit a probe of the kind {', '.join(_LINEAR)}."
            )
        weight = self.arrays["weight"] / self.scale
        return weight, self.arrays["bias"] - weight @ self.mean

    def logits(self, features: Any) -> np.ndarray:
        """
        Logits `(N, C)` in float64; predicted values `(N, K)` of a regression.

        Args:
            features (`datasets.Dataset` or array):
                As [`fit_probe`] takes them. Of tokens all are predicted, one after the other.

        Raises:
            ValueError: if the features have another width than those it was fitted to.
        """
        table = read_features(features, column=self.column)[0]
        if table.shape[1] != len(self.mean):
            raise ValueError(
                f"The features have width {table.shape[1]}, the probe was fitted to width {len(self.mean)}: they are "
                "of another model or another tap. Extract them as those for the probe."
            )
        blocks = [self._block(table[start : start + _BLOCK]) for start in range(0, len(table), _BLOCK)]
        return np.concatenate(blocks) if blocks else np.zeros((0, self.classes))

    def _block(self, features: np.ndarray) -> np.ndarray:
        inputs = (features.astype(np.float64) - self.mean) / self.scale
        if self.kind == "knn":
            return neighbour_logits(self.arrays, self.settings, inputs.astype(np.float32))
        return (
            mlp_logits(self.arrays, inputs)
            if self.kind == "mlp"
            else inputs @ self.arrays["weight"].T + self.arrays["bias"]
        )

    def probabilities(self, features: Any) -> np.ndarray:
        """
        Probabilities `(N, C)`: softmax of the logits, sigmoid for several labels a row.

        They are those of the model for logistic regression, of the votes for neighbours, and no more than a ranking
        for ridge regression, whose logits are least-squares fits of 1 and -1.

        Raises:
            ValueError: for a regression.
        """
        if self.task == "regression":
            raise ValueError(
                "A regression has values, no probabilities: there are no classes to share them. Call `predict`."
            )
        logits = self.logits(features)
        if self.task == "multi_label":
            return np.exp(-np.logaddexp(0, -logits))
        exponentials = np.exp(logits - logits.max(1, keepdims=True))
        return exponentials / exponentials.sum(1, keepdims=True)

    def predict(self, features: Any) -> np.ndarray:
        """Class numbers `(N,)`; 0 and 1 `(N, C)` for several labels a row; values `(N, K)` of a regression."""
        return self._answers(self.logits(features))

    def _answers(self, logits: np.ndarray) -> np.ndarray:
        if self.task == "regression":
            return logits
        return (logits > 0).astype(np.int64) if self.task == "multi_label" else logits.argmax(1)

    def score(self, features: Any, labels: Any = None) -> dict[str, float]:
        """
        How well the probe predicts labelled rows, under the names of [`compute_metrics_for`].

        `accuracy` and `macro_f1` for classes, of tokens too; for several labels a row `micro_f1` and `exact_match`,
        the share of rows with all labels right; `mse`, `mae`, `r2` and, with one value a row, `pearson` for a
        regression. Rows of label -100 do not count.

        Args:
            features (`datasets.Dataset` or array): as [`fit_probe`] takes them.
            labels (array, *optional*): as [`fit_probe`] takes them. Names are told apart by name.

        Raises:
            ValueError: if no row has a label, or labels are none of the probe's classes.
        """
        rows = read_rows(features, labels, column=self.column, task=self.task, label_names=self.label_names or None)
        self.check_labels(rows)
        return scores_of(self.task, self._answers(self.logits(rows.features)), rows.targets)

    def check_labels(self, rows: ProbeRows) -> None:
        """
        Refuse labels that are none of the probe's.

        Raises:
            ValueError: if there are more classes or values than the probe has.
        """
        given = rows.targets.shape[1] if rows.targets.ndim == 2 else int(rows.targets.max()) + 1
        if given > self.classes or (rows.targets.ndim == 2 and given != self.classes):
            raise ValueError(
                f"The labels are of {given} classes or values, the probe of {self.classes}: what it never saw cannot "
                "be scored. Pass the data of the task it was fitted to."
            )

    def fold_into(
        self, model: nn.Module, *, head: str | None = None, check: bool = True, features: Any = None
    ) -> nn.Module:
        """
        Write the probe into the head of the model whose features it was fitted to, and return the model.

        The standardisation is folded into weights and biases in float64. Where the probe and the model name their
        classes, rows are put in the order of the model's; a model with placeholders (`LABEL_0`, ...) takes over the
        names of the probe. A model without a `problem_type` gets that of the probe. Rows of the head beyond the
        probe's classes get zero weights and the smallest bias. The saved model is an ordinary one.

        Args:
            model (`nn.Module`):
                Any classifier of `transformers` whose head is a linear layer or a 1x1 convolution, also under PEFT
                with its head in `modules_to_save`.
            head (`str`, *optional*):
                Name of the head, where it cannot be told from the model.
            check (`bool`, *optional*, defaults to `True`):
                Whether to compare what the new head returns with the logits of the probe, to 1e-4 of the largest
                (for a head in half precision to what its rounding allows, with a warning). If they differ, the model
                is left as it was.
            features (array, *optional*):
                Rows to compare on; by default some of those the probe was fitted to.

        Raises:
            ValueError: if the probe is not linear or reads another column than the head does, or the head has another
                width, fewer outputs, other names, or no bias for a probe that has one.
            RuntimeError: if the new head does not return the logits of the probe.
        """
        from hf_transfer.features.probes.folding import fold

        fold(self, model, head=head, check=check, features=features)
        return model

    def save(self, folder: str | os.PathLike[str]) -> None:
        """
        Write the probe into a folder: `probe.json` and the safetensors file it names.

        A probe that was there is replaced as a whole: whenever the writer is stopped, the old or the new one is read.
        """
        from hf_transfer.features.probes.files import save_probe

        save_probe(self, folder)
