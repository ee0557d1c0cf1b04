"""What gradient surgery refuses before anything is trained."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from hf_transfer.objectives.multitask import surgery_checks as checks
from hf_transfer.objectives.multitask.surgery import GradientSurgery
from tests.test_trainer import arguments


PARAMETERS, REPRESENTATION = GradientSurgery("nash"), GradientSurgery("nash", on="representation")


def checkpointing(options):
    mirrored = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": options}
    return SimpleNamespace(gradient_accumulation_steps=1, **mirrored)


def test_ordinary_arguments_pass(tmp_path):
    for surgery in (PARAMETERS, REPRESENTATION):
        surgery.check_arguments(arguments(tmp_path))
    PARAMETERS.check_arguments(arguments(tmp_path, gradient_accumulation_steps=4))
    PARAMETERS.check_arguments(checkpointing(None))
    PARAMETERS.check_arguments(checkpointing({"use_reentrant": False}))


def test_accumulation(tmp_path):
    args = arguments(tmp_path, gradient_accumulation_steps=4)
    with pytest.raises(ValueError, match="representation under gradient accumulation.*which is exact"):
        REPRESENTATION.check_arguments(args)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"fsdp": "full_shard"}, "on parameters under FSDP.*Use DDP"),
        ({"deepspeed": {"zero_optimization": {"stage": 2}}}, "on parameters under DeepSpeed.*Use DDP"),
        ({"torch_compile": True}, "`torch_compile`: a compiled backward runs once.*uncompiled"),
        (
            {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
            "with `use_reentrant=True`.*leave it out",
        ),
    ],
)
def test_what_leaves_no_whole_gradients_of_tasks(options, what):
    args = SimpleNamespace(**{"gradient_accumulation_steps": 1, **options})
    with pytest.raises(ValueError, match=what):
        PARAMETERS.check_arguments(args)
    REPRESENTATION.check_arguments(args)


def test_sharded_parameters():
    checks.check_parameters([torch.zeros(1)])
    for mark, what in (("device_mesh", "FSDP"), ("ds_id", "DeepSpeed")):
        parameter = torch.zeros(1)
        setattr(parameter, mark, 0)
        with pytest.raises(ValueError, match=f"under {what}: each rank holds"):
            checks.check_parameters([torch.zeros(1), parameter])
    flattened = torch.zeros(1)
    flattened._is_flat_param = True
    with pytest.raises(ValueError, match="under FSDP"):
        checks.check_parameters([flattened])


def test_rows_of_one_task_each():
    checks.check_rows(True, "pcgrad")
    with pytest.raises(ValueError, match="`pcgrad` on the rep.*but no row.*never change anything.*Use `on="):
        checks.check_rows(False, "pcgrad")
    with pytest.raises(ValueError, match="would see lengths only"):
        checks.check_rows(False, "nash")


def test_other_errors_of_a_backward_pass_through():
    with pytest.raises(RuntimeError, match="another"), checks.backward_explained():
        raise RuntimeError("another")
    with pytest.raises(ValueError, match="runs once"), checks.backward_explained():
        raise RuntimeError("compiled with non-empty donated buffers")
    with pytest.raises(ValueError, match="leave it out"), checks.backward_explained():
        raise RuntimeError("When use_reentrant=True, torch.utils.checkpoint is incompatible with .grad()")
