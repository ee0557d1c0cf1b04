"""`extract_features`: what a frozen model makes of every row of a data set, computed once and kept on disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from hf_transfer.features.cache.digests import data_digest, processor_digest, weights_digest
from hf_transfer.features.cache.entry import Entry
from hf_transfer.features.cache.shards import shard_files
from hf_transfer.features.extraction.fetched_rows import Views
from hf_transfer.features.extraction.filling import fill
from hf_transfer.features.extraction.inputs import Source, find_source
from hf_transfer.features.extraction.joined_columns import check_columns, joined
from hf_transfer.features.extraction.preparing import rows_per_forward, threads_for
from hf_transfer.features.extraction.ranks import Ranks
from hf_transfer.features.extraction.shard_columns import ShardColumns
from hf_transfer.features.extraction.steady import grouping_for, refuse_random_inputs
from hf_transfer.features.extraction.tap_reader import DTYPES, TapReader, evaluating
from hf_transfer.features.extraction.taps import Tap, find_taps, head_modules, pretrained


if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["extract_features", "shard_rows_for"]


def extract_features(
    model: nn.Module,
    dataset: Dataset,
    processor: Any = None,
    *,
    taps: str | int | Sequence[str | int] = "head",
    pooling: str | None = None,
    batch_size: int = 32,
    max_length: int | None = None,
    dtype: str = "float32",
    views: int = 1,
    augment: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
    columns: Sequence[str] = (),
    data_collator: Callable[[list[dict[str, Any]]], Any] | None = None,
    num_workers: int | None = None,
    cache_dir: Any = None,
    overwrite: bool = False,
    head: str | None = None,
    progress: bool = True,
) -> Dataset:
    """
    Compute the features of every row once, with the model frozen, and keep them on disk.

    The features are the input of the model's head, pooled as the model pools, in evaluation mode. They are stored
    under a key of everything they depend on: weights (without those of the head), adapters, configuration, processor,
    content of the input columns, taps, pooling, type. Asked again, they are mapped from disk and the model does not
    run. Shards are written one by one: an interrupted run goes on where it stopped, a damaged shard alone is computed
    again. Under `torchrun` or `accelerate launch` the ranks share the shards and all get the whole result.

    Args:
        model (`nn.Module`):
            Any classifier of `transformers`, or a base model without a head, also under PEFT. It runs where it is;
            its mode is restored.
        dataset (`datasets.Dataset`):
            With a column `image`, `text` (and `text_pair`), `tokens` or `audio`, or with the model's inputs, as
            [`prepare`] or a tokenizer makes them. Padding that rows bring along is taken off.
        processor (`BaseImageProcessor`, `PreTrainedTokenizerBase`, `FeatureExtractionMixin`, *optional*):
            The model's own, for raw columns.
        taps (`str`, `int` or a sequence of them, *optional*, defaults to `"head"`):
            What is read: the input of the head, the output of a block (`3`, `"block.3"`, `-1` for the last), or
            `"blocks"` for that of all. What follows the last tap is not computed. A base model has its output in
            place of the head: `pooler_output`, or where there is none or a pooling is given, the last hidden state.
            A block that runs repeatedly (ALBERT) is read when it runs last.
        pooling (`str`, *optional*):
            How the tokens of a block, patches of an image included, become one vector: `"mean"` (the default),
            `"cls"` (the first), `"last"`, or `"none"` to keep all. Padding does not count. For the head tapped alone
            it replaces the model's own pooling where the head sees tokens, as that of decoders and of token
            classifiers does.
        batch_size (`int`, *optional*, defaults to 32):
            Most rows per forward. The features do not depend on it, but for rounding. On a CPU images go at most 16 at
            a time, as larger batches are slower there.
        max_length (`int`, *optional*):
            Longest text in tokens, as in [`prepare`]: by default as long as the tokenizer allows, 512 at most.
        dtype (`str`, *optional*, defaults to `"float32"`):
            `"float16"` runs the forward under autocast (on a CPU in full precision) and stores half precision;
            `"bfloat16"` runs it under autocast and stores float32, as Arrow has no such type.
        views (`int`, *optional*, defaults to 1):
            Augmented views per image, with `augment`. View `v` of row `i` is drawn with torch, NumPy and `random`
            seeded by `(seed, i, v)`.
        augment (`Callable`, *optional*):
            Maps processed images `(B, 3, H, W)` to the same shape, at random. It runs on the CPU.
        seed (`int`, *optional*, defaults to 0):
            Of the views.
        columns (`Sequence[str]`, *optional*):
            Further columns of the data set to hand on, such as `domain`.
        data_collator (`Callable`, *optional*):
            Makes a batch of a list of rows, in place of the padding here.
        num_workers (`int`, *optional*):
            Threads that decode and process images, sound and text while the model runs; 0 for none. By default one
            per core beside an accelerator, and half of that on a CPU, at most 8; for text and for transforms of your
            own 1, on a CPU 0.
        cache_dir (`str` or `PathLike`, *optional*):
            Where entries lie; `hf_transfer/features` under the Hugging Face home by default. Several machines must
            share it.
        overwrite (`bool`, *optional*, defaults to `False`):
            Compute everything again.
        head (`str`, *optional*):
            Name of the head, where it cannot be told from the model.
        progress (`bool`, *optional*, defaults to `True`):
            Show rows per second, on the main process.

    Shape:
        - `features` (head) and `block.0`, ... (blocks): a list of `D` numbers a row; where tokens are kept, a list of
          `T` such lists, without padding.
        - `labels`: the column `labels` or `label` with its type, so that class names survive. Where each word or token
          has a label and tokens are kept, one per token, -100 where it has none of its own.
        - `id`: number of the row in the data set given; `view`: where `views` is above 1. Rows are in order, the views
          of a row together.

    Deviations:
        Text is padded on the right whatever the tokenizer says, so that positions are those of the row alone. Sound is
        not padded: recordings of one length form a batch. Where a model lets padding or other rows leak into a row
        (checked on the first rows), batches hold rows of equal length, or one row.

    Raises:
        TypeError: if the data set is streamed or no `datasets.Dataset`.
        ValueError: if an argument is out of range; if the data set is empty or fits neither model nor processor; if
            its transform is random; if the model is; if a feature is not finite or too large for half precision.
        RuntimeError: if another rank failed, or ranks were given different data.
        ImportError: if `datasets` is not installed.

    Relations:
        [`matrix`] makes an array of a column, [`fit_probe`] fits a classifier on it. [`prune`] removes entries.

    Example:
        >>> import tempfile
        >>> from datasets import Dataset
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> model = BertForSequenceClassification(config)
        >>> data = Dataset.from_dict({"input_ids": [[1, 2, 3], [4, 5]], "labels": [0, 1]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     features = extract_features(model, data, cache_dir=folder, progress=False)
        ...     print(features.column_names, len(features[0]["features"]))
        ['features', 'id', 'labels'] 8
    """
    _check(batch_size, dtype, views, augment, num_workers)
    found = find_taps(model, taps, pooling, head=head)
    drawn = None if augment is None else Views(views, augment, seed)
    source = find_source(model, dataset, processor, max_length=max_length, views=drawn, collator=data_collator)
    check_columns(dataset, columns, [*(tap.column for tap in found), "id", "view"])
    ranks = Ranks()
    entry = _entry(model, source, found, dtype, head, cache_dir)
    ranks.require_same(entry.key)
    if overwrite and ranks.is_main:
        for files in shard_files(entry.folder).values():
            for file in files:
                file.unlink(missing_ok=True)
    missing = ranks.from_main(lambda: entry.missing())
    if missing:
        with ranks.failing_together():
            workers = threads_for(model, source) if num_workers is None else num_workers
            bar = progress and ranks.is_main
            shards = ranks.share(missing)
            size = rows_per_forward(model, source, batch_size)
            _compute(model, source, found, entry, shards, batch_size=size, dtype=dtype, workers=workers, bar=bar)
    return joined(entry, dataset, source, columns)


def shard_rows_for(source: Source, *, tokens: bool) -> int:
    """
    Rows per shard: about an eighth of the table, within bounds, and the same for any number of ranks.

    Args:
        source (`Source`):
            The data. Text has shards of at least 1024 rows, among which lengths are sorted.
        tokens (`bool`):
            Whether each token has features; these take more memory, and shards are of 128 rows.
    """
    if tokens:
        return 128
    return min(2048, max(1024 if source.is_text else 64, math.ceil(len(source) / 8)))


def _check(batch_size: int, dtype: str, views: int, augment: Any, num_workers: int | None) -> None:
    if batch_size < 1 or views < 1 or (num_workers or 0) < 0:
        raise ValueError(
            f"batch_size={batch_size}, views={views} and num_workers={num_workers} were given: no row would be "
            "computed. Give at least 1 row, 1 view and 0 threads."
        )
    if dtype not in DTYPES:
        raise ValueError(
            f'dtype="{dtype}" is unknown: features have a floating type that a forward can run in. '
            f"Choose one of {', '.join(DTYPES)}."
        )
    if views > 1 and augment is None:
        raise ValueError(
            f"views={views} were asked for without `augment`: all of them would be the same. Pass what draws them, "
            "such as `augment=image_augmentation(...)`, or leave `views` out."
        )


def _entry(
    model: nn.Module, source: Source, taps: Sequence[Tap], dtype: str, head: str | None, cache_dir: Any
) -> Entry:
    # a transform of the user's counts with the data; the package's own by its processor
    data = source.dataset if source.processor is None else source.dataset.with_format(None)
    drawn = source.views
    description = {
        "kind": "features",
        "model": type(pretrained(model)).__name__,
        "weights": weights_digest(model, without=head_modules(model, head)),
        "processor": processor_digest(source.processor),
        "data": data_digest(data, source.columns),
        "token_labels": source.token_labels,
        "max_length": source.max_length,
        "taps": [[tap.column, tap.module, tap.pooling] for tap in taps],
        "dtype": dtype,
        "views": None if drawn is None else [drawn.count, drawn.seed, _hashed(drawn.augment, "augment")],
        "collator": None if source.collator is None else _hashed(source.collator, "data_collator"),
    }
    tokens = source.token_labels or any(tap.pooling == "none" for tap in taps)
    return Entry.open(
        description, rows=len(source), shard_rows=shard_rows_for(source, tokens=tokens), cache_dir=cache_dir
    )


def _hashed(function: Any, argument: str) -> str:
    from datasets.fingerprint import Hasher

    try:
        return Hasher.hash(function)
    except Exception as error:
        raise ValueError(
            f"`{argument}` cannot be pickled ({error}), so what it does cannot be part of the key, and features of "
            "another would pass for its own. Define it as a function or class of a module."
        ) from error


def _compute(
    model: nn.Module,
    source: Source,
    taps: Sequence[Tap],
    entry: Entry,
    shards: Sequence[int],
    *,
    batch_size: int,
    dtype: str,
    workers: int,
    bar: bool,
) -> None:
    """Fill these shards of the entry, one after the other."""
    if source.collator is not None or source.views is not None or source.own_transform:
        refuse_random_inputs(source, drawn=source.views is not None)
    if not shards:
        return
    ranges = entry.ranges()
    stored = "float16" if dtype == "float16" else "float32"
    views = 1 if source.views is None else source.views.count
    labels = source.label_type()

    def write(shard: int, window: Any, columns: ShardColumns) -> None:
        arrays = columns.arrays([tap.column for tap in taps])
        if labels is not None:
            arrays["labels"] = window.token_labels()
        entry.write(shard, arrays, columns.features(arrays, labels))

    with evaluating(model), TapReader(model, taps, dtype=dtype) as reader:
        fill(
            source,
            ranges,
            shards,
            start=lambda rows: ShardColumns(rows, stored, views=views),
            add=lambda columns, batch: columns.add(batch.positions, reader.read(batch.inputs, batch.mask)),
            write=write,
            grouping=grouping_for(model, reader, source, ranges[shards[0]]),
            batch_size=batch_size,
            workers=workers,
            bar=bar,
        )
