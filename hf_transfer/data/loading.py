"""Any labelled data set, from the Hub, a path or embedded, into one form: known input columns and `label`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from datasets import Dataset
from transformers.utils import logging

from hf_transfer.data.class_names import NamedLabels, named_labels, with_labels
from hf_transfer.data.columns import LABEL_COLUMNS, find_label_column, listed
from hf_transfer.data.input_columns import Task, find_input_columns, infer_task
from hf_transfer.data.reading import read_splits
from hf_transfer.data.sound import stored_sound
from hf_transfer.data.subsets import random_rows, stratified_split
from hf_transfer.data.subsets import samples_per_class as rows_per_class


logger = logging.get_logger(__name__)

VALIDATION_SPLITS = ("validation", "valid", "val", "dev", "eval")


@dataclass(frozen=True)
class TransferData:
    """
    A labelled data set in the form the recipes and `mix_domains` expect.

    Every split has the columns `input_columns` and `label` (`ClassLabel`, a list of these for tokens, or float32 for
    regression), and no others; a data set loaded with `require_labels=False` may lack `label`.

    Args:
        train (`datasets.Dataset`):
            Training split.
        eval (`datasets.Dataset`, *optional*):
            Validation split; `None` if there is none and none was asked for.
        test (`datasets.Dataset`, *optional*):
            Test split.
        task (`str`):
            `image-classification`, `text-classification`, `token-classification`, `audio-classification` or
            `regression`.
        input_columns (`tuple[str, ...]`):
            `("image",)`, `("audio",)`, `("text",)`, `("text", "text_pair")` or `("tokens",)`.
        label_names (`tuple[str, ...]`):
            Class names in the order of the class numbers in `label`; empty for regression.
        max_seconds (`float`, *optional*):
            Recordings are cut to their first so many seconds. The processors that are loaded for the data do it
            ([`hf_transfer.models.load_processor`]), and keep the number when they are saved.
    """

    train: Dataset
    eval: Dataset | None
    test: Dataset | None
    task: Task
    input_columns: tuple[str, ...]
    label_names: tuple[str, ...]
    max_seconds: float | None = None

    @property
    def num_labels(self) -> int:
        """Number of outputs a head needs: one per class, one for regression."""
        return len(self.label_names) or 1

    @property
    def id2label(self) -> dict[int, str]:
        """Class names by number, for the model's config."""
        return dict(enumerate(self.label_names))

    @property
    def label2id(self) -> dict[str, int]:
        """Class numbers by name, for the model's config."""
        return {name: number for number, name in enumerate(self.label_names)}

    def with_validation(self, fraction: float, *, seed: int) -> TransferData:
        """
        The same with that share of the training rows held out as the validation split, by class.

        Raises:
            ValueError: if the fraction is not between 0 and 1, or a class has one row only.
        """
        single = bool(self.label_names) and self.task != "token-classification"
        strata = _class_numbers(self.train) if single else np.zeros(len(self.train), dtype=np.int64)
        kept, held_out = stratified_split(strata, fraction, seed=seed, names=self.label_names)
        return replace(self, train=self.train.select(kept), eval=self.train.select(held_out))


