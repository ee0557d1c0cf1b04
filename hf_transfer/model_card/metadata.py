"""The YAML header of a card, in the words of the Hub."""

from __future__ import annotations

import math
import re
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from hf_transfer.model_card.facts import DataFacts, RunFacts, Score
from hf_transfer.model_card.snippets import hub_task


_METRICS = {
    "accuracy": ("accuracy", "Accuracy"),
    "macro_f1": ("f1", "Macro F1"),
    "f1": ("f1", "F1"),
    "precision": ("precision", "Precision"),
    "recall": ("recall", "Recall"),
    "pearson": ("pearsonr", "Pearson correlation"),
    "mse": ("mse", "Mean squared error"),
    "mae": ("mae", "Mean absolute error"),
    "mase": ("mase", "Mean absolute scaled error"),
}
"""Metric ids of the Hub, and what they are called."""
_SPLITS = {"eval": "validation"}

__all__ = ["card_data", "dataset_of", "metric_label", "split_label"]


def metric_label(metric: str) -> str:
    """What people call a metric."""
    return _METRICS.get(metric, ("", metric.replace("_", " ")))[1]


def split_label(split: str) -> str:
    """What people call a split."""
    return _SPLITS.get(split, split)


def dataset_of(facts: RunFacts, split: str) -> DataFacts | None:
    """The data set that a split belongs to: that of the role, else the first."""
    role, _, number = split.partition("_")
    same = [own for own in facts.data if own.role == role]
    if same:
        return same[int(number)] if number.isdecimal() and int(number) < len(same) else same[0]
    return next(iter(facts.data), None)


def card_data(facts: RunFacts) -> ModelCardData:
    """
    The header of the card of a run. Names that are not on the Hub are left out where the Hub would look them up.

    Example:
        >>> facts = RunFacts(model_name="mine", task="text-classification", data=[DataFacts("reviews")])
        >>> facts.add_scores({"test_accuracy": 0.9})
        >>> print(card_data(facts).to_yaml())
        pipeline_tag: text-classification
        tags:
        - hf_transfer
        - transfer-learning
        metrics:
        - accuracy
        model-index:
        - name: mine
          results:
          - task:
              type: text-classification
            dataset:
              name: reviews
              type: reviews
              split: test
            metrics:
            - type: accuracy
              value: 0.9
              name: Accuracy
    """
    task = hub_task(facts.task)
    results = [own for own in (_result(facts, score, task or facts.task) for score in facts.scores) if own is not None]
    extra: dict[str, Any] = {"base_model_relation": facts.relation} if facts.base_hub_id and facts.relation else {}
    data = ModelCardData(
        base_model=facts.base_hub_id,
        library_name=facts.library,
        pipeline_tag=task,
        license=facts.license,
        language=facts.language or None,
        datasets=[own.hub_id for own in facts.data if own.hub_id] or None,
        tags=_tags(facts),
        metrics=list(dict.fromkeys(own.metric_type for own in results)) or None,
        eval_results=results or None,
        model_name=(facts.model_name or "model") if results else None,
        **extra,
    )
    _in_order(data)
    return data


_ORDER = (
    *("base_model", "base_model_relation", "library_name", "pipeline_tag", "license", "language", "datasets", "tags"),
    *("metrics", "model_name", "eval_results"),
)


def _in_order(data: ModelCardData) -> None:
    values = dict(vars(data))
    vars(data).clear()
    vars(data).update({name: values.pop(name) for name in _ORDER if name in values} | values)


def _tags(facts: RunFacts) -> list[str]:
    kinds = [snake.replace("_", "-") for snake in ([facts.adapters["type"].lower()] if facts.adapters else [])]
    kinds = [re.split(r"[ (]", kind)[0] for kind in kinds]
    return list(dict.fromkeys(["hf_transfer", "transfer-learning", *kinds, *facts.tags]))


def _result(facts: RunFacts, score: Score, task: str | None) -> EvalResult | None:
    data = dataset_of(facts, score.split)
    name = data.name if data is not None else ""
    if score.metric not in _METRICS or not math.isfinite(score.value) or not task or data is None or not name:
        return None
    metric, label = _METRICS[score.metric]
    role = bool(data.role) and score.split.startswith(data.role)
    return EvalResult(
        task_type=task,
        dataset_type=data.hub_id or re.sub(r"[^\w.-]+", "-", name),
        dataset_name=f"{name} ({data.role})" if role else name,
        dataset_config=data.config,
        dataset_split="test" if role else split_label(score.split),
        metric_type=metric,
        metric_value=round(score.value, 6),
        metric_name=label,
    )
