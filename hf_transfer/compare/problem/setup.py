"""What a strategy is given for one run: rows, fresh models, features computed once, the arguments of its loop."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers.trainer_utils import SaveStrategy

from hf_transfer.anatomy import anatomy
from hf_transfer.compare.cells import CellKey
from hf_transfer.compare.problem.predicting import padded_labels, predict_logits
from hf_transfer.compare.problem.shared_rows import SharedRows
from hf_transfer.data.preparation import collator_for, prepare
from hf_transfer.features import Probe, fit_probe
from hf_transfer.random_state import random_numbers_put_back
from hf_transfer.recipe_arguments import LoopArguments
from hf_transfer.teacher import Teacher
from hf_transfer.teacher.collator import TeacherCollator


if TYPE_CHECKING:
    from hf_transfer.compare.problem.problem import Problem

Split = Literal["train", "validation", "test"]

__all__ = ["Setup", "Split"]


class Setup:
    """
    What a strategy is given for one run; [`Problem.setup`] makes it.

    Every strategy has the same rows, the same new head and the same number of optimizer steps with the same seed. The
    steps are `max_steps`, or as many as `num_train_epochs` passes over the labelled rows take; with a share of the
    rows as many as with all of them, so that a learning curve tells of labels alone.

    Args:
        problem (`Problem`): what is compared on.
        rows (`SharedRows`): of the base model.
        key (`CellKey`): which run.
        args (`LoopArguments`): of the comparison.
        full (`bool`, *optional*, defaults to `False`): train on all labelled rows.

    Attributes:
        base (`Pretrained`), processor: of the run.
        seed (`int`), share (`float`), full (`bool`): of the run.
        args (`LoopArguments`): for the loop of this run: its folder, seed and `max_steps`; it neither validates nor
            saves nor pushes.
        train, validation, test, target (`Dataset`, *optional*): prepared rows. `train` may be augmented, `target` has
            no labels.
        collate (`Callable`): makes a batch of rows.
    """

    def __init__(self, problem: Problem, rows: SharedRows, key: CellKey, args: LoopArguments, *, full: bool = False):
        self.problem, self.key, self.full = problem, key, full
        self._rows = rows
        self.base = rows.base
        self.processor: Any = rows.base.processor
        self.seed, self.share = key.seed, key.share
        self._train_ids = problem.train_ids(key.seed, key.share, full=full)
        self.args = self._loop(args)

    def _loop(self, args: LoopArguments) -> LoopArguments:
        own = args.for_run(os.path.join(str(args.output_dir), self.key.folder), self.seed)
        own.without_validation()
        own.save_strategy, own.resume_from_checkpoint = SaveStrategy.NO, None
        own.metric_for_best_model = own.greater_is_better = None
        rows = len(self.problem.train_ids(self.seed, full=self.full))
        batch = own.per_device_train_batch_size * own.gradient_accumulation_steps
        if own.max_steps <= 0:
            own.max_steps = max(1, math.ceil(own.num_train_epochs * rows / batch))
        own.dataloader_drop_last |= self._leaves_one_row(own.per_device_train_batch_size)
        return own

    def _leaves_one_row(self, batch: int) -> bool:
        """Whether the last batch of an epoch would be one row, of which BatchNorm can tell no variance."""
        norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.base.model.modules())
        return norms and len(self._train_ids) > batch > 1 and len(self._train_ids) % batch == 1

    @property
    def device(self) -> torch.device:
        """Where models of this run go."""
        return self.args.device

    @property
    def tokens(self) -> bool:
        """Whether tokens have labels."""
        return self.problem.task == "token-classification"

    @cached_property
    def train(self) -> Dataset:
        """The labelled rows to train on."""
        return self._rows.training().select(self._train_ids)

    @cached_property
    def taught(self) -> Dataset:
        """The same for a teacher: where its tokenizer is another one, with the columns that it reads."""
        return self._with_teacher_inputs("train", self.train, self._train_ids)

    @cached_property
    def validation(self) -> Dataset | None:
        """The labelled rows that choices are made by; `None` where all rows train."""
        return self._split("validation")

    @cached_property
    def test(self) -> Dataset | None:
        """The labelled rows that take no part in any choice."""
        return self._split("test")

    @cached_property
    def target(self) -> Dataset | None:
        """The rows of the target, without labels."""
        return self._rows.training("target") if self.problem.target is not None else None

    @cached_property
    def collate(self) -> Callable[[list[dict[str, Any]]], Any]:
        """Makes a batch of rows."""
        collate = collator_for(self.processor, tokens=self.tokens)
        tokenizer = None if self.problem.teacher is None else self.problem.teacher.tokenizer(self.processor)
        return collate if tokenizer is None else TeacherCollator(collate, tokenizer)

    @cached_property
    def teacher(self) -> Teacher | None:
        """The teacher, fresh for this run."""
        return None if self.problem.teacher is None else self.problem.teacher.teacher(self.processor)

    def part(self, rows: Sequence[int]) -> Setup:
        """
        The same run with some of its training rows, for a trial.

        Args:
            rows (`Sequence[int]`): their places among the training rows of the run.
        """
        own = copy.copy(self)
        for name in ("train", "taught", "train_labels"):
            own.__dict__.pop(name, None)  # they are found anew
        own._train_ids = self._train_ids[list(rows)]
        return own

    def fresh(self) -> nn.Module:
        """The pretrained model, on the CPU, with a new head of this seed."""
        return self.base.fresh(self.seed)

    def scratch(self) -> nn.Module:
        """A model of the same architecture with random weights of this seed, on the CPU."""
        return self.base.scratch(self.seed)

    def ids(self, split: Split) -> np.ndarray:
        """
        Numbers of the rows of a split, `(N,)`: of the training split where folds validate, else of the split itself.
        """
        return self._place(split)[1]

    def labels(self, split: Split) -> np.ndarray:
        """Labels of the rows of a split, `(N,)`; `(N, T)` for tokens, -100 behind the last."""
        name, ids = self._place(split)
        return padded_labels(self._rows.prepared[name].select(ids))

    @cached_property
    def train_labels(self) -> np.ndarray:
        """The same of the rows to train on."""
        return self.labels("train")

    def features(self, split: Split) -> Dataset:
        """
        What the head of the pretrained model is given for the rows of a split, with their `labels`. It is computed
        once for all runs with the base model.
        """
        name, ids = self._place(split)
        batch_size = self.args.per_device_eval_batch_size
        with random_numbers_put_back():
            found = self._rows.features(name, seed=self.seed, device=self.device, batch_size=batch_size)
        return found if len(ids) == len(found) else found.select(ids)

    def probe(self) -> Probe:
        """
        A linear probe on the features of the training rows, fitted once; it can be folded into [`~Setup.fresh`].

        Its regularisation is chosen in folds of the training rows. A class with one row is held out in none of them.
        """
        where = (self.key.model, self.seed, self._train_ids.tobytes())  # a pilot run has rows of its own
        probes = self.problem.probes
        if where not in probes:
            head: Any = self.base.model.get_submodule(anatomy(self.base.model).head)
            with random_numbers_put_back():
                probes[where] = fit_probe(
                    self.features("train"),
                    kind="ridge" if self.problem.regression else "logistic",
                    label_names=self.problem.label_names or None,
                    seed=self.seed,
                    intercept=getattr(head, "bias", None) is not None,
                )
        return probes[where]

    def predict(self, model: nn.Module, split: Split) -> np.ndarray:
        """
        What a model says of the rows of a split, in their order, without augmentation. It goes to [`~Setup.device`];
        its modes and random numbers are as before.

        Shape:
            - returns `(N, C)` float32 logits; `(N, T, C)` for tokens, with zeros behind the last.
        """
        name, ids = self._place(split)
        return predict_logits(
            model.to(self.device),
            self._rows.prepared[name].select(ids),
            self.collate,
            batch_size=self.args.per_device_eval_batch_size,
            tokens=self.tokens,
            left=getattr(self.processor, "padding_side", "right") == "left",
        )

    def _place(self, split: Split) -> tuple[str, np.ndarray]:
        """The split that rows lie in, and their numbers in it."""
        if split == "train":
            return "train", self._train_ids
        if split == "validation" and self.problem.by_folds and not self.full:
            return "train", self.problem.validation_ids(self.seed)
        rows = {"validation": self.problem.data.eval, "test": self.problem.data.test}.get(split)
        if rows is None:
            raise ValueError(
                f"This run has no `{split}` rows: nothing can be scored on them. Look whether `setup.{split}` is "
                "`None` first."
            )
        return split, np.arange(len(rows))

    def _split(self, split: Split) -> Dataset | None:
        try:
            name, ids = self._place(split)
        except ValueError:
            return None
        return self._rows.prepared[name].select(ids)

    def _with_teacher_inputs(self, name: str, rows: Dataset, ids: np.ndarray) -> Dataset:
        teacher, problem = self.problem.teacher, self.problem
        if teacher is None or teacher.tokenizer(self.processor) is None:
            return rows
        raw = self._rows.raw[name].select(ids)
        limit = problem.data_args.max_length
        own = teacher.with_inputs(raw, problem.data, self.processor, limit)
        return cast(Dataset, prepare(own, self.processor, max_length=limit))
