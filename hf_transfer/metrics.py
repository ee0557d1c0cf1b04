"""
Metrics as `evaluate.Metric`s that need no network, and the `compute_metrics` of a `Trainer` made of them.

`evaluate.load("accuracy")` downloads the metric's code. These are ordinary classes, combinable by `evaluate.combine`.
They keep their input in memory: every rank of a `Trainer` computes them, and files of several ranks would clash.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from transformers.trainer_utils import EvalPrediction


__all__ = [
    "MAIN_METRIC",
    "METRICS",
    "Accuracy",
    "MacroF1",
    "MeanSquaredError",
    "PearsonR",
    "TokenF1",
    "compute_metrics_for",
    "entity_spans",
]

IGNORE_INDEX = -100

METRICS = {
    "image-classification": ("accuracy", "macro_f1"),
    "text-classification": ("accuracy", "macro_f1"),
    "audio-classification": ("accuracy", "macro_f1"),
    "token-classification": ("f1", "precision", "recall", "accuracy"),
    "regression": ("pearson", "mse"),
}
"""What `compute_metrics_for` reports for a task, the metric it is mostly judged by first."""

MAIN_METRIC = {task: names[0] for task, names in METRICS.items()}
"""The metric a task is mostly judged by; more is better."""


class _InMemoryMetric(evaluate.Metric):
    """A metric of one number (or list of numbers) per row, with no cache file."""

    _value: Any = datasets.Value("int64")

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"keep_in_memory": True, **options})

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": self._value, "references": self._value})
        return evaluate.MetricInfo(
            description=self.__doc__ or "", citation="", inputs_description="", features=features
        )


class Accuracy(_InMemoryMetric):
    """
    Share of rows whose predicted class is the right one: `accuracy`. Rows of reference -100 do not count.

    Raises:
        ValueError: if every reference is -100.

    Example:
        >>> Accuracy().compute(predictions=[0, 1, 1], references=[0, 1, 0])
        {'accuracy': 0.6666666666666666}
    """

    def _compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, float]:
        predictions, references = _labelled(predictions, references)
        return {"accuracy": float(np.mean(predictions == references))}


class MacroF1(_InMemoryMetric):
    r"""
    Mean over the classes of the harmonic mean of precision and recall: `macro_f1`.

    $$ \frac{1}{C} \sum_c \frac{2 \, TP_c}{2 \, TP_c + FP_c + FN_c} $$

    over the $C$ classes that occur among predictions or references, as in scikit-learn. Rows of reference -100 do not
    count.

    Raises:
        ValueError: if every reference is -100.

    Example:
        >>> MacroF1().compute(predictions=[0, 1, 1, 1], references=[0, 1, 0, 1])
        {'macro_f1': 0.7333333333333334}
    """

    def _compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, float]:
        from sklearn.metrics import f1_score

        predictions, references = _labelled(predictions, references)
        # the stub of scikit-learn 1.9 wants a string for zero_division, its documentation a number
        score: Any = f1_score(references, predictions, average="macro", zero_division=0)  # pyright: ignore[reportArgumentType]
        return {"macro_f1": float(score)}


class TokenF1(_InMemoryMetric):
    r"""
    Entity-level F1 of IOB2 tags as CoNLL counts it: `precision`, `recall`, `f1`, micro-averaged over all entities.

    An entity is right if its type and both its ends are. With $n$ right ones, precision is $n$ / predicted entities,
    recall $n$ / true entities, `f1` their harmonic mean; 0 where a denominator is. Tokens of reference -100 are
    dropped from both sequences before entities are read.

    Args:
        label_names (`Sequence[str]`):
            Tags by class number, such as `O`, `B-PER`, `I-PER`.

    Raises:
        ValueError: if there are no names, or tags of the IOBES scheme (`E-`, `S-`).

    Example:
        >>> metric = TokenF1(label_names=["O", "B-PER", "I-PER"])
        >>> metric.compute(predictions=[[1, 2, 0, 1]], references=[[1, 2, 0, 0]])
        {'precision': 0.5, 'recall': 1.0, 'f1': 0.6666666666666666}
    """

    _value = datasets.List(datasets.Value("int64"))

    def __init__(self, *, label_names: Sequence[str], **options: Any) -> None:
        foreign = [name for name in label_names if name.startswith(("E-", "S-", "L-", "U-"))]
        if foreign or not label_names:
            raise ValueError(
                f"TokenF1 got the tags {list(label_names)[:10]}; entities are read from `O`, `B-...` and `I-...`. "
                "Convert the tags to IOB2 (`S-` to `B-`, `E-` to `I-`), and pass all names by class number."
            )
        self.label_names = list(label_names)
        super().__init__(**options)

    def _compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, float]:
        right = predicted = true = 0
        for guess, reference in zip(predictions, references, strict=True):
            kept = [(g, r) for g, r in zip(guess, reference, strict=True) if r != IGNORE_INDEX]
            guessed, wanted = (entity_spans([self.label_names[tag] for tag in tags]) for tags in _unzip(kept))
            right += len(guessed & wanted)
            predicted += len(guessed)
            true += len(wanted)
        precision, recall = _ratio(right, predicted), _ratio(right, true)
        return {"precision": precision, "recall": recall, "f1": _ratio(2 * right, predicted + true)}


class MeanSquaredError(_InMemoryMetric):
    """
    Mean of the squared differences: `mse`. Rows of reference -100 do not count.

    Raises:
        ValueError: if every reference is -100.

    Example:
        >>> MeanSquaredError().compute(predictions=[1.0, 2.0], references=[1.0, 4.0])
        {'mse': 2.0}
    """

    _value = datasets.Value("float32")

    def _compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, float]:
        predictions, references = _labelled(predictions, references)
        return {"mse": float(np.mean((predictions.astype(np.float64) - references) ** 2))}


class PearsonR(_InMemoryMetric):
    """
    Correlation of predictions and references: `pearson`, in [-1, 1]; 0 if either is constant, where it is not defined.

    Rows of reference -100 do not count.

    Raises:
        ValueError: if every reference is -100.

    Example:
        >>> round(PearsonR().compute(predictions=[1.0, 2.0, 3.0], references=[2.0, 4.0, 6.0])["pearson"], 6)
        1.0
    """

    _value = datasets.Value("float32")

    def _compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, float]:
        pair = [values.astype(np.float64) for values in _labelled(predictions, references)]
        guess, reference = (values - values.mean() for values in pair)
        scale = float(np.linalg.norm(guess) * np.linalg.norm(reference))
        return {"pearson": float(guess @ reference) / scale if scale else 0.0}


def compute_metrics_for(task: str, label_names: Sequence[str] = ()) -> Callable[[EvalPrediction], dict[str, float]]:
    """
    The `compute_metrics` of a `Trainer` for a task: `accuracy` and `macro_f1` for classes, `precision`, `recall`, `f1`
    of entities and the `accuracy` of tags for tokens, `mse` and `pearson` for regression.

    Logits become classes by the largest; predictions that are classes already are taken as they are, and of a tuple
    (logits, hidden states, ...) the first. References of -100 do not count.

    Args:
        task (`str`):
            Task as [`~hf_transfer.data.loading.TransferData`] names it.
        label_names (`Sequence[str]`, *optional*):
            Class names by number; needed for tokens.

    Raises:
        ValueError: if the task is unknown, or names are missing for tokens.

    Example:
        >>> compute = compute_metrics_for("text-classification")
        >>> logits = np.array([[2.0, 1.0], [0.0, 3.0]])
        >>> compute(EvalPrediction(predictions=logits, label_ids=np.array([0, 1])))
        {'accuracy': 1.0, 'macro_f1': 1.0}
    """
    if task == "regression":
        return _compute_with(evaluate.combine([MeanSquaredError(), PearsonR()]), _values)
    if task == "token-classification":
        tokens, tags = TokenF1(label_names=label_names), _compute_with(Accuracy(), _flat_classes)
        entities = _compute_with(tokens, _token_classes)
        return lambda outputs: {**entities(outputs), **tags(outputs)}
    if task in ("image-classification", "text-classification", "audio-classification"):
        return _compute_with(evaluate.combine([Accuracy(), MacroF1()]), _flat_classes)
    raise ValueError(
        f"There are no metrics for the task `{task}`, so the model could not be scored. Pass image-classification, "
        "text-classification, audio-classification, token-classification or regression, or write a `compute_metrics`."
    )


def entity_spans(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """
    The entities of one sequence of IOB2 tags as (type, start, end), the end being the first token after it.

    As in CoNLL's scoring script an `I-` that continues nothing, or another type, begins an entity. A tag without `B-`
    or `I-` counts as `I-`.

    Example:
        >>> sorted(entity_spans(["B-PER", "I-PER", "I-LOC", "O", "I-LOC", "B-LOC"]))
        [('LOC', 2, 3), ('LOC', 4, 5), ('LOC', 5, 6), ('PER', 0, 2)]
    """
    spans = set()
    current, start = "", 0
    for position, tag in enumerate([*tags, "O"]):
        begins, kind = tag.startswith("B-"), "" if tag == "O" else tag.removeprefix("B-").removeprefix("I-")
        if current and (begins or kind != current):
            spans.add((current, start, position))
            current = ""
        if kind and not current:
            current, start = kind, position
    return spans


def _compute_with(
    metric: Any, read: Callable[[np.ndarray, np.ndarray], tuple[Any, Any]]
) -> Callable[[EvalPrediction], dict[str, float]]:
    def compute(outputs: EvalPrediction) -> dict[str, float]:
        # models may return, and data sets hold, more than logits and labels: these come first
        arrays = (outputs.predictions, outputs.label_ids)
        first = [np.asarray(array[0] if isinstance(array, (tuple, list)) else array) for array in arrays]
        predictions, references = read(first[0], first[1])
        return metric.compute(predictions=predictions, references=references)

    return compute


def _classes(predictions: np.ndarray, references: np.ndarray) -> np.ndarray:
    return predictions.argmax(-1) if predictions.ndim > references.ndim else predictions


def _flat_classes(predictions: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _classes(predictions, references).reshape(-1), references.reshape(-1)


def _token_classes(predictions: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _classes(predictions, references), references


def _values(predictions: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return predictions.reshape(-1), references.reshape(-1)


def _labelled(predictions: Any, references: Any) -> tuple[np.ndarray, np.ndarray]:
    guesses, wanted = np.asarray(predictions), np.asarray(references)
    kept = wanted != IGNORE_INDEX
    if not kept.any():
        raise ValueError(
            f"None of the {len(wanted)} references is a label (all are {IGNORE_INDEX}); nothing can be scored. "
            "Evaluate on labelled data: `mix_domains` masks the labels of its targets, so pass the unmixed dataset."
        )
    return guesses[kept], wanted[kept]


def _unzip(pairs: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [first for first, _ in pairs], [second for _, second in pairs]


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else 0.0
