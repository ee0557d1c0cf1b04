from __future__ import annotations

import logging

import pytest
import torch
from transformers import TrainerState, get_linear_schedule_with_warmup

from hf_transfer.anatomy import anatomy
from hf_transfer.callbacks.phases import parse_phases
from hf_transfer.callbacks.run import ScheduledRun
from tests.callbacks.harness import seeded
from tests.models import lora


def run_of(model, phases, entries, **options) -> ScheduledRun:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    scheduler = options.pop("scheduler", get_linear_schedule_with_warmup)(optimizer, 0, 10)
    return ScheduledRun(model, anatomy(model).parts(), parse_phases(phases), entries, optimizer, scheduler, **options)


TWO = [{"train": "head"}, {"step": 4, "name": "blocks", "train": ["head", "block.*"], "lr_scale": 0.5}]


def at(step: int, **options) -> TrainerState:
    return TrainerState(global_step=step, max_steps=10, **options)


def test_the_phase_in_effect_depends_on_the_step_alone():
    model = seeded()
    run = run_of(model, TWO, (0, 4))
    sizes = {}
    for step in (9, 0, 4, 3, 5):
        run.update(at(step))
        trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        rate = run.optimizer.param_groups[0]["lr"]
        assert sizes.setdefault(step >= 4, (trains, rate)) == (trains, rate)
    assert sizes[True][1] == 0.5 * sizes[False][1]


def test_a_schedule_without_rates_takes_any_scheduler_and_leaves_it_alone():
    model = seeded()
    step_lr = torch.optim.lr_scheduler.StepLR
    run = run_of(model, [{"train": "head"}], (0,), scheduler=lambda optimizer, *_: step_lr(optimizer, 1))
    run.update(at(0))
    run.end()
    with pytest.raises(ValueError, match="but StepLR computes each rate from the one before"):
        run_of(seeded(), TWO, (0, 4), scheduler=lambda optimizer, *_: step_lr(optimizer, 1))


def test_ending_restores_model_and_rates():
    model = seeded()
    run = run_of(model, TWO, (0, 4))
    run.update(at(4))
    assert run.optimizer.param_groups[0]["lr"] == 5e-3
    run.end()
    assert run.optimizer.param_groups[0]["lr"] == 1e-2
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not model._forward_pre_hooks


def test_a_phase_in_which_nothing_can_train_is_refused_before_anything_is_frozen():
    model = lora(seeded(), ["query"])
    with pytest.raises(ValueError, match=r"Phase 2 \(step 4: embeddings\) trains nothing"):
        run_of(model, [{"train": "block.*"}, {"step": 4, "train": "embeddings"}], (0, 4))
    assert not model._forward_pre_hooks


def test_the_summary_names_phases_steps_and_true_rates():
    model = seeded()
    optimizer = torch.optim.AdamW(
        [{"params": model.classifier.parameters(), "lr": 1e-1}, {"params": model.bert.parameters()}], lr=1e-2
    )
    scheduler = get_linear_schedule_with_warmup(optimizer, 5, 10)
    phases = parse_phases([*TWO, {"when": "loss", "train": "all", "lr": 1e-3}])
    run = ScheduledRun(model, anatomy(model).parts(), phases, (0, 4, None), optimizer, scheduler)
    assert optimizer.param_groups[0]["lr"] == 0.0, "in warmup; the table shows the rates before the scheduler's factor"
    table = [line.split("  ") for line in run.summary().splitlines()]
    table = [[cell.strip() for cell in line if cell.strip()] for line in table]
    assert table == [
        ["part", "parameters", "step 0", "blocks", "eval_loss plateau (1)"],
        ["embeddings", "1,376", "-", "-", "0.001"],
        ["block.0-2", "6,672", "-", "0.005", "0.001"],
        ["neck", "272", "-", "-", "0.001"],
        ["head", "51", "0.1", "0.05", "0.01"],
        ["all", "8,371", "0.6%", "80.3%", "100.0%"],
    ]


def test_a_metric_decides_and_the_log_history_alone_is_read():
    model = seeded()
    run = run_of(model, [{"train": "head"}, {"when": "loss", "train": "all"}], (0, None))
    history = [{"eval_loss": 1.0, "step": 2}, {"eval_loss": 1.1, "step": 4}]
    run.update(at(2, log_history=history[:1]))
    assert run.index == 0
    run.update(at(4, log_history=history))
    assert run.index == 1
    with pytest.raises(KeyError, match="evaluation reports eval_accuracy"):
        run.update(at(6, log_history=[{"eval_accuracy": 1.0, "step": 6}]))


def test_phases_are_logged_on_rank_zero_only(caplog):
    caplog.set_level(logging.INFO, logger="hf_transfer")
    run = run_of(seeded(), TWO, (0, 4))
    run.update(at(0, is_world_process_zero=False))
    assert not caplog.messages
    run.update(at(4))
    run.update(at(5))
    assert caplog.messages == ["Step 4: phase 2 of 2, step 4: head, block.* (learning rate x 0.5)"]
