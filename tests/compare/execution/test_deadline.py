"""The moment at which a run stops."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments, default_data_collator

from hf_transfer.compare.execution import deadline
from hf_transfer.compare.execution.deadline import ENDED, OutOfTimeError, stopped_at
from tests.compare.tiny_cells import rows
from tests.models import tiny_bert


def optimizer():
    weight = nn.Parameter(torch.ones(1))
    weight.grad = torch.ones(1)
    return weight, torch.optim.SGD([weight], lr=0.5)


def clock(monkeypatch, monotonic):
    monkeypatch.setattr(deadline, "time", SimpleNamespace(monotonic=monotonic))


def test_steps_are_taken_until_then_and_not_after(monkeypatch):
    now = 100.0
    clock(monkeypatch, lambda: now)
    weight, sgd = optimizer()
    with pytest.raises(OutOfTimeError, match=ENDED), stopped_at(110.0):
        sgd.step()
        assert weight.item() == 0.5
        now = 110.0
        sgd.step()  # not after it
        now = 110.1
        sgd.step()
    assert weight.item() == 0.0
    sgd.step()  # the hook is gone
    assert weight.item() == -0.5


def test_what_begins_too_late_does_not_begin():
    with pytest.raises(OutOfTimeError), stopped_at(time.monotonic() - 1):
        pytest.fail("it began")


def test_without_a_deadline_nothing_is_hooked():
    from torch.optim.optimizer import _global_optimizer_pre_hooks as hooks

    before = len(hooks)
    with stopped_at(None):
        assert len(hooks) == before
    with stopped_at(time.monotonic() + 60):
        assert len(hooks) == before + 1
        with pytest.raises(KeyError), stopped_at(time.monotonic() + 30):
            assert len(hooks) == before + 2
            raise KeyError
        assert len(hooks) == before + 1
    assert len(hooks) == before


def test_a_stock_trainer_stops(tmp_path, monkeypatch):
    args = TrainingArguments(
        str(tmp_path), max_steps=50, use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True
    )
    trainer = Trainer(tiny_bert(), args, train_dataset=rows(8, 0), data_collator=default_data_collator)
    looks = iter(range(1000))
    clock(monkeypatch, lambda: next(looks))
    with pytest.raises(OutOfTimeError), stopped_at(10.5):
        trainer.train()
    assert trainer.state.global_step == 10  # it looked at 0, and before the steps at 1 to 11
