"""From a data set to batches of a model's inputs: raw images, texts, words and sound, or inputs made before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn
from transformers import PreTrainedTokenizerBase

from hf_transfer.data.columns import listed
from hf_transfer.features.extraction.fetched_rows import FetchedWindow, Views
from hf_transfer.features.extraction.tap_reader import model_inputs
from hf_transfer.features.extraction.taps import pretrained
from hf_transfer.features.extraction.text_rows import LABELS, TextWindow, from_arrow, from_lists


if TYPE_CHECKING:
    from datasets import Dataset

RAW = ("image", "audio", "tokens", "text")
_ROWS = 10_000

__all__ = ["RAW", "Source", "find_source", "label_column"]


@dataclass(frozen=True)
class Source:
    """
    How the rows of a data set become a model's inputs; made by [`find_source`].

    Args:
        dataset (`datasets.Dataset`):
            The rows.
        kind (`str`):
            `"text"` (raw texts), `"tokens"` (raw words), `"ids"` (tokenised before), `"transform"` (a transform gives
            token ids) or `"fetched"` (all else).
        columns (`list[str]`):
            Columns on which features depend.
        reads (`set[str]`):
            What the model reads.
        processor (`Any`):
            What processes raw columns; `None` where they are inputs already.
        max_length (`int`, *optional*):
            Longest text in tokens.
        pads (`dict[str, int]`):
            What padding holds by column.
        left (`bool`):
            Whether text is padded on the left.
        token_labels (`bool`):
            Whether there is a label per token.
        views (`Views`, *optional*):
            Augmented views of images.
        collator (`Callable`, *optional*):
            Collates rows.
    """

    dataset: Dataset
    kind: str
    columns: list[str]
    reads: set[str]
    processor: Any = None
    max_length: int | None = None
    pads: dict[str, int] | None = None
    left: bool = False
    token_labels: bool = False
    views: Views | None = None
    collator: Callable[[list[dict[str, Any]]], Any] | None = None

    @property
    def is_text(self) -> bool:
        """Whether rows are token ids, which are sorted by length and padded."""
        return self.kind != "fetched"

    @property
    def own_transform(self) -> bool:
        """Whether a transform of the user's makes the inputs."""
        return self.processor is None and (self.dataset.format.get("type") == "custom")

    def label_type(self) -> Any:
        """Type of the labels of tokens, `None` if there are none."""
        from datasets import List, Value

        if not self.token_labels:
            return None
        column = label_column(self.dataset)
        return List(Value("int64")) if column is None else self.dataset.features[column]

    def __len__(self) -> int:
        return len(self.dataset) * (1 if self.views is None else self.views.count)

    def window(self, rows: range) -> TextWindow | FetchedWindow:
        """These rows (views are numbered `row * views + view`), tokenised but neither padded nor decoded."""
        if self.kind == "fetched":
            return self._fetched(rows)
        columns = {"text": self._of_text, "tokens": self._of_words, "ids": self._of_ids}.get(
            self.kind, self._of_transform
        )(rows)
        return TextWindow(
            columns, self.reads, self.pads or {}, first=rows.start, left=self.left, collator=self.collator
        )

    def _of_text(self, rows: range) -> dict[str, Any]:
        table: Any = self.dataset.with_format("arrow")[rows.start : rows.stop]
        texts = [table[name].to_pylist() for name in ("text", "text_pair") if name in self.columns]
        encoded = self.processor(*texts, truncation=True, max_length=self.max_length, return_attention_mask=False)
        return {name: from_lists(values) for name, values in encoded.items() if name in self.reads}

    def _of_words(self, rows: range) -> dict[str, Any]:
        from hf_transfer.data.preparation import _first_pieces

        table: Any = self.dataset.with_format("arrow")[rows.start : rows.stop]
        encoded: Any = self.processor(
            table["tokens"].to_pylist(),
            is_split_into_words=True,
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=False,
        )
        columns = {name: from_lists(values) for name, values in encoded.items() if name in self.reads}
        if self.token_labels:
            given = table[label_column(self.dataset)].to_pylist()
            columns[LABELS] = from_lists([_first_pieces(encoded.word_ids(n), row) for n, row in enumerate(given)])
        return columns

    def _of_ids(self, rows: range) -> dict[str, Any]:
        table: Any = self.dataset.with_format("arrow")[rows.start : rows.stop]
        columns = {name: from_arrow(table[name]) for name in self.columns if name != label_column(self.dataset)}
        if self.token_labels:
            columns[LABELS] = from_arrow(table[label_column(self.dataset)])
        return columns

    def _of_transform(self, rows: range) -> dict[str, Any]:
        fetched: Any = self.dataset[rows.start : rows.stop]
        names = [name for name in fetched if name in self.reads or (self.token_labels and name == LABELS)]
        return {name: from_lists(fetched[name]) for name in names}

    def _fetched(self, rows: range) -> FetchedWindow:
        lengths = None
        name = next((name for name in ("input_values", "input_features") if name in self.columns), None)
        if name is not None and self.views is None:
            table: Any = self.dataset.with_format("arrow")[rows.start : rows.stop]
            if hasattr(table[name].type, "value_type"):
                lengths = from_arrow_lengths(table[name])
        return FetchedWindow(self.dataset, rows, self.reads, lengths=lengths, views=self.views, collator=self.collator)


