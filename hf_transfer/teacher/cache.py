"""`cache_teacher`: what a teacher says of every row of a data set, computed once and kept on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from hf_transfer import source as frozen
from hf_transfer.features.cache.checksums import object_digest, plain
from hf_transfer.features.cache.digests import data_digest, processor_digest, weights_digest
from hf_transfer.features.cache.entry import Entry
from hf_transfer.features.cache.shards import shard_files
from hf_transfer.features.extraction.extract import shard_rows_for
from hf_transfer.features.extraction.filling import fill
from hf_transfer.features.extraction.inputs import Source
from hf_transfer.features.extraction.preparing import threads_for
from hf_transfer.features.extraction.ranks import Ranks
from hf_transfer.features.extraction.steady import grouping_for, refuse_random_inputs
from hf_transfer.features.extraction.taps import pretrained
from hf_transfer.random_state import random_numbers_put_back
from hf_transfer.teacher.cache_checks import check_store, module_names
from hf_transfer.teacher.cache_inputs import REMEDY, teacher_source
from hf_transfer.teacher.cache_joining import beside, check_free
from hf_transfer.teacher.cache_reader import TeacherReader
from hf_transfer.teacher.cache_rows import TeacherRows
from hf_transfer.teacher.cached_columns import FEATURES, HIDDEN, LOGITS
from hf_transfer.teacher.several import SeveralTeachers
from hf_transfer.teacher.teacher import Teacher


if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["cache_teacher"]


def cache_teacher(
    teacher: Teacher | frozen.Source | nn.Module | str | os.PathLike[str],
    dataset: Dataset,
    processor: Any = None,
    *,
    store: Literal["float32", "float16", "top_k"] = "float32",
    k: int | None = None,
    features: bool = False,
    hidden_states: Sequence[str | int] = (),
    batch_size: int = 32,
    max_length: int | None = None,
    data_collator: Callable[[list[dict[str, Any]]], Any] | None = None,
    num_workers: int | None = None,
    cache_dir: Any = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Dataset:
    r"""
    Ask a teacher about every row once, and add what it says as columns: an objective then reads them in place of
    running it.

    The teacher is frozen and in evaluation mode, so its answers never change. They are stored in the cache of
    [`extract_features`] under a key of everything they depend on: weights with the head, adapters, configuration,
    processor, content of the input columns, batch size, precision. Asked again, they are mapped from disk and the
    teacher does not run. Shards are written one by one: an interrupted run goes on where it stopped, a damaged shard
    alone is computed again. Under `torchrun` or `accelerate launch` the ranks share the shards and all get the whole
    result. The columns travel with their rows: filter, shuffle and split the data set as you like.

    Args:
        teacher ([`Teacher`], `Source`, `nn.Module`, `str` or path):
            Give the objective the same one, or [`CachedTeacher`] where no model is wanted in training. Of several
            teachers the mean of their logits is stored, in the order of the classes of the first.
        dataset (`datasets.Dataset`):
            With a column `image`, `text` (and `text_pair`), `tokens` or `audio`, or with the model's inputs, as
            [`prepare`] or a tokenizer makes them. Padding that rows bring along is taken off.
        processor (`BaseImageProcessor`, `PreTrainedTokenizerBase`, `FeatureExtractionMixin`, *optional*):
            The teacher's own, for raw columns. It may differ from the student's, which reads the same rows later.
        store (`str`, *optional*, defaults to `"float32"`):
            `"float32"` is exact. `"float16"` halves the space; see [`half_precision_bound`] for what the loss may
            differ by. `"top_k"` keeps the `k` largest logits and the log-sum-exp of the others; see [`top_k_bound`].
        k (`int`, *optional*):
            Logits kept of each row, with `store="top_k"`.
        features (`bool`, *optional*, defaults to `False`):
            Store the input of the teacher's head too, for objectives that read it.
        hidden_states (`Sequence[str | int]`, *optional*):
            Modules of the teacher whose outputs to store too, by name, or blocks by number. They are large: a row of
            text takes its tokens times the width.
        batch_size (`int`, *optional*, defaults to 32):
            Rows per forward.
        max_length (`int`, *optional*):
            Longest text in tokens, for raw text, as in [`prepare`].
        data_collator (`Callable`, *optional*):
            Makes a batch of a list of rows, in place of the padding here.
        num_workers (`int`, *optional*):
            Threads that decode and process rows while the model runs; by default as in [`extract_features`].
        cache_dir (`str` or `PathLike`, *optional*):
            Where entries lie; `hf_transfer/features` under the Hugging Face home by default. Several machines must
            share it.
        overwrite (`bool`, *optional*, defaults to `False`):
            Compute everything again.
        progress (`bool`, *optional*, defaults to `True`):
            Show rows per second, on the main process.

    Shape:
        - returns the data set, memory-mapped as before, with the same format or transform, and with
        - `teacher_logits`: `C` numbers a row; or `teacher_top_values` and `teacher_top_indices` (`k` each),
          `teacher_log_rest` and `teacher_classes`.
        - `teacher_features`: `D` numbers; `teacher_hidden.<module>`: as the module returns them for one row.
        - Of a token classifier, and of hidden states of text, there is one for each token without padding:
          `TeacherCollator` pads them, beside `teacher_tokens`, a checksum of the tokens that were read.

    Exactness:
        The teacher runs by the very call that an objective makes, without autocast. Kernels for matrices round
        differently for other shapes, and with several threads for other places in the batch. On a CPU with one thread
        a row's logits are the same to the last bit where the batch has the same shape: with `batch_size` that of the
        training, and rows of one length (images; text that was padded to one length). The other rows and their order
        do not matter then; the last batch of a shard is filled up. The student is the same bit for bit as with the
        teacher online, but for what a last batch of training of another size rounds otherwise. In any other case
        (several threads, other shapes, text padded batch by batch) the numbers are equal to rounding: up to 5e-7 of
        the largest logit was measured on a CPU.

    Deviations:
        Where a model lets padding or other rows leak into a row (checked on the first rows), batches hold rows of
        equal length, or one row.

    Raises:
        TypeError: if the data set is streamed or no `datasets.Dataset`.
        ValueError: if an argument is out of range; if `store="top_k"` is asked for a teacher whose outputs are no
            distribution over classes; if the data set is empty, fits neither model nor processor, or has such columns
            already; if its transform or collator is random: the answers to one draw would pass for those to all.
        RuntimeError: if another rank failed, or ranks were given different data.
        ImportError: if `datasets` is not installed.

    Relations:
        [`extract_features`] stores what a frozen backbone makes of the rows. `python -m hf_transfer cache list` shows
        both.

    Example:
        >>> import tempfile
        >>> from datasets import Dataset
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> teacher = BertForSequenceClassification(config)
        >>> data = Dataset.from_dict({"input_ids": [[1, 2, 3], [4, 5]], "labels": [0, 1]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data = cache_teacher(teacher, data, cache_dir=folder, progress=False)
        ...     print(data.column_names, len(data[0]["teacher_logits"]))
        ['input_ids', 'labels', 'teacher_logits'] 2
    """
    if batch_size < 1 or (num_workers or 0) < 0:
        raise ValueError(
            f"batch_size={batch_size} and num_workers={num_workers} were given: no row would be computed. Give at "
            "least 1 row and 0 threads."
        )
    asked = Teacher.of(teacher)
    check_store(asked, store, k, more=features or bool(hidden_states))
    first = asked.members[0].source
    rows, own_inputs = teacher_source(first.model, dataset, processor, max_length, data_collator)
    check_free(dataset)
    ranks = Ranks()
    reader = TeacherReader(
        asked,
        _device(asked.members[0]),
        own_inputs=own_inputs,
        k=k if store == "top_k" else None,
        features=features,
        hidden_states=module_names(first, hidden_states),
    )
    entry = _entry(reader, rows, store, batch_size, cache_dir)
    ranks.require_same(entry.key)
    if overwrite and ranks.is_main:
        for files in shard_files(entry.folder).values():
            for file in files:
                file.unlink(missing_ok=True)
    missing = ranks.from_main(lambda: entry.missing())
    if missing:
        with ranks.failing_together(), random_numbers_put_back():
            workers = threads_for(first.model, rows) if num_workers is None else num_workers
            dtype = "float16" if store == "float16" else "float32"
            bar = progress and ranks.is_main
            _compute(reader, rows, entry, ranks.share(missing), dtype, batch_size=batch_size, workers=workers, bar=bar)
        for member in asked.members:
            member.source.leave_device()
    return beside(dataset, entry.dataset())


def _several(teacher: Teacher) -> Any:
    """How the predictions of several are combined, and by which names of classes."""
    if not isinstance(teacher, SeveralTeachers):
        return None
    return [teacher.combine, plain(teacher.weights), [member.class_names for member in teacher.members]]


def _per_token(model: nn.Module) -> bool:
    """Whether a model predicts something for each token."""
    return type(pretrained(model)).__name__.endswith("ForTokenClassification")


def _device(teacher: Teacher) -> torch.device:
    """Where the teacher runs: where it was put, or if it was loaded here, on this process's accelerator."""
    if teacher.device is not None:
        return teacher.device
    model = teacher.source
    parameter = next(model.model.parameters())
    if not model.name or parameter.device.type != "cpu" or not torch.accelerator.is_available():
        return parameter.device
    kind = torch.accelerator.current_accelerator()
    assert kind is not None
    # a run of a comparison sees no other process, and keeps the device that was picked for it
    own = os.environ.get("LOCAL_RANK") or torch.accelerator.current_device_index()
    return torch.device(kind.type, int(own))


def _entry(reader: TeacherReader, rows: Source, store: str, batch_size: int, cache_dir: Any) -> Entry:
    models = [member.source.model for member in reader.teacher.members]
    # a transform of the user's counts with the data; the package's own by its processor
    data = rows.dataset if rows.processor is None else rows.dataset.with_format(None)
    head = reader.teacher.members[0].anatomy.head
    taps = [] if reader.source.found[1] else [[LOGITS, head, store if reader.k is None else f"{store} {reader.k}"]]
    taps += [[FEATURES, head, store]] if reader.features else []
    taps += [[f"{HIDDEN}{name}", name, store] for name in reader.hidden_states]
    description = {
        "kind": "teacher",
        "model": ", ".join(type(pretrained(model)).__name__ for model in models),
        "weights": [weights_digest(model) for model in models],
        "several": _several(reader.teacher),
        # a fused kernel and a plain one round differently
        "attention": [str(getattr(pretrained(model).config, "_attn_implementation", "")) for model in models],
        "processor": processor_digest(rows.processor),
        "translation": [plain(member._inputs.images) for member in reader.teacher.members],
        "data": data_digest(data, rows.columns),
        "max_length": rows.max_length,
        "taps": taps,
        "dtype": "float16" if store == "float16" else "float32",
        # the last bits depend on it
        "batch_size": batch_size,
        "collator": None if rows.collator is None else object_digest(rows.collator),
    }
    large = _per_token(models[0]) or bool(reader.hidden_states)
    return Entry.open(description, rows=len(rows), shard_rows=shard_rows_for(rows, tokens=large), cache_dir=cache_dir)


def _compute(
    reader: TeacherReader,
    rows: Source,
    entry: Entry,
    shards: Sequence[int],
    dtype: str,
    *,
    batch_size: int,
    workers: int,
    bar: bool,
) -> None:
    """Fill these shards of the entry, one after the other."""
    if rows.collator is not None or rows.own_transform:
        refuse_random_inputs(rows, drawn=False, remedy=REMEDY)
    if not shards:
        return
    ranges = entry.ranges()

    def write(shard: int, window: Any, gathered: TeacherRows) -> None:
        entry.write(shard, *gathered.finish(window))

    fill(
        rows,
        ranges,
        shards,
        start=lambda numbers: TeacherRows(numbers, dtype),
        add=lambda gathered, batch: gathered.add(batch.positions, reader.read(batch.inputs, batch.mask)),
        write=write,
        grouping=grouping_for(reader.source.model, reader, rows, ranges[shards[0]]),  # pyright: ignore
        batch_size=batch_size,
        workers=workers,
        bar=bar,
        title="Asking the teacher",
        even=True,
    )