def load_splits(
    name_or_path: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
    *,
    config: str | None = None,
    train_split: str = "train",
    eval_split: str | None = None,
    test_split: str | None = None,
    label_column: str | None = None,
    input_columns: str | Sequence[str] | None = None,
    validation_fraction: float | None = None,
    samples_per_class: int | None = None,
    max_samples: int | None = None,
    max_eval_samples: int | None = None,
    max_seconds: float | None = None,
    seed: int = 0,
    require_labels: bool = True,
) -> TransferData:
    """
    Load a labelled data set and bring it into one form, whatever its columns are called.

    Labels become class numbers with names (`ClassLabel`), numbered by the training split; real-valued labels make it a
    regression. Inputs are renamed to `image`, `audio`, `text`, `text_pair` or `tokens`. Nothing is decoded.

    Args:
        name_or_path (`str`, path, or mapping of split names to files):
            A Hub id; a folder of images or recordings in class folders, of CSV, JSON, JSON Lines or Parquet files,
            or written by `save_to_disk`; a file; files by split; or an embedded set such as `embedded:digits`
            ([`hf_transfer.data.embedded`] lists them).
        config (`str`, *optional*):
            Configuration of a Hub data set.
        train_split (`str`, *optional*, defaults to `"train"`):
            Name of the training split.
        eval_split (`str`, *optional*):
            Name of the validation split; by default `validation`, `valid`, `val`, `dev` or `eval`, where there is one.
        test_split (`str`, *optional*):
            Name of the test split; by default `test`, where there is one.
        label_column (`str`, *optional*):
            Name of the label column; by default the only one of `label`, `labels`, `ner_tags`, `tags`.
        input_columns (`str` or `Sequence[str]`, *optional*):
            Names of the input columns: one, or two texts. By default found by type, texts also by name.
        validation_fraction (`float`, *optional*):
            If the data set has no validation split: share of the training rows to hold out as one, by class (at random
            with `require_labels=False`).
        samples_per_class (`int`, *optional*):
            Train on that many random rows of every class (after the validation rows are taken out).
        max_samples (`int`, *optional*):
            Train on at most that many random rows.
        max_eval_samples (`int`, *optional*):
            Validate and test on at most that many random rows each.
        max_seconds (`float`, *optional*):
            Of recordings, take the first so many seconds; by default the whole.
        seed (`int`, *optional*, defaults to 0):
            Seed of every random choice above.
        require_labels (`bool`, *optional*, defaults to `True`):
            Whether a data set without labels is an error; if not, such splits have no column `label` and
            `label_names` is empty. For the target of domain adaptation.

    Raises:
        FileNotFoundError: if the path does not exist, or is neither a path nor a data set of the Hub or its cache.
        ValueError: if a split, the label column or the input columns cannot be found, labels are missing, unknown to
            the training split or of one class only, or a class has fewer rows than `samples_per_class`.

    Example:
        >>> data = load_splits("embedded:digits", samples_per_class=2)
        >>> data.task, data.input_columns, data.num_labels, len(data.train)
        ('image-classification', ('image',), 10, 20)
    """
    splits = read_splits(name_or_path, config)
    roles = _roles(splits, train_split, eval_split, test_split)
    splits = {name: splits[name].with_format(None) for name in roles.values()}
    train = splits[train_split]
    chosen = [input_columns] if isinstance(input_columns, str) else input_columns
    label = None
    if require_labels or label_column is not None or any(name in train.column_names for name in LABEL_COLUMNS):
        label = find_label_column(train.column_names, label_column, where=f"Split `{train_split}`")
    inputs = find_input_columns(train.features, label, chosen)
    roles = _scorable(splits, roles, label, explicit=(eval_split, test_split))
    splits = {name: splits[name] for name in roles.values()}
    _check_same_columns(splits, [*inputs, label], train_split)
    parts = {
        role: stored_sound(splits[name].select_columns(list(inputs)).rename_columns(inputs))
        for role, name in roles.items()
    }
    labels = None
    if label is not None:
        labels = named_labels(splits, label, train=train_split)
        parts = {
            role: with_labels(part, labels.columns[roles[role]], labels.feature)
            for role, part in parts.items()
            if roles[role] in labels.columns
        }
    if validation_fraction is not None and "eval" not in parts:
        # rows are not chosen by labels that need not be there: those of a target would say which to train on
        strata = _strata(parts["train"], labels if require_labels else None)
        names = () if labels is None else labels.names
        kept, held_out = stratified_split(strata, validation_fraction, seed=seed, names=names)
        parts["train"], parts["eval"] = parts["train"].select(kept), parts["train"].select(held_out)
    parts["train"] = _subset(parts["train"], labels, samples_per_class, max_samples, seed)
    for role in ("eval", "test"):
        if role in parts and max_eval_samples is not None:
            parts[role] = parts[role].select(random_rows(len(parts[role]), max_eval_samples, seed=seed))
    return TransferData(
        train=parts["train"],
        eval=parts.get("eval"),
        test=parts.get("test"),
        task=infer_task(list(inputs.values()), classes=labels is None or bool(labels.names)),
        input_columns=tuple(inputs.values()),
        label_names=() if labels is None else labels.names,
        max_seconds=max_seconds,
    )


def _scorable(
    splits: Mapping[str, Dataset], roles: dict[str, str], label: str | None, *, explicit: Sequence[str | None]
) -> dict[str, str]:
    """Leave out splits nobody asked for by name that come without the label column, as hidden test sets do."""
    without = [
        name for name in roles.values() if label and name not in explicit and label not in splits[name].column_names
    ]
    if without:
        logger.warning(f"Splits {listed(without)} have no column `{label}` and are left out.")
    return {role: name for role, name in roles.items() if name not in without}


def _check_same_columns(splits: Mapping[str, Dataset], columns: Sequence[str | None], train: str) -> None:
    for name, split in splits.items():
        missing = [column for column in columns if column is not None and column not in split.column_names]
        if missing:
            raise ValueError(
                f"Split `{name}` lacks {listed(missing)}, which split `{train}` has; it could not be scored. "
                "Rename its columns, or name another `eval_split` or `test_split`."
            )


def _roles(splits: Mapping[str, Dataset], train: str, eval: str | None, test: str | None) -> dict[str, str]:
    """The names of the splits by their role."""
    wanted = {"train": train, "eval": eval, "test": test}
    for role, name in wanted.items():
        if name is not None and name not in splits:
            raise ValueError(
                f"There is no split `{name}` for {role}; the data set has {listed(splits)}. "
                f"Pass `{role}_split=` with one of these."
            )
    found = next((name for name in VALIDATION_SPLITS if name in splits and name != train), None)
    wanted["eval"] = eval or found
    wanted["test"] = test or ("test" if "test" in splits and "test" not in (train, wanted["eval"]) else None)
    for name in wanted.values():
        if name is not None and len(splits[name]) == 0:
            raise ValueError(f"Split `{name}` is empty; nothing can be learned or scored on it. Check the files.")
    return {role: name for role, name in wanted.items() if name is not None}


def _subset(
    train: Dataset, labels: NamedLabels | None, samples_per_class: int | None, max_samples: int | None, seed: int
) -> Dataset:
    if samples_per_class is not None:
        if labels is None or not labels.names or labels.nested:
            raise ValueError(
                f"samples_per_class={samples_per_class} needs one class per row, but the labels are "
                f"{labels and labels.feature}. Rows cannot be counted by class. Pass `max_samples` instead."
            )
        chosen = rows_per_class(_strata(train, labels), samples_per_class, labels.names, seed=seed)
        train = train.select(chosen)
    if max_samples is not None:
        train = train.select(random_rows(len(train), max_samples, seed=seed))
    return train


def _strata(split: Dataset, labels: NamedLabels | None) -> np.ndarray:
    """One class number per row; all zero where rows have no single class."""
    if labels is None or not labels.names or labels.nested:
        return np.zeros(len(split), dtype=np.int64)
    return _class_numbers(split)


def _class_numbers(split: Dataset) -> np.ndarray:
    return split.select_columns(["label"]).with_format("numpy")[:]["label"]
