from __future__ import annotations

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from hf_transfer.callbacks.phases import Phase
from hf_transfer.callbacks.rates import set_phase_rate


def optimizer_with_groups(**options) -> torch.optim.Optimizer:
    head, body = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    return torch.optim.SGD([{"params": [head], "lr": 3e-2}, {"params": [body]}], lr=1e-2, **options)


def step(optimizer, scheduler) -> list[float]:
    optimizer.step()
    scheduler.step()
    return [float(group["lr"]) for group in optimizer.param_groups]


@pytest.mark.parametrize("make", [get_linear_schedule_with_warmup, get_cosine_schedule_with_warmup])
def test_the_scheduler_goes_on_at_the_rate_of_the_phase(make):
    optimizer, plain = optimizer_with_groups(), optimizer_with_groups()
    scheduler, reference = make(optimizer, 3, 10), make(plain, 3, 10)
    for number in range(10):
        if number == 4:
            set_phase_rate(scheduler, Phase(train="all", lr_scale=0.25))
        if number == 7:
            set_phase_rate(scheduler, Phase(train="all"))
        scale = 0.25 if 4 <= number < 7 else 1.0
        # 0.25 is a power of two, so that even the products agree to the last bit.
        assert [group["lr"] for group in optimizer.param_groups] == [scale * lr for lr in reference.get_last_lr()]
        assert scheduler.get_last_lr() == [scale * lr for lr in reference.get_last_lr()]
        step(optimizer, scheduler), step(plain, reference)


def test_an_absolute_rate_replaces_the_default_and_keeps_ratios():
    optimizer = optimizer_with_groups()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    set_phase_rate(scheduler, Phase(train="all", lr=1e-4))
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([3e-4, 1e-4])


def test_it_is_idempotent_and_does_not_depend_on_the_phase_before():
    optimizer = optimizer_with_groups()
    scheduler = get_linear_schedule_with_warmup(optimizer, 0, 10)
    step(optimizer, scheduler)
    set_phase_rate(scheduler, Phase(train="all", lr_scale=0.3))
    once = [group["lr"] for group in optimizer.param_groups]
    for phase in (
        Phase(train="all", lr_scale=0.7),
        Phase(train="all", lr_scale=0.3),
        Phase(train="all", lr_scale=0.3),
    ):
        set_phase_rate(scheduler, phase)
    assert [group["lr"] for group in optimizer.param_groups] == once


def test_state_saved_in_a_scaled_phase_restores_the_rate_of_any_phase():
    optimizer = optimizer_with_groups()
    scheduler = get_linear_schedule_with_warmup(optimizer, 0, 10)
    set_phase_rate(scheduler, Phase(train="all", lr_scale=0.3))
    step(optimizer, scheduler)
    fresh = optimizer_with_groups()
    resumed = get_linear_schedule_with_warmup(fresh, 0, 10)
    fresh.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    for phase in (Phase(train="all", lr_scale=0.3), Phase(train="all", lr_scale=0.7), Phase(train="all")):
        set_phase_rate(scheduler, phase), set_phase_rate(resumed, phase)
        assert [group["lr"] for group in fresh.param_groups] == [group["lr"] for group in optimizer.param_groups]
    assert [group["lr"] for group in fresh.param_groups] == [3e-2 * 0.9, 1e-2 * 0.9]


def test_a_rate_held_in_a_tensor_is_written_in_place():
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.Adam([parameter], lr=torch.tensor(1e-2))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    held = optimizer.param_groups[0]["lr"]
    set_phase_rate(scheduler, Phase(train="all", lr_scale=0.5))
    assert optimizer.param_groups[0]["lr"] is held
    assert held.item() == pytest.approx(5e-3)