def find_source(
    model: nn.Module,
    dataset: Dataset,
    processor: Any = None,
    *,
    max_length: int | None = None,
    views: Views | None = None,
    collator: Callable[[list[dict[str, Any]]], Any] | None = None,
) -> Source:
    """
    How to read this data set for this model.

    Args:
        model (`nn.Module`):
            Any model of `transformers`, also under PEFT.
        dataset (`datasets.Dataset`):
            With a column `image`, `audio`, `tokens` or `text` (and `text_pair`), or with the model's inputs, also by a
            transform as [`prepare`] sets it.
        processor (`Any`, *optional*):
            The model's own, for raw columns.
        max_length (`int`, *optional*):
            Longest text in tokens.
        views (`Views`, *optional*):
            Augmented views of images.
        collator (`Callable`, *optional*):
            Collates rows in place of the padding here.

    Raises:
        TypeError: if the data set is streamed or no `datasets.Dataset`.
        ValueError: if it is empty, holds nothing that the model reads, lacks a processor, or has rows without text.
    """
    from hf_transfer.data.preparation import _ImageTransform
    from hf_transfer.data.sound import SoundTransform

    _check_dataset(dataset)
    reads = model_inputs(model)
    transform = (dataset.format.get("format_kwargs") or {}).get("transform")
    if type(transform) is _ImageTransform and "image" in dataset.column_names:
        if transform.augment is not None:
            raise ValueError(
                "The data set augments its images at random: features would be of one draw and pass for those of the "
                "row. Prepare it without `augment`, or ask for a number of stored views: "
                "`extract_features(..., views=4, augment=...)`."
            )
        processor, transform, dataset = transform.processor, None, dataset.with_format(None)
    elif type(transform) is SoundTransform and "audio" in dataset.column_names:
        processor, transform, dataset = transform.processor, None, dataset.with_format(None)
    base = Source(dataset, "fetched", [], reads, views=views, collator=collator)
    if transform is not None:
        found = _transformed(model, base)
    elif pretrained(model).main_input_name in dataset.column_names or "input_ids" in dataset.column_names:
        found = _ready(model, base)
    else:
        found = _raw(model, base, processor, max_length)
    if views is not None and "pixel_values" not in reads:
        raise ValueError(
            f"views={views.count} were asked for, but {type(pretrained(model)).__name__} reads no images: `augment` "
            "maps processed images. Leave `views` and `augment` out; store augmented texts as rows of their own."
        )
    return found


def label_column(dataset: Dataset) -> str | None:
    """The column of the labels, if there is one."""
    return next((name for name in (LABELS, "label") if name in dataset.column_names), None)


def from_arrow_lengths(column: Any) -> np.ndarray:
    """Lengths of the rows of an Arrow column of lists."""
    return np.concatenate([chunk.value_lengths().to_numpy(zero_copy_only=False) for chunk in column.chunks])


def _check_dataset(dataset: Any) -> None:
    from datasets import Dataset

    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"A {type(dataset).__name__} was given: features are stored by the content and the number of their rows, "
            "which only a `datasets.Dataset` tells. Load it without `streaming=True`, or write it into one with "
            "`Dataset.from_generator(...)`; one split of a `DatasetDict` is a `Dataset`."
        )
    if not len(dataset):
        raise ValueError("The data set has no rows: there is nothing to extract. Check its split and its filters.")


def _transformed(model: nn.Module, base: Source) -> Source:
    """A transform of the user's gives the inputs."""
    first: Any = base.dataset[:1]
    if not any(name in base.reads for name in first):
        raise ValueError(
            f"The transform of the data set gives {listed(first)}, of which {type(pretrained(model)).__name__} reads "
            "none: there is nothing to run it on. Let it give what the model's forward takes, or use `prepare`."
        )
    columns = [name for name in base.dataset.column_names if name not in (LABELS, "label", "domain")]
    if "input_ids" not in first:
        return replace(base, columns=columns)
    labelled = LABELS in first and _per_token(model, [first["input_ids"][0]], [first[LABELS][0]])
    if labelled and label_column(base.dataset):
        columns.append(str(label_column(base.dataset)))
    return replace(_text_source(model, base, None), kind="transform", columns=columns, token_labels=labelled)


