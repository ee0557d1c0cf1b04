from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from transformers import TrainerState
from transformers.training_args import ParallelMode

from hf_transfer.callbacks.refusals import (
    is_checkpointed,
    refuse_compiled,
    refuse_partitioned,
    refuse_unrepeatable,
    saved_state,
)
from tests.callbacks.harness import arguments, seeded
from tests.models import tiny_bert


def stand_in(**options) -> SimpleNamespace:
    """Arguments of launches that this machine cannot make."""
    defaults = {"deepspeed": None, "fsdp": None, "parallel_mode": ParallelMode.NOT_PARALLEL, "n_gpu": 0}
    return SimpleNamespace(**{**defaults, **options})


def test_plain_training_is_fine(tmp_path):
    for fsdp2 in (True, False):
        refuse_partitioned(arguments(tmp_path), tiny_bert(), "X", fsdp2=fsdp2)
    refuse_compiled(arguments(tmp_path), tiny_bert(), "X")
    refuse_unrepeatable(tiny_bert(), "X")


def test_compile_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"X with torch.compile .* set torch_compile=False"):
        refuse_compiled(arguments(tmp_path, torch_compile=True), tiny_bert(), "X")
    with pytest.raises(ValueError, match=r"X with torch.compile"):
        refuse_compiled(arguments(tmp_path), torch.compile(nn.Linear(1, 1), backend="eager"), "X")


@pytest.mark.parametrize("fsdp2", [True, False])
def test_deepspeed_is_refused(fsdp2, monkeypatch):
    with pytest.raises(ValueError, match=r"X under DeepSpeed .* use DDP"):
        refuse_partitioned(stand_in(deepspeed={"stage": 3}), tiny_bert(), "X", fsdp2=fsdp2)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ValueError, match=r"X under DeepSpeed"):
        refuse_partitioned(stand_in(), tiny_bert(), "X", fsdp2=fsdp2)


def test_fsdp_is_refused_by_who_cannot_follow_it(monkeypatch):
    refuse_partitioned(stand_in(fsdp=True), tiny_bert(), "X", fsdp2=True)
    with pytest.raises(ValueError, match=r"X under FSDP - each rank holds a shard .* use DDP: leave `fsdp` out"):
        refuse_partitioned(stand_in(fsdp=True), tiny_bert(), "X", fsdp2=False)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match=r"X under FSDP"):
        refuse_partitioned(stand_in(), tiny_bert(), "X", fsdp2=False)


def test_fsdp1_is_refused_with_the_version_to_take():
    sharded = FullyShardedDataParallel.__new__(FullyShardedDataParallel)
    nn.Module.__init__(sharded)
    with pytest.raises(ValueError, match=r"X under FSDP1 .*FSDP2 .*version"):
        refuse_partitioned(stand_in(), sharded, "X", fsdp2=True)


def test_data_parallel_is_refused():
    args = stand_in(parallel_mode=ParallelMode.NOT_DISTRIBUTED, n_gpu=2)
    with pytest.raises(ValueError, match=r"X with `nn.DataParallel` on 2 devices .* `torchrun`"):
        refuse_partitioned(args, tiny_bert(), "X", fsdp2=True)


def test_checkpointing_that_draws_anew_is_refused():
    model = seeded()
    assert not is_checkpointed(model)
    model.gradient_checkpointing_enable({"use_reentrant": False}) if not hasattr(
        model, "activation_checkpointing_enable"
    ) else model.activation_checkpointing_enable({"use_reentrant": False})
    assert is_checkpointed(model)
    refuse_unrepeatable(model, "X")
    for module in model.modules():
        if hasattr(module, "_gradient_checkpointing_func"):
            module._gradient_checkpointing_func.keywords["preserve_rng_state"] = False
    with pytest.raises(ValueError, match=r"preserve_rng_state=False .* leave it out"):
        refuse_unrepeatable(model, "X")


class Counter:
    pass


def test_what_a_checkpoint_holds_is_found_by_class_also_in_a_list():
    entry = {"args": {}, "attributes": {"seen": 3}}
    for stored in (entry, [entry]):
        state = TrainerState(global_step=4, stateful_callbacks={"Counter": stored})
        assert saved_state(state, Counter(), what="unknown") == {"seen": 3}


def test_a_checkpoint_without_the_callback_is_refused():
    state = TrainerState(global_step=4, stateful_callbacks={"Other": {}})
    with pytest.raises(ValueError, match=r"checkpoint of step 4 was written without Counter - it is lost - resume it"):
        saved_state(state, Counter(), what="it is lost")
