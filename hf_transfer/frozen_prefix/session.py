"""`FrozenPrefix`: the cache in effect on one model during one run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from typing import Any

import torch
import transformers
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import send_to_device
from torch import nn
from transformers.utils import logging

from hf_transfer.frozen_prefix.agreement import agreement, of_rank_zero
from hf_transfer.frozen_prefix.extent import Prefix, Unsuitable
from hf_transfer.frozen_prefix.facts import Facts
from hf_transfer.frozen_prefix.filling import fill
from hf_transfer.frozen_prefix.proof import (
    Trial,
    compare,
    inputs_of,
    logits_of,
    proof_rows,
    refuse_layer_drop,
    with_seed,
)
from hf_transfer.frozen_prefix.recording import Recording, record
from hf_transfer.frozen_prefix.rows import ROW, NumberedRows, read_rows, row_numbers
from hf_transfer.frozen_prefix.skipping import Skipping
from hf_transfer.frozen_prefix.table import Layout, Table
from hf_transfer.modes import modes_put_back


__all__ = ["FrozenPrefix", "release"]

logger = logging.get_logger(__name__)


class FrozenPrefix:
    """
    Stores what the frozen prefix of a model computes, and lets training steps begin above it.

    It is itself a forward pre-hook of the model: in training mode it takes the row numbers out of the batch, reads the
    hidden states of these rows and hands them to the last frozen block, whose forward and that of the blocks below do
    not run. In evaluation mode, or without row numbers, the model is as it was.

    Args:
        model (`nn.Module`): the model as trained, not its DDP wrapper.
        rows (`NumberedRows`): the training set.
        collate (`Callable`): its collator, with which rows are read once more where it must be.
        max_gb (`float`): most that one table may take on disk, in GB (1e9 bytes).
        cache_dir (`str`, *optional*): where tables lie.
        batch_size (`int`): rows per forward of the frozen part.
        num_workers (`int`): processes that read rows.
        progress (`bool`): whether to show a bar.
        ignored (`Iterable[str]`): columns that the hidden states do not depend on, besides labels.
        keep_inputs (`bool`): whether inputs are read even where nothing of the model needs them.
        read_states (`Iterable[str]`): names of modules whose outputs an objective reads.
    """

    def __init__(
        self,
        model: nn.Module,
        rows: NumberedRows,
        collate: Callable[[list[Any]], Any],
        *,
        max_gb: float = 10.0,
        cache_dir: str | None = None,
        batch_size: int = 32,
        num_workers: int = 0,
        progress: bool = True,
        ignored: Iterable[str] = (),
        keep_inputs: bool = False,
        read_states: Iterable[str] = (),
    ):
        self.model = model
        self.rows = rows
        self.collate = collate
        self.max_gb = max_gb
        self.cache_dir = cache_dir
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.progress = progress
        self.ignored = {"label", "labels", "label_ids", *ignored}
        self.keep_inputs = keep_inputs
        self.read_states = set(read_states)
        self.table: Table | None = None
        self.skipping: Skipping | None = None
        self._facts: Facts | None = None
        self._resting: list[nn.Module] = []
        self._hooks = [
            # before those of `attach`, which must not see the column of row numbers
            model.register_forward_pre_hook(self, with_kwargs=True, prepend=True),
            model.register_forward_hook(self._after),
        ]
        rows.number()

    # -- phases

    def enter(self, prefix: Prefix | None, *, epochs: float) -> None:
        """
        Begin a phase: store what its frozen prefix computes, unless it is stored, and skip the prefix from now on.

        Where that is not possible or does not pay off the phase runs as without a cache, and the log says why.

        Args:
            prefix (`Prefix`, *optional*): the frozen blocks, as [`frozen_prefix`] finds them; `None` where the first
                one trains.
            epochs (`float`): passes over the training set during which the prefix stays frozen.
        """
        self.leave()
        if prefix is None:
            logger.info("The first block trains: there is no frozen prefix to cache in this phase.")
            return
        names = (*prefix.embeddings, *prefix.modules)
        # The schedule puts what it rules to evaluation mode; this adds what PEFT froze.
        self._resting = [module for name in names for module in self.model.get_submodule(name).modules()]
        with modes_put_back(self.model):
            try:
                self.model.train()
                self._begin(prefix, epochs)
            except Unsuitable as unsuitable:
                self.leave()
                if PartialState().is_main_process:
                    logger.warning(f"This phase trains without the frozen-prefix cache. {unsuitable}")

    def leave(self) -> None:
        """End a phase: everything runs."""
        self.rows.number()
        if self.skipping is not None:
            self.skipping.take_off()
        for module in self._resting:
            module.training = self.model.training
        self.table = self.skipping = None
        self._resting = []

    def forget(self) -> None:
        """Let go of the hidden state of the last forward, whose backward is over."""
        if self.skipping is not None:
            self.skipping.give(None)

    def release(self) -> None:
        """Leave model and training set as they were found."""
        self.leave()
        self.rows.stop()
        for hook in self._hooks:
            hook.remove()

    def _begin(self, prefix: Prefix, epochs: float) -> None:
        """
        Store and skip.

        Raises:
            Unsuitable: on all ranks, if one of them cannot.
        """
        state = PartialState()
        with agreement():
            facts = self._facts = self._facts or Facts(self.rows.dataset, self.collate, self.rows.name, self.ignored)
            looks = proof_rows(facts.rows, facts.lengths)
            first = self._trial(prefix, looks[0])
            if below := first.recording.before:
                # Between the parts of the prefix, where no schedule rules: it follows the model into training mode.
                self._resting += below
                if any("Drop" in type(module).__name__ for module in below):
                    logger.info("Dropout below the last frozen block is off in this phase, as in the frozen blocks.")
                first = self._trial(prefix, looks[0])
            trials = [first, *(self._trial(prefix, rows) for rows in looks[1:])]
            self._refuse_read_states(first.recording)
            layout = Layout.of(first.recording.hidden, first.mask, rows=facts.rows, lengths=facts.lengths)
            identity = facts.identity
        # A collator of the user's own may have another checksum in another process.
        identity = of_rank_zero(identity)
        with agreement():
            table = self._open(prefix, first.recording, layout, identity)
        missing = table.entry.missing()
        state.wait_for_everyone()  # all have looked before the first writes
        with agreement():
            self._announce(table, prefix, missing, epochs)
        for shards in (missing[state.process_index :: state.num_processes], None):
            with agreement():
                # In the second round hosts without a common disk complete the table each for itself.
                shards = table.entry.missing() if shards is None and state.num_processes > 1 else shards or []
                self._fill(table, first.recording, shards)
        with agreement():
            table.open()
            self.table, self.skipping = table, Skipping(self.model, first.recording)
            self.skipping.put_on()
            for trial in trials:
                self._prove(trial)
        self.rows.plain = None if self.keep_inputs or not facts.fixed else facts.undecoded()
        self.rows.number(unread=True)

    def _refuse_read_states(self, recording: Recording) -> None:
        for state in sorted(self.read_states):
            inside = [name for name in recording.stand_ins if f"{state}.".startswith(f"{name}.")]
            if inside and state != recording.boundary:
                raise Unsuitable(
                    f"An objective reads what `{state}` returns - it does not run while its block is skipped - let "
                    f"the objective read `{recording.boundary}` or a block above it."
                )

    def _trial(self, prefix: Prefix, rows: list[int]) -> Trial:
        """A batch through the whole model."""
        assert self._facts is not None
        batch = self.collate(read_rows(self.rows.dataset, rows))
        inputs = inputs_of(send_to_device(dict(batch), next(self.model.parameters()).device))
        outputs: list[Any] = []
        recording = record(
            self.model,
            lambda: outputs.append(with_seed(self.model, lambda: self.model(**inputs))),
            prefix,
            rows=len(rows),
            stem=self._facts.fixed,
        )
        refuse_layer_drop(self.model, recording.boundary)
        return Trial(rows, inputs, recording, logits_of(outputs[0]).detach())

    def _prove(self, trial: Trial) -> None:
        """The same batch with its blocks skipped."""
        assert self.table is not None and self.skipping is not None
        stored = self.table.take(trial.rows, trial.mask).to(trial.logits.device)
        compare(stored, trial.recording.hidden, trial.mask, "Stored hidden states")
        numbers = torch.tensor(trial.rows, device=trial.logits.device)
        try:
            with torch.no_grad():
                output = with_seed(self.model, lambda: self.model(**trial.inputs, **{ROW: numbers}))
        except Exception as error:  # whatever the code above the skipped blocks makes of what they return
            raise Unsuitable(
                f"The model fails when its frozen blocks are skipped ({type(error).__name__}: {error}) - it reads "
                "more from them than a hidden state - train without `cache_frozen_prefix`."
            ) from error
        compare(logits_of(output), trial.logits, trial.mask, "Logits above the stored hidden states")
        self.skipping.give(None)

    def _open(self, prefix: Prefix, recording: Recording, layout: Layout, identity: Any) -> Table:
        from hf_transfer.features.cache import Entry
        from hf_transfer.features.cache.digests import weights_digest

        assert self._facts is not None
        if layout.bytes > self.max_gb * 1e9:
            raise Unsuitable(
                f"The hidden states of {layout.rows} rows take {layout.bytes / 1e9:.3g} GB - `frozen_prefix_max_gb` "
                f"allows {self.max_gb:g} - raise it, shorten the rows, or train without `cache_frozen_prefix`."
            )
        description = {
            "kind": "frozen_prefix",
            "model": type(self.model).__name__,
            "weights": weights_digest(self.model, only=prefix.everything),
            **identity,
            "blocks": prefix.blocks,
            "block": recording.boundary,
            **layout.describe(),
            "precision": AcceleratorState().mixed_precision if AcceleratorState._shared_state else "no",
            "transformers": transformers.__version__,
        }
        entry = Entry.open(description, rows=layout.rows, shard_rows=layout.shard_rows, cache_dir=self.cache_dir)
        return Table(entry, layout)

    def _announce(self, table: Table, prefix: Prefix, missing: list[int], epochs: float) -> None:
        layout, entry = table.layout, table.entry
        what = f"{layout.rows} rows x {layout.mean_values:.4g} values x {layout.dtype.itemsize} bytes"
        if not missing:
            logger.info(f"The output of {prefix.blocks} frozen blocks is in {entry.folder} ({what}).")
            return
        if epochs <= 1:
            raise Unsuitable(
                f"The prefix stays frozen for {epochs:.2g} epochs - to store what it computes takes as long as one - "
                "nothing needs to be changed."
            )
        need = layout.bytes * len(missing) // len(entry.ranges())
        free = shutil.disk_usage(entry.folder).free
        logger.info(
            f"Storing the output of {prefix.blocks} frozen blocks takes {need / 1e9:.3g} GB in {entry.folder} "
            f"({what})."
        )
        if need > free:
            raise Unsuitable(
                f"{entry.folder} has {free / 1e9:.3g} GB free - the hidden states take {need / 1e9:.3g} GB - give a "
                "`frozen_prefix_cache_dir` on a larger disk, or `python -m hf_transfer cache prune`."
            )

    def _fill(self, table: Table, recording: Recording, shards: list[int]) -> None:
        try:
            fill(
                table,
                self.model,
                recording,
                self.rows.dataset,
                self.collate,
                shards,
                batch_size=self.batch_size,
                num_workers=self.num_workers,
                progress=self.progress and PartialState().is_main_process,
            )
        except OSError as error:
            raise Unsuitable(f"The hidden states could not be written: {error}") from error

    # -- forwards

    def __call__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Give the forward that begins its hidden state; see the class."""
        self.forget()
        if model.training:
            for module in self._resting:
                module.training = False
        if ROW not in kwargs:
            return None
        kwargs = dict(kwargs)
        column = kwargs.pop(ROW)
        rows, unread = row_numbers(column)
        if self.skipping is None or self.table is None or not model.training:
            return args, {**kwargs, **self._read(rows, column.device)} if unread else kwargs
        self.skipping.give(self.table.take(rows, kwargs.get("attention_mask")).to(column.device))
        if unread:
            assert self._facts is not None
            # Not a number: whatever came to read it would show.
            blank = torch.full((1,) * (1 + len(self._facts.shape)), torch.nan, device=column.device)
            kwargs[self.rows.name] = blank.expand(len(rows), *self._facts.shape)
        return args, kwargs

    def _read(self, rows: list[int], device: torch.device) -> dict[str, Any]:
        """The input of rows that came without it, because the phase changed after they were fetched."""
        batch = self.collate(read_rows(self.rows.dataset, rows))
        return {self.rows.name: batch[self.rows.name].to(device)}

    def _after(self, model: nn.Module, args: Any, output: Any) -> None:
        # What was given stays until the backward is over: activation checkpointing may run blocks again.
        if self.skipping is not None and self.skipping.hidden is not None and not self.skipping.used:
            raise RuntimeError(
                "The forward did not run the last frozen block, so that the stored hidden states had no part in it - "
                "what was computed is wrong (layer drop leaves blocks out at random) - set its probability to 0 in "
                "the model's configuration, or train without `cache_frozen_prefix`."
            )


def release(model: nn.Module) -> None:
    """Undo what an interrupted run left on `model`; without one, do nothing."""
    for hook in list(model._forward_pre_hooks.values()):
        if isinstance(hook, FrozenPrefix):
            hook.release()
