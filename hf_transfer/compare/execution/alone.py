"""This process by itself, among several that were started together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import cached_property
from typing import Any

import torch
from torch import distributed


_PREFIXES = ("GROUP_", "MV2_COMM_WORLD_", "OMPI_COMM_WORLD_", "PMI_", "ROLE_", "TORCHELASTIC_")
_NAMES = {
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
}
_SHARDED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
}
_PATIENCE = timedelta(days=365)
"""How long a rank waits for the others: they may still train. One that died is noticed by its closed connection."""

_alone = False
_meeting: tuple[Any, Any] | None = None

__all__ = ["alone", "is_alone", "meeting", "position"]


@contextmanager
def alone() -> Iterator[None]:
    """
    This process by itself: within, Accelerate, the Trainer and this package see one process, and wait for no other.

    Set aside are the variables by which launchers tell a process of the others, the default process group of
    `torch.distributed`, and the shared states of Accelerate, also as objects made before see them. All are put back
    afterwards, whatever was raised. The process keeps its own accelerator, and there is no `DataParallel` over those
    of the others. Every process is the first within: what only one should do (show progress, push) is up to the
    caller. Without other processes nothing happens, nor within another `alone`.

    Raises:
        ValueError: if the processes were launched to hold one model in pieces (FSDP, DeepSpeed and the like).

    Relations:
        [`together`] does a part alone and gathers the results. [`gather`] and [`share`] are refused within.

    Example:
        >>> with alone():
        ...     position()
        (0, 1)
    """
    if _alone or not _launched():
        yield
        return
    _refuse_pieces()
    position()  # starts the process group and picks the device, if nothing has yet
    meeting()
    with ExitStack() as aside:
        device = aside.enter_context(_states_aside())
        aside.enter_context(_variables_aside())
        aside.enter_context(_group_aside())
        _one_process(device)
        aside.enter_context(_own_device(device))
        yield


def is_alone() -> bool:
    """Whether this is within [`alone`], among several processes."""
    return _alone


def position() -> tuple[int, int]:
    """
    The number of this process, counted from 0, and how many there are.

    Example:
        >>> position()
        (0, 1)
    """
    if _alone or not _launched():
        return 0, 1
    if not distributed.is_initialized():
        _state()
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def meeting() -> Any:
    """
    A process group of all that waits for the slowest, made once; the default one gives up after 10 or 30 minutes.

    Returns:
        `ProcessGroup`, or None without other processes or within [`alone`].
    """
    global _meeting
    world = distributed.group.WORLD if distributed.is_available() else None
    if world is None:
        return None
    if _meeting is None or _meeting[0] is not world:
        gloo = distributed.is_gloo_available()
        _meeting = (world, distributed.new_group(backend="gloo", timeout=_PATIENCE) if gloo else world)
    return _meeting[1]


def _launched() -> bool:
    """Whether a launcher, or the user's own code, made this process one of a group."""
    started = distributed.is_available() and distributed.is_initialized()
    return started or int(os.environ.get("WORLD_SIZE", "1")) > 1


def _refuse_pieces() -> None:
    found = [word for name, word in _SHARDED.items() if os.environ.get(name, "false").lower() == "true"]
    if found:
        raise ValueError(
            f"The processes were launched with {found[0]}, which holds one model in pieces: a comparison trains whole "
            "models, each on one process. Launch it with `accelerate launch --multi_gpu`, or on one process."
        )


@contextmanager
def _variables_aside() -> Iterator[None]:
    def held() -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name in _NAMES or name.startswith(_PREFIXES)}

    before = held()
    for name in before:
        del os.environ[name]
    try:
        yield
    finally:
        for name in held():  # some that Accelerate set within
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _group_aside() -> Iterator[None]:
    # Asked for everywhere: by DataLoaders and SyncBatchNorm of torch 2.13, by PEFT 0.21, by transformers 5.23 and
    # here. `WORLD` is what `torch.distributed.is_initialized` looks at; the connections stay open.
    global _alone
    member: Any = distributed.GroupMember
    world, member.WORLD = member.WORLD, None
    _alone = True
    try:
        yield
    finally:
        _alone = False
        member.WORLD = world


@contextmanager
def _states_aside() -> Iterator[torch.device]:
    """Yields the device of this process."""
    # The dictionaries are emptied and filled, not replaced: each is the `__dict__` of all objects made of it, such as
    # the state that arguments of a Trainer hold.
    before = [dict(state) for state in _states()]
    try:
        device = _state().device
        if device.type != "cpu" and device.index is None:
            device = torch.device(device.type, getattr(torch, device.type).current_device())
        yield device
    finally:
        for state, content in zip(_states(), before, strict=True):
            state.clear()
            state.update(content)


def _state() -> Any:
    """Accelerate's state of the process, which starts the process group if nothing has yet."""
    from accelerate import PartialState

    # without an accelerator it would be one process of one, unless told so
    return PartialState(cpu=not torch.accelerator.is_available())


def _states() -> list[dict[str, Any]]:
    from accelerate.state import AcceleratorState, GradientState, PartialState

    return [PartialState._shared_state, AcceleratorState._shared_state, GradientState._shared_state]


def _one_process(device: torch.device) -> None:
    """Accelerate's state of a process without others, at once: arguments made before look at it."""
    from accelerate import PartialState

    for state in _states():
        state.clear()
    PartialState(cpu=device.type == "cpu")


@contextmanager
def _own_device(device: torch.device) -> Iterator[None]:
    """One process alone would take the first accelerator, and all others besides."""
    if device.type == "cpu":
        yield
        return
    from transformers import TrainingArguments

    kind = getattr(torch, device.type)
    usual = vars(TrainingArguments)["_setup_devices"]

    def setup(args: TrainingArguments) -> torch.device:
        # the first device must not even be touched: every rank would leave some hundred megabytes on it
        set_device, kind.set_device = kind.set_device, lambda *_: None
        try:
            found = usual.func(args)
        finally:
            kind.set_device = set_device
        if found.type != device.type:  # `use_cpu=True`
            return found
        args._n_gpu = 1
        set_device(device)
        return device

    own = cached_property(setup)
    own.__set_name__(TrainingArguments, "_setup_devices")
    # transformers 5.23: a device of one's own cannot be passed to it
    TrainingArguments._setup_devices = own  # pyright: ignore[reportAttributeAccessIssue]
    try:
        kind.set_device(device)
        yield
    finally:
        TrainingArguments._setup_devices = usual
        kind.set_device(device)
