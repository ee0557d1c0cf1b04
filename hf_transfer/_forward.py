"""What `attach` reads off a forward: what came out, the task loss of it, and what must not pass in silence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hf_transfer.batch import TransferBatch
from hf_transfer.functional.task_loss import (
    SAMPLE_WEIGHT,
    UNLABELLED,
    labelled_mean,
    labelled_multi_label,
    labelled_regression,
    observed_squared_error,
)
from hf_transfer.objective import Objective, Objectives, adjusted_task_loss
from hf_transfer.series_models import SeriesModel, named_output


__all__ = ["Outcome", "check_not_ignored", "refuse_without_classes", "require_columns", "task_loss_of"]


class Outcome:
    """
    The loss and the prediction in what a model returned, and where they stand.

    Args:
        model (`nn.Module`): it.
        output (`Any`): what it returned, by name or as a tuple.
        series (`SeriesModel`, *optional*): what is known of a model of time series.

    Raises:
        ValueError: if there is no loss, or it is not known what of it is the prediction.
    """

    def __init__(self, model: nn.Module, output: Any, series: SeriesModel | None):
        self.output = output
        named = isinstance(output, dict)
        self._loss: Any = "loss" if named else 0
        self.loss: Any = output.get("loss") if named else output[0]
        if self.loss is None:
            raise ValueError(
                f"{type(model).__name__} returns no loss for a batch with labels: it is made for inference only, and "
                "there is nothing to add the objectives to. Load the checkpoint as a class that trains, such as "
                "DeiTForImageClassification in place of DeiTForImageClassificationWithTeacher."
            )
        if not named and series is not None and self.loss.dim() > 0:  # TimesFM has it last
            raise ValueError(
                f"{series.name} returned a tuple whose first entry, of shape {tuple(self.loss.shape)}, is no loss: it "
                "is not known which one the objectives are to be added to. Leave `return_dict` out."
            )
        self._place: Any = 1 if not named else "logits" if series is None else named_output(output)
        self._prediction = output[self._place]

    @property
    def logits(self) -> Tensor:
        """The prediction; of a distribution its parameters, one behind the other in the last dimension."""
        several = isinstance(self._prediction, tuple | list)
        return torch.stack(tuple(self._prediction), -1) if several else self._prediction

    def changed(self, total: Tensor, rows: int) -> Any:
        """The output with another loss, cut back to so many rows."""
        own = self._prediction
        own = type(own)(part[:rows] for part in own) if isinstance(own, tuple | list) else own[:rows]
        if isinstance(self.output, dict):
            self.output[self._loss], self.output[self._place] = total, own
            return self.output
        return (total, own, *self.output[2:])


def task_loss_of(
    objectives: Objectives,
    outcome: Outcome,
    batch: TransferBatch,
    series: SeriesModel | None,
    sample_weight: Tensor | None,
) -> Tensor:
    """The loss of the model's own task over what has a label, as the objectives change it."""
    loss, logits = outcome.loss, outcome.logits
    if objectives.replace_task_loss:
        return torch.where(logits == logits, 0.0, logits).float().sum()  # zero with a graph, whatever the logits
    if objectives.task_terms:
        return adjusted_task_loss(objectives.task_terms, batch, sample_weight)
    if series is not None and not series.has_classes:
        return _series_loss(loss, logits, batch.labels, series, sample_weight)
    labels = batch.labels
    assert labels is not None and batch.model is not None
    config: Any = getattr(batch.model, "config", None)
    problem = getattr(config, "problem_type", None)
    # Not every model names its problem; without a weight its own loss is taken, which needs no name.
    if problem == "regression" or (sample_weight is not None and logits.shape[-1] == 1):
        return labelled_regression(logits, labels, sample_weight)
    if problem == "multi_label_classification":
        return labelled_multi_label(logits, labels, sample_weight)
    if sample_weight is not None:
        return adjusted_task_loss([], batch, sample_weight)
    return labelled_mean(loss, logits, labels)


def _series_loss(
    loss: Tensor, logits: Tensor, labels: Tensor | None, series: SeriesModel, sample_weight: Tensor | None
) -> Tensor:
    """The model's own loss where all of the target is there, else its squared error over what is."""
    if sample_weight is not None and not series.squared_error:
        raise ValueError(
            f"Column `{SAMPLE_WEIGHT}` with {series.name}, whose loss is not the squared error of what it is given as "
            'a target: what each row adds to it cannot be told. Take the column out, or use a model of `loss="mse"`.'
        )
    if labels is None or not series.squared_error:
        return loss
    series.check_shape(logits, labels)
    if series.kind == "regression":
        missing = labels == UNLABELLED
        own = labelled_regression(logits, labels, sample_weight)
    else:
        missing = labels.isnan()
        own = observed_squared_error(logits, labels, sample_weight)
    return own if sample_weight is not None else torch.where(missing.any(), own.to(loss.dtype), loss)


def refuse_without_classes(objectives: Iterable[Objective], series: SeriesModel | None) -> None:
    """
    Check that no objective reads classes of a model that has none.

    Raises:
        ValueError: if one does.
    """
    if series is None or series.has_classes:
        return
    for objective in objectives:
        if objective.needs_classes:
            raise ValueError(
                f"{type(objective).__name__} on {series.name}: it reads classes or their probabilities, and the model "
                f"has none, its task is {series.kind}. Leave it out; L2SP, DELTA, DomainAdversarial, DeepCORAL and "
                "whatever else reads features or weights alone can be used."
            )


def check_not_ignored(
    model: nn.Module, objectives: Objectives, output: Any, series: SeriesModel | None, given: Mapping[str, Any]
) -> None:
    """
    Check that a training forward in which objectives were not evaluated has no loss to train on.

    Raises:
        ValueError: if it has one.
    """
    if not objectives and SAMPLE_WEIGHT not in given:
        return
    loss = output.get("loss") if isinstance(output, Mapping) else None
    if loss is None:
        return
    target = "labels" if series is None or series.target is None else series.target
    raise ValueError(
        f"{type(model).__name__} returned a loss for a batch without `{target}` (it has "
        f"{', '.join(given) or 'no names'}): the objectives know nothing else as a target, and would be ignored "
        f"without a word. Name it `{target}` and call the model with keywords, `model(**batch)`; or detach them."
    )


def require_columns(
    objectives: Objectives, columns: Mapping[str, Any], inputs: Mapping[str, Any], target: str
) -> None:
    """
    Check that the batch has the columns that objectives read.

    Raises:
        ValueError: if one is missing.
    """
    for objective in objectives.by_name.values():
        for name in objective.columns:
            if name not in columns:
                present = ", ".join(sorted({*inputs, *columns, target}))
                raise ValueError(
                    f"{type(objective).__name__} needs column `{name}`; the batch has {present}. The term cannot "
                    "be computed without it. Build the data set with `mix_domains(source, target)`, which adds "
                    "`domain`, or add the column yourself and keep it with `remove_unused_columns=False`."
                )
