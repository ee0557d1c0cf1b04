"""A linear probe written into the model's own head: the first half of LP-FT, and a model by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hf_transfer.anatomy import Anatomy, anatomy
from hf_transfer.features.probes import STRENGTHS, Probe, fit_probe, load_probe
from hf_transfer.functional.task_loss import UNLABELLED
from hf_transfer.modes import at_rest
from hf_transfer.series_models import TARGETS, labels_of, named_output
from hf_transfer.tap import HeadTap


__all__ = ["STRENGTHS", "Probe", "fit_head", "fit_probe", "head_features", "load_probe"]


def head_features(
    model: nn.Module, batches: Iterable[Mapping[str, Any]], *, head: str | None = None
) -> tuple[Tensor, Tensor]:
    """
    The features of labelled rows as the head of the model sees them, with the model in evaluation mode.

    Args:
        model (`nn.Module`):
            Any classifier of `transformers`, also under PEFT. Its mode is restored.
        batches (`Iterable[Mapping]`):
            Collated batches with `labels`, or with the target of a model of series.
        head (`str`, *optional*):
            Name of the head, where it cannot be told from the model.

    Shape:
        - returns features `(N, D)` float32 and labels `(N,)`, or `(N, K)` where rows have several, on the CPU. For
          token classification `N` counts tokens. Unlabelled rows are left out.

    Raises:
        ValueError: if no row has a label.
    """
    return _features(model, anatomy(model, head=head), batches)[:2]


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

    Features are computed once. A logistic regression (one for each label where rows have several, a ridge regression
    for real values) is fitted to them after standardisation by [`fit_probe`], which chooses its regularisation in
    stratified cross-validation, and folded into the head. Fine-tuning from there (LP-FT) does not distort the
    pretrained features to suit a random head.

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
        With one row of each class nothing can be held out: the middle strength is taken. A class without any row gets
        zero weights and the smallest bias.

    Raises:
        ValueError: if no row has a label or all have the same; if the head is none a probe can be folded into.
        ImportError: if scikit-learn is not installed.

    Relations:
        [`fit_probe`] fits other kinds, to features that were extracted before. [`FreezeBackbone`] trains the head by
        gradient descent, with augmentation and any objective.

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
    features, labels, tokens = _features(model, parts, batches)
    bias = getattr(model.get_submodule(parts.head), "bias", None)
    regression = labels.is_floating_point() and not _several(model, labels)
    probe = fit_probe(
        features.numpy(),
        labels.numpy(),
        kind="ridge" if regression else "logistic",
        task="regression" if regression else "multi_label" if labels.dim() == 2 else "token" if tokens else None,
        strengths=strengths,
        seed=seed,
        intercept=bias is not None,
    )
    probe.fold_into(model, head=parts.head)
    return probe


@torch.no_grad()
def _features(model: nn.Module, parts: Anatomy, batches: Iterable[Mapping[str, Any]]) -> tuple[Tensor, Tensor, bool]:
    """Features and labels of labelled rows, and whether these are tokens."""
    tap = HeadTap(model, parts.head)
    device = next(model.parameters()).device
    features, labels, tokens = [], [], False
    tap.open = True
    try:
        with at_rest(model):
            for batch in batches:
                inputs = {
                    key: value.to(device) if isinstance(value, Tensor) else value
                    for key, value in batch.items()
                    if key not in TARGETS and key != "domain"
                }
                output: Any = model(**inputs)
                logits = output[named_output(output)]
                rows = tap.take(logits, inputs).cpu().flatten(0, -2)
                # a row has one label, or as many as the head has outputs
                tokens = logits.dim() == 3
                given = labels_of(batch).cpu()
                several = given.shape == logits.shape and logits.shape[-1] > 1
                given = given if several else given.reshape(-1)
                chosen = given.reshape(len(given), -1).ne(UNLABELLED).all(1)
                features.append(rows[chosen])
                labels.append(given[chosen])
    finally:
        tap.remove()
    if not sum(map(len, labels)):
        raise ValueError(
            "No row of the data has a label: there is nothing to fit a head to. Give the labelled rows, such as the "
            "source of a mixed data set."
        )
    return torch.cat(features), torch.cat(labels), tokens


def _several(model: nn.Module, labels: Tensor) -> bool:
    """Whether a table of real labels says yes or no to each class."""
    if labels.dim() == 1:
        return False
    problem = getattr(getattr(model, "config", None), "problem_type", None)
    return problem == "multi_label_classification" or (problem is None and bool(np.isin(labels, (0, 1)).all()))
