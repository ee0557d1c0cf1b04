"""`layer_report`: which block of a model transfers best, and how far fine-tuning has moved each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from hf_transfer.features.extraction.extract import extract_features
from hf_transfer.features.extraction.kwargs import ExtractionKwargs, checked, for_evaluation
from hf_transfer.features.extraction.taps import block_outputs, is_base, pretrained
from hf_transfer.features.layers.layer_scores import LayerReport, LayerScore, RowScores, row_scores
from hf_transfer.features.probes import fit_probe
from hf_transfer.features.probes.labelled_rows import read_features
from hf_transfer.functional.cka import linear_cka


if TYPE_CHECKING:
    import datasets

HEAD = "features"
"""Column of what enters the head."""

__all__ = ["LayerReport", "LayerScore", "layer_report"]


def layer_report(
    model: nn.Module,
    train: datasets.Dataset,
    evaluation: datasets.Dataset,
    processor: Any = None,
    *,
    kind: str = "logistic",
    pooling: str | None = None,
    before: nn.Module | None = None,
    cka_rows: int = 2000,
    seed: int = 0,
    extraction: ExtractionKwargs | None = None,
    probe: Mapping[str, Any] | None = None,
    head: str | None = None,
) -> LayerReport:
    r"""
    How well a probe on each block of a model predicts held-out rows, and how alike the blocks are.

    One pass through the model per data set reads every block and the input of the head, or none where they are cached.
    A probe is fitted to each on `train` and scored on `evaluation`, with the standard error of the score over the
    examples. With the pretrained model in `before`, each block of the fine-tuned `model` is compared with the same
    block there: the score of a probe before and after, and their linear CKA, which is 1 where fine-tuning has changed
    nothing but a rotation. Without it, the blocks of `model` are compared with each other.

    The differences between blocks are those of one split: their standard error is smaller than that of either, as all
    are scored on the same rows, but a lead of half an error is none.

    Args:
        model (`nn.Module`):
            Any classifier of `transformers`, also under PEFT, or a base model without a head.
        train (`datasets.Dataset`):
            Labelled rows for the probes, raw or with the model's inputs, as [`extract_features`] takes them.
        evaluation (`datasets.Dataset`):
            Labelled rows to score on and to compare blocks on.
        processor (`Any`, *optional*):
            The model's own, for raw rows.
        kind (`str`, *optional*, defaults to `"logistic"`):
            Kind of the probes, as in [`fit_probe`]; `"ridge"` for real-valued labels.
        pooling (`str`, *optional*):
            How the tokens of a block become one vector: `"mean"`, `"cls"` or `"last"`; `"none"`, and by default for
            token classification, makes each token a row. The head has its own.
        before (`nn.Module`, *optional*):
            The model as it was before fine-tuning, of the same architecture; it needs no head.
        cka_rows (`int`, *optional*, defaults to 2000):
            Rows (tokens) of `evaluation` on which blocks are compared, drawn at random if there are more.
        seed (`int`, *optional*, defaults to 0):
            Of the probes and of the draw.
        extraction (`dict`, *optional*):
            Options for [`extract_features`], such as `{"max_length": 128}`.
        probe (`dict`, *optional*):
            Options for [`fit_probe`], such as `{"strengths": (0.01, 1.0)}`.
        head (`str`, *optional*):
            Name of the head, where it cannot be told from the model.

    Returns:
        [`LayerReport`]: `.best`, `.table()`, `.plot(path)`, `.to_dict()`.

    Raises:
        ValueError: if there are too few rows to compare or score; if `before` has other blocks; if `cka_rows` is too
            small. And whatever [`extract_features`] and [`fit_probe`] raise.

    Relations:
        The best block is where to probe, `fit_probe(features, column="block.3")`, and how much of the model to keep:
        freeze what lies below it, `reinitialize_blocks` above it.

    Example:
        >>> import tempfile
        >>> from datasets import Dataset
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=2, num_attention_heads=2)
        >>> model = BertForSequenceClassification(config)
        >>> data = Dataset.from_dict({"input_ids": [[1, 2, 3], [4, 5]] * 10, "labels": [0, 1] * 10})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = layer_report(model, data, data, extraction={"cache_dir": folder, "progress": False})
        >>> [layer.name for layer in report.layers], report.best.name, report.best.score
        (['block.0', 'block.1', 'head'], 'block.0', 1.0)

    Paper: Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019,
    https://huggingface.co/papers/1905.00414
    """
    options = checked(extraction)
    _check(model, before, evaluation, cka_rows, head)
    if pooling is None and type(pretrained(model)).__name__.endswith("ForTokenClassification"):
        pooling = "none"

    def extracted(of: nn.Module, rows: Any, options: Any) -> datasets.Dataset:
        # a base model has no head whose input could be meant
        taps = ["blocks"] if is_base(of) and head is None else ["blocks", "head"]
        return extract_features(of, rows, processor, taps=taps, pooling=pooling, head=head, **options)

    def scored(fit: datasets.Dataset, held: datasets.Dataset) -> dict[str, RowScores]:
        return {
            column: row_scores(fit_probe(fit, kind=kind, column=column, seed=seed, **(probe or {})), held, column)
            for column in _columns(fit)
        }

    held = extracted(model, evaluation, for_evaluation(options))
    after = scored(extracted(model, train, options), held)
    drawn = _draw(held, cka_rows, seed)
    earlier: dict[str, RowScores] = {}
    similarity: dict[str, float] = {}
    matrix = None
    if before is None:
        representations = {column: drawn(held, column) for column in after}
        matrix = tuple(tuple(_cka(x, y) for y in representations.values()) for x in representations.values())
    else:
        held_before = extracted(before, evaluation, for_evaluation(options))
        earlier = scored(extracted(before, train, options), held_before)
        shared = [column for column in after if column in earlier]
        similarity = {column: _cka(drawn(held_before, column), drawn(held, column)) for column in shared}
    layers = tuple(
        LayerScore(
            name="head" if column == HEAD else column,
            score=scores.mean,
            error=scores.error,
            before=earlier[column].mean if column in earlier else None,
            before_error=earlier[column].error if column in earlier else None,
            cka=similarity.get(column),
        )
        for column, scores in after.items()
    )
    first = next(iter(after.values()))
    return LayerReport(layers, metric=first.metric, kind=kind, train=len(train), evaluation=first.rows, matrix=matrix)


def _columns(features: datasets.Dataset) -> list[str]:
    blocks = sorted((name for name in features.column_names if name.startswith("block.")), key=lambda n: int(n[6:]))
    return [*blocks, *(name for name in features.column_names if name == HEAD)]


def _draw(features: datasets.Dataset, rows: int, seed: int) -> Any:
    """What gives the same rows of any column of any model."""
    columns = _columns(features)
    count = len(read_features(features, column=columns[0])[0])
    places = np.arange(count)
    if count > rows:
        places = np.sort(np.random.default_rng(seed).permutation(count)[:rows])

    def drawn(of: datasets.Dataset, column: str) -> torch.Tensor:
        return torch.from_numpy(read_features(of, column=column)[0][places].astype(np.float64))

    return drawn


def _cka(x: torch.Tensor, y: torch.Tensor) -> float:
    return linear_cka(x, y).item()


def _check(model: nn.Module, before: nn.Module | None, evaluation: Any, cka_rows: int, head: str | None) -> None:
    if cka_rows < 4:
        raise ValueError(
            f"`cka_rows={cka_rows}`: the similarity of two blocks cannot be estimated from fewer than 4 rows, and is "
            "rough below some hundred. Give a number such as the default 2000."
        )
    if hasattr(evaluation, "__len__") and len(evaluation) < 4:
        raise ValueError(
            f"{len(evaluation)} rows to evaluate on: neither a standard error nor the similarity of blocks can be "
            "told from fewer than 4, and all blocks would tie. Give some hundred rows."
        )
    if before is None:
        return
    counts = len(block_outputs(before, None if is_base(before) else head)), len(block_outputs(model, head))
    if counts[0] != counts[1]:
        raise ValueError(
            f"`before` ({type(pretrained(before)).__name__}) has {counts[0]} blocks and the model "
            f"({type(pretrained(model)).__name__}) {counts[1]}: no block is the same one earlier. Give the checkpoint "
            "the model was fine-tuned from, or report on each model by itself."
        )
