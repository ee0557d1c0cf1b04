"""A linear probe written into the model's own head: the first half of LP-FT, and a model by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from hf_transfer.anatomy import Anatomy, anatomy
from hf_transfer.functional.task_loss import UNLABELLED
from hf_transfer.tap import HeadTap


STRENGTHS = tuple(float(value) for value in 10.0 ** np.arange(-4, 3))
"""Inverse regularisation strengths `C` of the logistic regression that are tried, on standardised features."""

__all__ = ["STRENGTHS", "Probe", "fit_head", "head_features"]


@dataclass(frozen=True)
class Probe:
    """
    What [`fit_head`] fitted.

    Args:
        strength (`float`):
            The inverse regularisation `C` it chose (dimensionless); for a regression the penalty of ridge regression.
        scores (`dict[float, float]`):
            Cross-validated score of each strength: mean accuracy, or for a regression the negative squared error.
            Empty where there were too few rows of a class to hold any out.
        rows (`int`):
            Labelled rows (tokens) it was fitted on.
    """

    strength: float
    scores: dict[float, float]
    rows: int


def head_features(
    model: nn.Module, batches: Iterable[Mapping[str, Any]], *, head: str | None = None
) -> tuple[Tensor, Tensor]:
    """
    The features of labelled rows as the head of the model sees them, with the model in evaluation mode.

    Args:
        model (`nn.Module`):
            Any classifier of `transformers`, also under PEFT. Its mode is restored.
        batches (`Iterable[Mapping]`):
            Collated batches with `labels`.
        head (`str`, *optional*):
            Name of the head, where it cannot be told from the model.

    Shape:
        - returns features `(N, D)` float32 and labels `(N,)`, on the CPU. For token classification `N` counts tokens.
          Unlabelled rows are left out.

    Raises:
        ValueError: if no row has a label.
    """
    return _features(model, anatomy(model, head=head), batches)


def fit_head(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    *,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
    head: str | None = None,
) -> Probe:
    r"""
    Fit the head of a model to labelled rows, the backbone frozen, and leave the solution in it (linear probing).

    Features are computed once. A logistic regression (ridge regression where there is one real-valued output) is
    fitted to them after standardisation; its regularisation is the one that predicts best in stratified
    cross-validation, and of those that get as many rows right the one with the lowest log loss. The standardisation is
    folded into the weights. Fine-tuning from there (LP-FT) does not distort the pretrained features to suit a random
    head.

    Args:
        model (`nn.Module`):
            Any classifier of `transformers`, also under PEFT, with a linear head. Only its head changes.
        batches (`Iterable[Mapping]`):
            Collated batches of the training data; no augmentation is wanted.
        strengths (`Sequence[float]`, *optional*):
            Inverse regularisation strengths to choose from (dimensionless), relative to one row as in scikit-learn.
        seed (`int`, *optional*, defaults to 0):
            Of the folds.
        head (`str`, *optional*):
            Name of the head, where it cannot be told from the model.

    Degenerate batches:
        With one row of some class nothing can be held out: the middle strength is taken. A class without any row gets
        zero weights and the smallest bias.

    Raises:
        ValueError: if no row has a label or all have the same; if rows have several labels.
        ImportError: if scikit-learn is not installed.

    Relations:
        [`FreezeBackbone`] trains the head by gradient descent, with augmentation and any objective.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> model = BertForSequenceClassification(config)
        >>> batch = {"input_ids": torch.randint(1, 9, (8, 4)), "labels": torch.tensor([0, 1] * 4)}
        >>> fit_head(model, [batch]).rows
        8

    Paper: Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", ICLR 2022,
    https://huggingface.co/papers/2202.10054
    """
    parts = anatomy(model, head=head)
    features, labels = _features(model, parts, batches)
    layer: Any = model.get_submodule(parts.head)
    regression = labels.is_floating_point()
    mean, scale = _standardisation(features, centred=layer.bias is not None)
    inputs = ((features.double() - mean) / scale).numpy()
    fit = _ridge if regression else _logistic
    weight, bias, probe = fit(inputs, labels.numpy(), layer.bias is not None, sorted(strengths), seed)
    weight = torch.from_numpy(np.atleast_2d(weight)) / scale
    bias = torch.from_numpy(np.atleast_1d(bias)) - weight @ mean
    if not regression:
        weight, bias = _by_class(weight, bias, sorted(set(labels.tolist())), layer.weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight.reshape(layer.weight.shape))
        if layer.bias is not None:
            layer.bias.copy_(bias)
    return probe


@torch.no_grad()
def _features(model: nn.Module, parts: Anatomy, batches: Iterable[Mapping[str, Any]]) -> tuple[Tensor, Tensor]:
    tap, training = HeadTap(model, parts), model.training
    device = next(model.parameters()).device
    features, labels = [], []
    model.eval()
    tap.open = True
    try:
        for batch in batches:
            given = batch["labels"]
            inputs = {
                key: value.to(device) if isinstance(value, Tensor) else value
                for key, value in batch.items()
                if key not in ("labels", "domain")
            }
            logits = model(**inputs).logits
            _refuse_several(given, logits)
            rows = tap.take(logits, inputs).cpu()
            chosen = given.reshape(-1) != UNLABELLED
            features.append(rows.reshape(-1, rows.shape[-1])[chosen])
            labels.append(given.reshape(-1)[chosen])
    finally:
        tap.remove()
        model.train(training)
    if not sum(map(len, labels)):
        raise ValueError(
            "No row of the data has a label: there is nothing to fit a head to. Give the labelled rows, such as the "
            "source of a mixed data set."
        )
    return torch.cat(features), torch.cat(labels)


def _refuse_several(labels: Tensor, logits: Tensor) -> None:
    if labels.shape == logits.shape and logits.shape[-1] > 1:
        raise ValueError(
            f"Rows have {labels.shape[-1]} labels each: one logistic regression gives each row one class. Train the "
            "head with `FreezeBackbone` instead, which takes any loss."
        )


def _standardisation(features: Tensor, *, centred: bool) -> tuple[Tensor, Tensor]:
    """Mean and scale of the features in float64; the mean is zero where the head has no bias to fold it into."""
    features = features.double()
    scale = features.std(0, correction=0)
    mean = features.mean(0) if centred else torch.zeros_like(scale)
    return mean, torch.where(scale > 1e-12, scale, 1.0)


def _logistic(
    inputs: np.ndarray, labels: np.ndarray, bias: bool, strengths: Sequence[float], seed: int
) -> tuple[np.ndarray, np.ndarray, Probe]:
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import log_loss
        from sklearn.model_selection import StratifiedKFold
    except ImportError as error:
        raise _no_sklearn() from error

    counts = np.unique(labels, return_counts=True)[1]
    if len(counts) < 2:
        raise ValueError(
            f"All {len(labels)} labelled rows are of one class: any head that always answers it is perfect. Give rows "
            "of every class."
        )

    def fitted(strength: float, rows: np.ndarray) -> LogisticRegression:
        model = LogisticRegression(C=strength, fit_intercept=bias, max_iter=2000)
        return model.fit(inputs[rows], labels[rows])

    folds = min(5, int(counts.min()))
    scores: dict[float, float] = {}
    losses: dict[float, float] = {}
    if folds > 1:
        splits = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(inputs, labels))
        for strength in strengths:
            models = [(fitted(strength, train), held) for train, held in splits]
            scores[strength] = float(np.mean([model.score(inputs[held], labels[held]) for model, held in models]))
            losses[strength] = float(
                np.mean(
                    [
                        log_loss(labels[held], model.predict_proba(inputs[held]), labels=model.classes_)
                        for model, held in models
                    ]
                )
            )
    chosen = _best(scores, strengths, losses)
    model = fitted(chosen, np.arange(len(labels)))
    weight, intercept = model.coef_, np.broadcast_to(model.intercept_, len(model.coef_)).copy()
    if len(counts) == 2:  # one row of differences: half of it for each class
        weight, intercept = np.concatenate([-weight, weight]) / 2, np.concatenate([-intercept, intercept]) / 2
    return weight, intercept, Probe(chosen, scores, len(labels))


def _ridge(
    inputs: np.ndarray, labels: np.ndarray, bias: bool, strengths: Sequence[float], seed: int
) -> tuple[np.ndarray, np.ndarray, Probe]:
    try:
        from sklearn.linear_model import Ridge
        from sklearn.model_selection import KFold, cross_val_score
    except ImportError as error:
        raise _no_sklearn() from error

    def ridge(strength: float) -> Ridge:
        return Ridge(alpha=1 / strength, fit_intercept=bias)

    scores: dict[float, float] = {}
    folds = min(5, len(labels))
    if folds > 1:
        split = KFold(folds, shuffle=True, random_state=seed)
        for strength in strengths:
            errors = cross_val_score(ridge(strength), inputs, labels, cv=split, scoring="neg_mean_squared_error")
            scores[strength] = float(errors.mean())
    chosen = _best(scores, strengths)
    model = ridge(chosen).fit(inputs, labels)
    return cast(np.ndarray, model.coef_), np.asarray(model.intercept_), Probe(1 / chosen, scores, len(labels))


def _best(
    scores: Mapping[float, float], strengths: Sequence[float], losses: Mapping[float, float] | None = None
) -> float:
    """The strength of the best score; of equals that of the lowest loss. The middle one without any score."""
    if not scores:
        return strengths[len(strengths) // 2]
    return max(scores, key=lambda strength: (scores[strength], -losses[strength] if losses else -strength))


def _by_class(weight: Tensor, bias: Tensor, present: Sequence[int], classes: int) -> tuple[Tensor, Tensor]:
    whole = torch.zeros(classes, weight.shape[1], dtype=weight.dtype)
    biases = torch.full((classes,), float(bias.min()), dtype=bias.dtype)
    whole[list(present)], biases[list(present)] = weight, bias
    return whole, biases


def _no_sklearn() -> ImportError:
    return ImportError(
        "The probe is fitted by scikit-learn, which is not installed, and the head would stay random. Run "
        '`pip install "hf-transfer-learning[recipes]"`.'
    )
