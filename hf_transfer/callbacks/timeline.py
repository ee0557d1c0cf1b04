"""When each phase of a schedule begins: pure functions of what the `TrainerState` holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hf_transfer.callbacks.phases import Phase


def entry_steps(phases: Sequence[Phase], *, max_steps: int, steps_per_epoch: int) -> tuple[int | None, ...]:
    """
    The optimizer step at which each phase begins; `None` where a metric decides.

    Raises:
        ValueError: if phases in different units turn out to be in the wrong order.

    Example:
        >>> from hf_transfer.callbacks.phases import parse_phases
        >>> phases = parse_phases([{"train": "head"}, {"epoch": 1, "train": "all"}, {"step": 30, "train": "head"}])
        >>> entry_steps(phases, max_steps=40, steps_per_epoch=10)
        (0, 10, 30)
    """
    scale = {"step": 1, "epoch": steps_per_epoch, "fraction": max_steps}
    entries: list[int | None] = []
    for number, phase in enumerate(phases, start=1):
        # Rounded first: 0.07 * 100 is 7.000000000000001, and its ceiling must still be 7.
        given = [
            math.ceil(round(value * size, 6))
            for unit, size in scale.items()
            if (value := getattr(phase, unit)) is not None
        ]
        entry = None if phase.when is not None else given[0] if given else 0
        if entry is not None and any(earlier is not None and earlier > entry for earlier in entries):
            raise ValueError(
                f"Phase {number} ({phase.entry}) begins at optimizer step {entry}, before the phase ahead of it "
                f"(phases begin at {entries}; {max_steps} steps, {steps_per_epoch} per epoch) - they would overlap - "
                "put the phases in the order in which they begin, or give all entry points in one unit."
            )
        entries.append(entry)
    return tuple(entries)


def current_phase(
    phases: Sequence[Phase], entries: Sequence[int | None], *, step: int, log_history: Sequence[Mapping[str, Any]] = ()
) -> int:
    """
    Index of the phase that optimizer step `step` belongs to: a pure function of what the `TrainerState` holds.

    A phase that waits for a metric begins at the step of the evaluation that satisfies it, counted from the beginning
    of the phase before; a later phase with a fixed entry point does not wait for it.

    Args:
        phases (`Sequence[Phase]`): the phases.
        entries (`Sequence[int | None]`): their entry steps, from [`entry_steps`].
        step (`int`): number of optimizer steps done.
        log_history (`Sequence[Mapping]`, *optional*): `TrainerState.log_history`, which holds the evaluations.

    Example:
        >>> from hf_transfer.callbacks.phases import parse_phases
        >>> phases = parse_phases([{"train": "head"}, {"when": "loss", "train": "all"}])
        >>> history = [{"eval_loss": 1.0, "step": 10}, {"eval_loss": 1.2, "step": 20}]
        >>> [current_phase(phases, (0, None), step=step, log_history=history) for step in (10, 19, 20)]
        [0, 0, 1]
    """
    index = 0
    begun: int | None = 0
    for position, (phase, entry) in enumerate(zip(phases, entries, strict=True)):
        if phase.when is not None:
            metric = phase.when.metric
            # By step, so that an evaluation repeated at one step counts once.
            evaluations = {log["step"]: log[metric] for log in log_history if metric in log and log["step"] <= step}
            entry = None if begun is None else phase.when.reached(evaluations, after=begun)
        begun = entry
        if entry is not None and entry <= step:
            index = position
    return index


def late_phases(phases: Sequence[Phase], entries: Sequence[int | None], max_steps: int) -> list[str]:
    """
    A warning for every phase that this run is too short to reach.

    Example:
        >>> from hf_transfer.callbacks.phases import parse_phases
        >>> phases = parse_phases([{"train": "head"}, {"step": 500, "train": "all"}])
        >>> late_phases(phases, (0, 500), max_steps=20)
        ['Phase 2 (step 500: all) never trains: it would begin at step 500 of 20.']
    """
    messages = []
    for index, (phase, entry) in enumerate(zip(phases, entries, strict=True)):
        where = f"Phase {index + 1} ({phase}) never trains:"
        if entry is not None and entry >= max_steps:
            messages.append(f"{where} it would begin at step {entry} of {max_steps}.")
        elif entry is not None and entry in entries[index + 1 :]:
            messages.append(f"{where} the next one begins at step {entry}, too.")
    return messages