def _ready(model: nn.Module, base: Source) -> Source:
    """The data set holds what the forward takes."""
    dataset = base.dataset
    columns = [name for name in dataset.column_names if name in base.reads]
    label = label_column(dataset)
    # as NumPy arrays: lists of numbers would be Python objects
    numpy = dataset.select_columns(columns).with_format("numpy")
    if "input_ids" not in columns:
        return replace(base, dataset=numpy, columns=columns)
    head: Any = dataset.with_format(None).select_columns([*columns, *([label] if label else [])])[:8]
    token = [name for name in columns if _aligned(head["input_ids"], head[name])]
    if len(token) < len(columns):  # images beside the text: read row by row, and rows of one shape together
        return replace(base, dataset=numpy, columns=columns)
    labelled = label is not None and _per_token(model, head["input_ids"], head[label])
    if labelled:
        columns.append(str(label))
    found = _text_source(model, base, None)
    return replace(found, dataset=dataset.with_format(None), kind="ids", columns=columns, token_labels=labelled)


def _raw(model: nn.Module, base: Source, processor: Any, max_length: int | None) -> Source:
    from hf_transfer.data.preparation import _ImageTransform
    from hf_transfer.data.sound import SoundTransform, stored_sound

    dataset = base.dataset.with_format(None)
    kind = next((name for name in RAW if name in dataset.column_names), None)
    if kind is None:
        raise ValueError(
            f"The data set has the columns {listed(dataset.column_names)}: neither {listed(RAW)} nor what "
            f"{type(pretrained(model)).__name__} reads, such as `{pretrained(model).main_input_name}`. "
            'Rename the input: `dataset.rename_column("sentence", "text")`.'
        )
    is_text = kind in ("tokens", "text")
    if processor is None or is_text != isinstance(processor, PreTrainedTokenizerBase):
        given = "no processor was" if processor is None else f"{type(processor).__name__} was"
        wanted = {"image": "AutoImageProcessor", "audio": "AutoFeatureExtractor"}.get(kind, "AutoTokenizer")
        raise ValueError(
            f"The data set holds raw inputs (`{kind}`), but {given} given: the model reads what its own processor "
            f"makes of them. Pass `processor={wanted}.from_pretrained(...)`."
        )
    if not is_text:
        dataset = stored_sound(dataset)
        transform = _ImageTransform(processor, None) if kind == "image" else SoundTransform(processor)
        shown = dataset.select_columns([kind]).with_transform(transform)
        return replace(base, dataset=shown, columns=[kind], processor=processor)
    columns = [name for name in ("text", "text_pair") if name in dataset.column_names] if kind == "text" else [kind]
    _refuse_missing(dataset, columns)
    label = label_column(dataset)
    # a list type
    labelled = kind == "tokens" and label is not None and hasattr(dataset.features[label], "feature")
    if kind == "tokens" and not processor.is_fast:
        raise ValueError(
            f"{type(processor).__name__} is a slow tokenizer: it does not tell which word each piece came from, so "
            "the labels of words cannot be given to pieces. Load it with `use_fast=True` or choose another model."
        )
    limit = max_length or min(processor.model_max_length, 512)
    found = replace(_text_source(model, base, processor), dataset=dataset, kind=kind, max_length=limit)
    return replace(found, columns=[*columns, *([str(label)] if labelled else [])], token_labels=labelled)


def _text_source(model: nn.Module, base: Source, processor: Any) -> Source:
    config: Any = pretrained(model).config
    pad = getattr(config.get_text_config(), "pad_token_id", None)
    if pad is None and type(pretrained(model)).__name__.endswith("ForSequenceClassification"):
        raise ValueError(
            f"The configuration of {type(pretrained(model)).__name__} has no `pad_token_id`: the model could not tell "
            "the last token of a row, at which it pools, from padding. Set `model.config.pad_token_id = "
            "tokenizer.pad_token_id`, or of a tokenizer without one `tokenizer.eos_token_id`."
        )
    if pad is None:
        pad = getattr(processor, "pad_token_id", None)
    # Right, where the positions of tokens are those of the row by itself, whatever the tokenizer says; but XLNet's
    # head reads the last position, padding or not.
    left = getattr(config, "summary_type", None) == "last"
    pads = {"input_ids": pad or 0, "token_type_ids": getattr(processor, "pad_token_type_id", 0)}
    return replace(base, processor=processor, pads=pads, left=left)


def _aligned(ids: list[Any], values: list[Any]) -> bool:
    return all(hasattr(row, "__len__") and len(row) == len(own) for own, row in zip(ids, values, strict=True))


def _per_token(model: nn.Module, ids: list[Any], labels: list[Any]) -> bool:
    several = getattr(pretrained(model).config, "problem_type", None) == "multi_label_classification"
    return not several and _aligned(ids, labels)


def _refuse_missing(dataset: Dataset, columns: list[str]) -> None:
    stored = dataset.select_columns(columns).with_format("arrow")
    for start in range(0, len(dataset), _ROWS):
        table: Any = stored[start : start + _ROWS]
        for name in columns:
            if table[name].null_count:
                raise ValueError(
                    f"{table[name].null_count} of the rows {start} to {start + len(table) - 1} have no `{name}`, such "
                    "as empty cells of a CSV file: there is nothing to read. Fill or drop these rows."
                )
