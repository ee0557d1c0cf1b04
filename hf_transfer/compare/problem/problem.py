"""`Problem`: what a comparison is about: data, base models, a target, a teacher, and who validates."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from datasets import Dataset
from torch import nn

from hf_transfer.compare.cells import CellKey
from hf_transfer.compare.problem.folds import fold_numbers, nested_share
from hf_transfer.compare.problem.pixel_cache import PixelCache
from hf_transfer.compare.problem.pretrained import Pretrained
from hf_transfer.compare.problem.problem_checks import (
    check_folds,
    check_labels,
    check_models,
    check_validation,
    strata_of,
)
from hf_transfer.compare.problem.setup import Setup
from hf_transfer.compare.problem.shared_rows import SharedRows
from hf_transfer.compare.problem.shared_teacher import SharedTeacher
from hf_transfer.compare.problem.target_rows import judged_on_target
from hf_transfer.data.loading import TransferData
from hf_transfer.features.cache.checksums import text_digest
from hf_transfer.features.cache.digests import data_digest
from hf_transfer.features.probe import Probe
from hf_transfer.norms import has_statistics
from hf_transfer.recipe_arguments import DataArguments, LoopArguments
from hf_transfer.source import Source


__all__ = ["Problem"]


class Problem:
    """
    What a comparison is about.

    If the data have a validation split it validates every run. If not, the training rows are cut into folds with equal
    shares of the classes: seed number `s`, counted from 0, validates on fold `s mod folds`, and after `folds` seeds
    the cut is another. With a target its labelled rows validate and test: its validation split, else a fifth of its
    training rows.

    Args:
        data (`TransferData`): labelled rows.
        models (`Sequence[Pretrained]`): base models, each with a label of its own.
        target (`TransferData`, *optional*): another domain, with the same classes; its training rows are used without
            labels.
        teacher (`str`, path, `nn.Module` or `Source`, *optional*): for distillation.
        data_args (`DataArguments`, *optional*): longest text and augmentation.
        folds (`int`, *optional*, defaults to 5): where there is no validation split.
        seed (`int`, *optional*, defaults to 0): the first; it cuts folds and target.
        seeds (`int`, *optional*, defaults to 1): how many are planned.
        cache_dir (`str` or path, *optional*): of features, by default that of [`extract_features`].

    Attributes:
        task (`str`), label_names (`tuple[str, ...]`): of the data.
        metric (`str`): the main score: `accuracy`, or `mse` of a regression.
        regression (`bool`): whether labels are real values.
        data (`TransferData`): what trains, validates and tests.
        target (`Dataset`, *optional*): unlabelled rows of the target.
        by_folds (`bool`): whether folds validate.

    Raises:
        ValueError: if all rows have one class; a class has fewer rows than folds, or none to validate; two models have
            one label; a model cannot read the data; the target has no labels, or unknown ones.
        OSError: if there is no such teacher.

    Example:
        >>> from hf_transfer.data.loading import load_splits
        >>> data = load_splits("embedded:digits", samples_per_class=5)
        >>> problem = Problem(data, [Pretrained("digits", "embedded:image", data)])
        >>> problem.by_folds, len(problem.validation_ids(0)), problem.metric
        (False, 180, 'accuracy')
    """

    def __init__(
        self,
        data: TransferData,
        models: Sequence[Pretrained],
        *,
        target: TransferData | None = None,
        teacher: Source | nn.Module | str | os.PathLike[str] | None = None,
        data_args: DataArguments | None = None,
        folds: int = 5,
        seed: int = 0,
        seeds: int = 1,
        cache_dir: str | os.PathLike[str] | None = None,
    ):
        self.models = list(models)
        self.data_args = DataArguments() if data_args is None else data_args
        self.folds, self.seed, self.seeds, self.cache_dir = folds, seed, seeds, cache_dir
        self.task, self.label_names = data.task, data.label_names
        self.regression = data.task == "regression"
        self.metric = "mse" if self.regression else "accuracy"
        self.data, self.target = data, None
        self._validation = "validation split"
        if target is not None:
            self.data, self.target, self._validation = judged_on_target(data, target, seed=seed)
        self.by_folds = self.data.eval is None
        self.check()
        self.teacher = None if teacher is None else SharedTeacher(teacher)
        pixels = PixelCache()
        self._rows = {
            base.label: SharedRows(base, self.data, self.target, self.data_args, pixels, cache_dir)
            for base in self.models
        }
        self.probes: dict[Any, Probe] = {}
        """Of finished fits, by run."""
        self._rows[self.models[0].label].read_all()  # so that a row that cannot be read is told of now

    def check(self) -> None:
        """
        Refuse what cannot be compared on.

        Raises:
            ValueError: as the constructor.
        """
        check_models(self.models, self.data)
        check_labels(self.data)
        for base in self.models:
            self.data_args.augment(self.data, base.processor)
        if self.by_folds:
            check_folds(self.data, self.folds)
        else:
            check_validation(self.data, self._validation)

    def setup(self, key: CellKey, args: LoopArguments, *, full: bool = False) -> Setup:
        """
        What a strategy is given for one run.

        Args:
            key (`CellKey`): which run.
            args (`LoopArguments`): of the comparison; the run gets a copy, with its folder below `output_dir`.
            full (`bool`, *optional*, defaults to `False`): train on all labelled rows, also where folds validate; for
                the winner.

        Raises:
            KeyError: if there is no base model of that label.
        """
        return Setup(self, self._rows[key.model], key, args, full=full)

    @cached_property
    def strata(self) -> np.ndarray:
        """One class number per training row; all zero where rows have no single class."""
        return strata_of(self.data, self.data.train)

    @property
    def batch_norm(self) -> bool | None:
        """`True` if a model keeps running statistics of its layers, as batch normalisation does; else `None`."""
        return any(has_statistics(module) for base in self.models for module in base.model.modules()) or None

    def validation_ids(self, seed: int) -> np.ndarray:
        """Numbers of the rows that validate a seed: of the training split where folds do, else of their own split."""
        if self.data.eval is not None:
            return np.arange(len(self.data.eval))
        return np.flatnonzero(self._fold(seed))

    def train_ids(self, seed: int, share: float = 1.0, *, full: bool = False) -> np.ndarray:
        """Numbers of the rows that train with a seed, ascending; those of a smaller share are among them."""
        rows = np.arange(len(self.data.train))
        if self.by_folds and not full:
            rows = np.flatnonzero(~self._fold(seed))
        return rows if share == 1 else rows[nested_share(self.strata[rows], share, seed=seed)]

    def _fold(self, seed: int) -> np.ndarray:
        cut, number = divmod(seed - self.seed, self.folds)
        # one stream of numbers for each cut: seed 1 of one comparison is not cut 1 of another
        drawn = int(np.random.default_rng([self.seed, cut % 2**32]).integers(2**32))
        return fold_numbers(self.strata, self.folds, seed=drawn) == number

    def fingerprint(self, model: str | None = None) -> str:
        """
        Of all that runs depend on here: rows, how they are prepared, who validates, target and teacher.

        Args:
            model (`str`, *optional*): label of a base model, which then counts too; the others never do.
        """
        shared = self._fingerprint
        if model is None:
            return shared
        base = next(base for base in self.models if base.label == model)
        return text_digest(f"{shared} {base.digest}")

    @cached_property
    def _fingerprint(self) -> str:
        splits = {"train": self.data.train, "eval": self.data.eval, "test": self.data.test, "target": self.target}
        parts = {
            "rows": {name: _digest(split) for name, split in splits.items()},
            "labels": list(self.label_names),
            "task": self.task,
            "max_length": self.data_args.max_length,
            "augmentation": self.data_args.augmentation,
            "folds": [self.folds, self.seed] if self.by_folds else None,
            "teacher": None if self.teacher is None else self.teacher.digest,
        }
        return text_digest(json.dumps(parts, sort_keys=True))

    def describe(self) -> dict[str, Any]:
        """For the report: task, classes, rows by split, and how the validation rows were had."""
        splits = {"train": self.data.train, "validation": self.data.eval, "test": self.data.test}
        rows = {name: len(split) for name, split in splits.items() if split is not None}
        if self.target is not None:
            rows["target"] = len(self.target)
        validation = self._validation
        if self.by_folds:
            validation = f"{self.folds} folds of the training rows, another one for each seed"
        return {
            "task": self.task,
            "metric": self.metric,
            "inputs": list(self.data.input_columns),
            "classes": len(self.label_names),
            "rows": rows,
            "validation": validation,
            "augmentation": self.data_args.augmentation,
            "models": {base.label: {"name": base.name, "parameters": base.parameters} for base in self.models},
            "teacher": None if self.teacher is None else self.teacher.name,
        }


def _digest(split: Dataset | None) -> str | None:
    return None if split is None else data_digest(split, split.column_names)
