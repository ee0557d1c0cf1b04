"""A process alone in its group: what is set aside and put back, and which accelerator it keeps."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState, GradientState
from torch import distributed
from transformers import TrainingArguments

from hf_transfer.compare.execution.alone import alone, is_alone, meeting, position
from hf_transfer.compare.execution.ranks import gather, share


@pytest.fixture
def states():
    """Accelerate's shared states, put back."""
    shared = [state._shared_state for state in (PartialState, AcceleratorState, GradientState)]
    before = [dict(state) for state in shared]
    yield shared
    for state, content in zip(shared, before, strict=True):
        state.clear()
        state.update(content)


@pytest.fixture
def group(states, monkeypatch):
    """A process group of this process only, as `torchrun --nproc_per_node 1` makes it."""
    for state in states:
        state.clear()
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    store = distributed.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        yield distributed.group.WORLD
    finally:
        distributed.destroy_process_group()


def test_without_a_launcher_nothing_is_touched(states):
    before = [dict(state) for state in states], dict(os.environ)
    with alone():
        assert ([dict(state) for state in states], dict(os.environ)) == before


# --- a process group


def test_a_group_is_set_aside_and_put_back(group, states):
    state = PartialState(cpu=True)
    GradientState()
    variables, contents = dict(os.environ), [dict(one) for one in states]
    assert state.distributed_type.value == "MULTI_CPU"
    for fails in (False, True):
        try:
            with alone():
                assert not distributed.is_initialized() and "LOCAL_RANK" not in os.environ
                assert state.distributed_type.value == "NO"  # also as older objects see it
                GradientState()._set_sync_gradients(False)
                os.environ["MASTER_PORT"] = "1"
                if fails:
                    raise ValueError
        except ValueError:
            assert fails
        assert distributed.group.WORLD is group and dict(os.environ) == variables
        assert [dict(one) for one in states] == contents and GradientState().sync_gradients


def test_a_state_that_was_not_there_is_not_left(group, states):
    assert position() == (0, 1) and not is_alone()
    with alone():
        assert PartialState._shared_state and is_alone() and meeting() is None
    assert [dict(one) for one in states] == [{}, {}, {}]


def test_the_slowest_is_waited_for(group):
    patient = meeting()
    assert patient is meeting() is not group
    waits = patient._get_backend(torch.device("cpu")).options._timeout
    assert waits > timedelta(days=30) > group._get_backend(torch.device("cpu")).options._timeout


@pytest.mark.parametrize("launcher", ["FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"])
def test_models_in_pieces_are_refused(group, monkeypatch, launcher):
    monkeypatch.setenv(f"ACCELERATE_USE_{launcher}", "true")
    refused = pytest.raises(
        ValueError, match=r"launched with .*, which holds one model .*`accelerate launch --multi_gpu`"
    )
    with refused, alone():
        pass
    assert distributed.is_initialized()


# --- accelerators


@pytest.fixture
def four_devices(group, states, monkeypatch):
    """Four stand-ins for CUDA devices, of which this process has number 2; returns those that were picked."""
    picked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: picked.append(str(device)))
    monkeypatch.setattr("accelerate.state.check_cuda_p2p_ib_support", lambda: True)
    PartialState(cpu=True)
    PartialState._shared_state.update(device=torch.device("cuda:2"), _cpu=False)
    return picked


def bare(**options) -> TrainingArguments:
    return TrainingArguments(report_to="none", **options)


def test_a_process_keeps_its_own_accelerator(four_devices, tmp_path):
    usual = vars(TrainingArguments)["_setup_devices"]
    with alone():
        args = bare(output_dir=str(tmp_path))
        assert args.device == torch.device("cuda:2") and str(PartialState().device) == "cuda"
        # the Trainer would put a model on several in `DataParallel`
        assert args.n_gpu == 1 and args.world_size == 1 and args.train_batch_size == args.per_device_train_batch_size
        assert args.parallel_mode.value == "not_parallel"
        assert bare(output_dir=str(tmp_path), use_cpu=True).device == torch.device("cpu")
    assert set(four_devices) == {"cuda:2"}  # not even for a moment another
    assert vars(TrainingArguments)["_setup_devices"] is usual
    assert PartialState().device == torch.device("cuda:2")


def test_without_it_a_process_would_take_all(states, four_devices, tmp_path, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name)
    args = bare(output_dir=str(tmp_path))
    assert (args.device, args.n_gpu) == (torch.device("cuda:0"), 4)


def test_the_device_of_code_that_made_its_own_group(four_devices, states, tmp_path):
    PartialState._shared_state.update(device=torch.device("cuda"))
    with alone():
        assert bare(output_dir=str(tmp_path)).device == torch.device("cuda:2")


def test_meeting_within_is_refused(group):
    with alone():
        with pytest.raises(RuntimeError, match=r"within `alone\(\)`, where .*take its own part .*Leave the block"):
            gather([])
        with pytest.raises(RuntimeError, match="Leave the block first"):
            share(["full"])
