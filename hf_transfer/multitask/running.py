"""The runs of `recipes/multitask.py`: all tasks together and each alone, with every seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
from datasets import Dataset
from torch import nn
from transformers import set_seed
from transformers.utils import logging

from hf_transfer.adapter_arguments import AdapterOptions
from hf_transfer.compare.runs import without_timings
from hf_transfer.data.preparation import collator_for
from hf_transfer.multitask.arguments import RESERVED, MultitaskArguments, MultitaskLoopArguments
from hf_transfer.multitask.sampler import tasks_of
from hf_transfer.multitask.scoring import RowScores, row_scores
from hf_transfer.multitask.task_data import TaskData
from hf_transfer.multitask.trainer import MultiTaskTrainer
from hf_transfer.objectives.multitask.multi_task import MultiTask
from hf_transfer.recipe_arguments import DataArguments, ModelArguments


logger = logging.get_logger(__name__)

TOGETHER = "together"

__all__ = ["TOGETHER", "Multitasking", "Share", "TaskRun", "shares_of_run"]


@dataclass(frozen=True)
class Share:
    """
    What a task gets of the training of all.

    Args:
        steps (`int`): optimizer steps in which some of its rows are seen.
        batch_size (`int`): its rows in a micro-batch of one rank, in the mean over these steps.
    """

    steps: int
    batch_size: int


@dataclass(frozen=True)
class TaskRun:
    """
    What a run came to.

    Args:
        scores (`Mapping[str, float]`): by name, such as `test_topic_accuracy`.
        rows (`Mapping[str, RowScores]`): of every task, what each row of its judged split scores.
    """

    scores: Mapping[str, float]
    rows: Mapping[str, RowScores]


class Multitasking:
    """
    All tasks of a recipe's arguments together, and each alone in its share of the training.

    Args:
        recipe (`MultitaskArguments`): tasks, weighting, sampling, seeds.
        model_args (`ModelArguments`): which model.
        data_args (`DataArguments`): how rows are chosen and prepared.
        args (`MultitaskLoopArguments`): the loop; a folder below its `output_dir` for each run.
        adapter (`AdapterOptions`, *optional*): the adapter to train in place of the model.

    Raises:
        ValueError: if options, model or data do not fit, before anything is trained.
    """

    def __init__(
        self,
        recipe: MultitaskArguments,
        model_args: ModelArguments,
        data_args: DataArguments,
        args: MultitaskLoopArguments,
        *,
        adapter: AdapterOptions | None = None,
    ):
        self.recipe, self.model_args, self.args = recipe, model_args, args
        self.adapter = adapter or AdapterOptions()
        recipe.check(data_args, args)
        with args.main_process_first(desc="loading data"):
            self.data = TaskData(recipe, data_args, args.seed)
            args.check_common_metric()
            model, self.processor = self._model(args.seed)
            self.train_rows = self.data.train(self.processor, self.names)
            self.eval_rows = self.data.splits(self.processor, "eval")
            self.test_rows = self.data.splits(self.processor, "test")
        self.trainer(model, recipe.objective(self.data.tasks), self.train_rows, args.seed, TOGETHER)  # tried once

    @property
    def names(self) -> list[str]:
        """Of the tasks."""
        return [task.name for task in self.data.tasks]

    @property
    def judged(self) -> dict[str, str]:
        """The split by which each task is compared: test, or validation where there is no test."""
        return {name: "test" if name in self.test_rows else "eval" for name in self.names}

    def _model(self, seed: int) -> tuple[nn.Module, Any]:
        set_seed(seed)
        model, processor = self.model_args.load(self.data.model_data)
        return self.adapter.add_to(model), processor

    def trainer(
        self,
        model: nn.Module,
        objective: MultiTask,
        rows: Dataset,
        seed: int,
        name: str,
        share: Share | None = None,
    ) -> MultiTaskTrainer:
        """The trainer of some tasks, in a folder of its own."""
        own = self.args.for_run(str(Path(str(self.args.output_dir)) / RESERVED / name / f"seed_{seed}"), seed)
        if share is not None:
            own.max_steps, own.per_device_train_batch_size = share.steps, share.batch_size
        tasks = [task.name for task in objective.tasks]
        return MultiTaskTrainer(
            model,
            own,
            tasks=objective,
            train_dataset=rows,
            eval_dataset={task: self.eval_rows[task] for task in tasks},
            processing_class=self.processor,
            data_collator=collator_for(self.processor),
        )

    def together(self, seed: int) -> tuple[MultiTaskTrainer, TaskRun]:
        """Train all tasks with one model."""
        model, _ = self._model(seed)
        logger.info(f"All {len(self.names)} tasks together, seed {seed}")
        trainer = self.trainer(model, self.recipe.objective(self.data.tasks), self.train_rows, seed, TOGETHER)
        return trainer, self._run(trainer)

    def alone(self, name: str, seed: int, share: Share) -> TaskRun:
        """Train one task with a model of its own, from the same start."""
        model, _ = self._model(seed)
        logger.info(f"{name} alone, seed {seed}: {share.steps} steps of {share.batch_size} rows")
        tasks = [task for task in self.data.tasks if task.name == name]
        rows = self.data.train(self.processor, [name])
        return self._run(self.trainer(model, self.recipe.objective(tasks), rows, seed, f"{name}_alone", share))

    def shares(self) -> dict[str, Share]:
        """What each task gets of the training of all."""
        return shares_of_run(self.recipe.objective(self.data.tasks), self.train_rows, self.args)

    def _run(self, trainer: MultiTaskTrainer) -> TaskRun:
        trainer.train()
        trainer.args.dataloader_drop_last = False
        scores: dict[str, float] = {}
        rows: dict[str, RowScores] = {}
        for split, datasets in (("eval", self.eval_rows), ("test", self.test_rows)):
            own = {name: datasets[name] for name in trainer.tasks if name in datasets}
            if not own:
                continue
            output: Any = trainer.predict(own, metric_key_prefix=split)
            scores |= without_timings(output.metrics)
            for name in own:
                if self.judged[name] == split:
                    task = trainer.tasks[name]
                    rows[name] = row_scores(task, _first(output.predictions[name]), _first(output.label_ids[name]))
        return TaskRun(scores, rows)


def shares_of_run(objective: MultiTask, rows: Dataset, args: MultitaskLoopArguments) -> dict[str, Share]:
    """
    What each task gets of a training, counted in the order in which the rows are drawn.

    Args:
        objective (`MultiTask`): tasks and sampling.
        rows (`Dataset`): as [`mix_tasks`] makes them.
        args (`MultitaskLoopArguments`): of the loop.
    """
    per_rank = args.per_device_train_batch_size * args.gradient_accumulation_steps
    of_step = per_rank * args.world_size
    epoch_steps = max(1, -(-len(rows) // of_step))
    steps = args.max_steps if args.max_steps > 0 else int(np.ceil(args.num_train_epochs * epoch_steps))
    batch_size = args.per_device_train_batch_size
    sampler = objective.sampler(rows, batch_size=batch_size, ranks=args.world_size, seed=args.seed)
    numbers = tasks_of(rows)
    if sampler is None or numbers is None:  # every row is of all tasks
        return {task.name: Share(steps, batch_size) for task in objective.tasks}
    drawn: list[int] = []
    epoch = 0
    while len(drawn) < steps * of_step:
        cast(Any, sampler).set_epoch(epoch)
        drawn += list(islice(sampler, steps * of_step - len(drawn)))
        epoch += 1
    order = numbers[np.asarray(drawn)].reshape(steps, of_step)
    found = {}
    for number, task in enumerate(objective.tasks):
        own = (order == number).sum(1)
        seen = max(1, int((own > 0).sum()))
        found[task.name] = Share(seen, max(1, round(own.sum() / seen * batch_size / of_step)))
    return found


def _first(array: Any) -> np.ndarray:
    return np.asarray(array[0] if isinstance(array, tuple | list) else array)
