"""`MultiTaskTrainer`: trains several tasks on one backbone, and scores and exports each."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, TrainingArguments
from transformers.trainer_utils import PredictionOutput
from typing_extensions import Unpack

from hf_transfer.multitask.collator import TaskCollator
from hf_transfer.multitask.export import export_task
from hf_transfer.multitask.scoring import main_metric, task_metrics
from hf_transfer.multitask.task import Task
from hf_transfer.multitask.view import as_task, task_named
from hf_transfer.objectives.multitask.multi_task import MultiTask
from hf_transfer.trainer import TransferTrainer
from hf_transfer.trainer_kwargs import TransferTrainerKwargs


__all__ = ["MultiTaskTrainer"]


class MultiTaskTrainer(TransferTrainer):
    """
    A [`TransferTrainer`] of several tasks, each with a head of its own on the features of one backbone.

    Evaluation scores every task by itself, as `eval_<task>_<metric>`, with `eval_mean`, the mean over the tasks of
    the metric each is mostly judged by, and `eval_loss`, the mean of their losses, by which the best checkpoint can be
    chosen. [`export_task`] writes an ordinary model for each task; `save_model` saves the backbone with the head that
    the model itself has, which is not trained.

    Args:
        model (`PreTrainedModel` or `nn.Module`, *optional*):
            A classifier of text, images or tokens, also under PEFT. Its own head is left aside.
        args (`TransferArguments` or `TrainingArguments`, *optional*):
            Options of the loop.
        tasks (`Sequence[Task]` or `MultiTask`):
            The tasks; or the objective itself, with options of its own.
        weighting, surgery, sampling (*optional*):
            As for [`MultiTask`], which is made of them.
        **kwargs:
            As for [`TransferTrainer`]; `objectives` are terms beside those of the tasks. `train_dataset` is what
            `mix_tasks` makes. `eval_dataset` maps names of tasks to prepared data sets with `labels`. `data_collator`
            pads the inputs (by default as the processor says); the columns of the tasks are added.

    Raises:
        ValueError: if there is no task, `eval_dataset` is no mapping of tasks, or the gradient surgery cannot work
            with the options of the loop; and whatever [`TransferTrainer`] raises.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> tasks = [Task("topic", num_labels=4), Task("stars", "regression")]
        >>> args = TrainingArguments("unused", report_to="none", use_cpu=True)
        >>> trainer = MultiTaskTrainer(BertForSequenceClassification(config), args, tasks=tasks)
        >>> list(trainer.tasks)
        ['topic', 'stars']
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: TrainingArguments | None = None,
        *,
        tasks: Sequence[Task] | MultiTask,
        weighting: Any = None,
        surgery: Any = None,
        sampling: Any = None,
        **kwargs: Unpack[TransferTrainerKwargs],
    ):
        self.multi_task = _objective(tasks, weighting=weighting, surgery=surgery, sampling=sampling)
        self.tasks = {task.name: task for task in self.multi_task.tasks}
        """The tasks by name."""
        if args is not None and self.multi_task.surgeon is not None:
            self.multi_task.surgeon.check_arguments(args)
        kwargs["eval_dataset"] = self._by_task(kwargs.get("eval_dataset"), "eval_dataset")
        kwargs["objectives"] = [self.multi_task, *kwargs.get("objectives", ())]
        own_metrics = kwargs.get("compute_metrics")
        self._metrics = {
            task.name: task_metrics(task) if own_metrics is None else own_metrics for task in self.multi_task.tasks
        }
        super().__init__(model, args, **kwargs)
        from hf_transfer.data.preparation import collator_for  # with `datasets`, which a stock trainer does without

        # The head tells what the labels of -100 look like, and with `model_init` it is there only now.
        collate = kwargs.get("data_collator") or collator_for(kwargs.get("processing_class"))
        if not isinstance(collate, TaskCollator):
            of_tokens = self.multi_task.heads.of_tokens
            self.data_collator = TaskCollator(cast(Any, collate), self.multi_task.tasks, of_tokens=of_tokens)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """
        Score every task on its data set: `<prefix>_<task>_<metric>`, with `<prefix>_mean` and `<prefix>_loss`.

        Args:
            eval_dataset (`Mapping[str, Dataset]`, *optional*): by task; that of the trainer by default.
            ignore_keys (`list[str]`, *optional*): outputs of the model that are no predictions.
            metric_key_prefix (`str`, *optional*, defaults to `"eval"`): before the names of the scores.
        """
        datasets = self._by_task(self.eval_dataset if eval_dataset is None else eval_dataset, "eval_dataset")
        metrics = self._scored(datasets or {}, ignore_keys, metric_key_prefix)[1]
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """
        The logits of every task on its data set.

        Args:
            test_dataset (`Mapping[str, Dataset]`): by task; labels are needed only for scores.
            ignore_keys, metric_key_prefix: as for [`evaluate`].

        Returns:
            `PredictionOutput`: `predictions` and `label_ids` are dictionaries of arrays by task; `metrics` as
            [`evaluate`] gives them.
        """
        datasets = self._by_task(test_dataset, "test_dataset")
        outputs, metrics = self._scored(datasets or {}, ignore_keys, metric_key_prefix)
        predictions: Any = {name: output.predictions for name, output in outputs.items()}
        labels: Any = {name: output.label_ids for name, output in outputs.items()}
        return PredictionOutput(predictions, labels, metrics)

    def predict_task(
        self, name: str, dataset: Dataset, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """The logits `(n, C)`, or `(n, T, C)`, of one task on a data set, with its scores where there are labels."""
        task_named(self.multi_task, name)
        before = self.compute_metrics
        self.compute_metrics = self._metrics[name]
        try:
            with as_task(cast(nn.Module, self.model), name):
                return super().predict(dataset, ignore_keys, metric_key_prefix)
        finally:
            self.compute_metrics = before

    def export_task(
        self, name: str, folder: str | os.PathLike[str], *, batch: Mapping[str, Any] | None = None
    ) -> Path:
        """Write the model of one task, with its processor; see [`export_task`]. Every rank calls it, one writes."""
        task_named(self.multi_task, name)
        if self.args.should_save:
            export_task(cast(nn.Module, self.model), name, folder, self.processing_class, batch=batch)
        self.accelerator.wait_for_everyone()
        return Path(folder)

    def export_tasks(self, folder: str | os.PathLike[str]) -> dict[str, Path]:
        """Write the model of every task into the folder `<folder>/<task>`."""
        return {name: self.export_task(name, Path(folder) / name) for name in self.tasks}

    def _scored(
        self, datasets: Mapping[str, Any], ignore_keys: list[str] | None, prefix: str
    ) -> tuple[dict[str, PredictionOutput], dict[str, float]]:
        if not datasets:
            raise ValueError(
                "There is no data set to evaluate: no task would have a score. Give one for each task, "
                f'`eval_dataset={{"{next(iter(self.tasks))}": prepared}}`.'
            )
        outputs, metrics = {}, {}
        for name, dataset in datasets.items():
            outputs[name] = self.predict_task(name, dataset, ignore_keys, f"{prefix}_{name}")
            metrics |= outputs[name].metrics or {}
        for key, names in (
            (f"{prefix}_loss", [f"{prefix}_{name}_loss" for name in datasets]),
            (f"{prefix}_mean", [f"{prefix}_{name}_{main_metric(self.tasks[name])}" for name in datasets]),
        ):
            if all(name in metrics for name in names):
                metrics[key] = float(np.mean([metrics[name] for name in names]))
        return outputs, metrics

    def _by_task(self, datasets: Any, option: str) -> dict[str, Any] | None:
        if datasets is None:
            return None
        known = ", ".join(self.tasks)
        if not isinstance(datasets, Mapping):
            raise ValueError(
                f"`{option}` is a {type(datasets).__name__}: it does not say of which task its `labels` are. Give a "
                f'mapping of tasks ({known}) to data sets, such as `{{"{next(iter(self.tasks))}": prepared}}`.'
            )
        unknown = [str(name) for name in datasets if name not in self.tasks]
        if unknown:
            raise ValueError(
                f"`{option}` has data for {', '.join(unknown)}, which is no task: there is no head to score. The "
                f"tasks are {known}."
            )
        return dict(datasets)


def _objective(tasks: Sequence[Task] | MultiTask, **options: Any) -> MultiTask:
    given = {name: value for name, value in options.items() if value is not None}
    if not isinstance(tasks, MultiTask):
        return MultiTask(tasks, **given)
    if given:
        raise ValueError(
            f"`{'`, `'.join(given)}` beside a `MultiTask`: it has options of its own, and these would be ignored. "
            "Give them to `MultiTask(...)`, or pass the tasks as a list."
        )
    return tasks
