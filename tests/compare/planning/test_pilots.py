"""Pilot runs on tiny models: rows held out, the softened loss against naive formulas, and what a run leaves behind."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch

from hf_transfer.compare.execution.deadline import OutOfTimeError
from hf_transfer.compare.planning.pilots import Pilot, held_out, plainest, softened_loss, with_rate
from hf_transfer.compare.problem.pretrained import Pretrained
from hf_transfer.compare.problem.problem import Problem
from hf_transfer.compare.strategies.standard import STANDARD
from tests.compare.planned_runs import FULL, Planned
from tests.compare.tiny_problems import loop, text_data, tokenizer
from tests.models import tiny_bert


@pytest.mark.parametrize("seed", range(3))
def test_a_fifth_of_every_class_is_held_out(seed):
    labels = np.repeat([0, 1, 2], [50, 10, 5])
    trained, judged = held_out(labels, seed)
    assert sorted([*trained, *judged]) == list(range(65))
    assert np.bincount(labels[judged]).tolist() == [10, 2, 1]
    assert (trained, judged) == held_out(labels, seed)
    assert judged != held_out(labels, seed + 1)[1]


@pytest.mark.parametrize("labels", [np.linspace(0, 1, 20), np.zeros((20, 4), dtype=np.int64)])
def test_rows_without_one_class_are_cut_as_they_come(labels):
    assert len(held_out(labels, 0)[1]) == 4


def test_small_classes_stay_but_one_row_is_held_out():
    trained, judged = held_out(np.array([0, 1]), 0)
    assert len(trained) == len(judged) == 1
    assert len(held_out(np.repeat(np.arange(10), 2), 0)[1]) == 1


def test_one_row_cannot_be_cut():
    with pytest.raises(ValueError, match="There are 1 training rows: none can be held out.*--learning_rate"):
        held_out(np.array([0]), 0)


def _naive(logits, labels, temperature):
    total = count = 0.0
    for row, label in zip(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), strict=True):
        if label != -100:
            scaled = [value / temperature for value in row]
            top = max(scaled)
            total -= scaled[label] - top - math.log(sum(math.exp(value - top) for value in scaled))
            count += 1
    return total / count


def test_the_loss_against_a_naive_loop():
    draw = np.random.default_rng(0)
    for _ in range(20):
        logits, labels = draw.normal(size=(6, 3)) * draw.choice([0.1, 1, 30]), draw.integers(0, 3, 6)
        best = min(_naive(logits, labels, temperature) for temperature in np.geomspace(1, 1e6, 300))
        assert softened_loss(logits, labels) == pytest.approx(best, rel=0.02, abs=1e-3)
        assert softened_loss(logits, labels) <= _naive(logits, labels, 1) + 1e-12


def test_too_sure_is_no_fault_but_wrong_is():
    labels = np.array([0, 0, 0, 1])
    mostly = np.array([[1.0, 0], [1, 0], [1, 0], [1, 0]])
    assert softened_loss(50 * mostly, labels) == pytest.approx(softened_loss(1.2 * mostly, labels), abs=0.02)
    assert (
        softened_loss(50 * mostly, labels)
        < softened_loss(-50 * mostly, labels)
        == pytest.approx(math.log(2), abs=1e-4)
    )
    assert softened_loss(0.01 * mostly, labels) > softened_loss(mostly, labels)  # unsure is not made sure


def test_tokens_and_their_padding():
    draw = np.random.default_rng(0)
    logits, labels = draw.normal(size=(3, 5, 4)), draw.integers(0, 4, (3, 4))
    labels[0, 2:] = -100
    assert softened_loss(logits, labels) == pytest.approx(softened_loss(logits[:, :4], labels))
    assert softened_loss(logits, labels) <= _naive(logits[:, :4], labels, 1)


def test_real_values():
    assert softened_loss(np.array([[1.0], [2.0]]), np.array([0.0, 4.0])) == 2.5


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_diverged_is_not_finite(value):
    assert not math.isfinite(softened_loss(np.array([[value, 0.0], [1.0, 0.0]]), np.array([0, 1])))
    assert not math.isfinite(softened_loss(np.zeros((1, 2, 3)), np.full((1, 2), -100)))


def test_the_plainest_strategy_of_a_kind():
    assert plainest("whole", [FULL]) is FULL
    assert plainest("adapter", [FULL]) is STANDARD["lora"]
    assert plainest("scratch", [Planned(name="scratch", rate="whole")]) is STANDARD["scratch"]  # of another kind


def test_arguments_with_another_rate(tmp_path):
    args = loop(tmp_path, learning_rate=0.5)
    assert with_rate(args, 0.25).learning_rate == 0.25 and with_rate(args, None).learning_rate == 0.5
    assert args.learning_rate == 0.5


@pytest.fixture(scope="module")
def problem():
    torch.manual_seed(0)
    data = text_data(20)
    model = tiny_bert(num_labels=2)
    return Problem(data, [Pretrained("m", None, data, model=model, processor=tokenizer())])


@pytest.mark.parametrize("name", ["full", "lora", "scratch"])
def test_a_pilot_run(problem, tmp_path, name):
    args = loop(tmp_path / "out", max_steps=100, learning_rate=0.0)
    pilot = Pilot(problem, "m", STANDARD[name], args)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    loss = pilot.loss(1e-3, steps=3)
    assert 0 < loss <= math.log(2) + 1e-6
    assert torch.equal(torch.random.get_rng_state(), state)
    assert pilot.loss(1e-3, steps=3) == loss
    assert Pilot(problem, "m", STANDARD[name], args).loss(1e-3, steps=3) == loss
    assert pilot.loss(1e-2, steps=3) != loss
    assert not (tmp_path / "out").exists()
    assert args.learning_rate == 0 and pilot.setup.args.max_steps == 100 and len(pilot.setup.train_labels) == 16
    assert set(pilot.speeds) == {f"m/{pilot.group}/step", f"m/{pilot.group}/rest", "m/row"}
    assert all(0 <= seconds < 60 for seconds in pilot.speeds.values())


def test_rows_that_train_do_not_judge(problem, tmp_path, monkeypatch):
    pilot = Pilot(problem, "m", STANDARD["full"], loop(tmp_path, max_steps=4))
    seen = []
    monkeypatch.setattr(type(STANDARD["full"]), "fit", lambda self, setup: seen.append(setup) or _Stop.stop())
    with pytest.raises(_Stop):
        pilot.loss(1e-3)
    own, whole = seen[0], pilot.setup
    trained, judged = held_out(whole.train_labels, 42)
    assert own.train["input_ids"] == whole.train.select(trained)["input_ids"]
    assert own.train_labels.tolist() == whole.train_labels[trained].tolist()
    assert len(judged) == 4 and own.args.max_steps == 4  # of a short run all steps


class _Stop(Exception):
    @classmethod
    def stop(cls):
        raise cls


@pytest.mark.parametrize(("whole", "steps"), [(200, 50), (1000, 250), (40, 20), (6, 6)])
def test_the_share_of_the_steps(problem, tmp_path, monkeypatch, whole, steps):
    pilot = Pilot(problem, "m", STANDARD["full"], loop(tmp_path, max_steps=whole))
    monkeypatch.setattr(type(STANDARD["full"]), "fit", lambda self, setup: _Stop.stop())
    with pytest.raises(_Stop):
        pilot.loss(1e-3)
    assert pilot.steps == steps


def test_a_pilot_run_ends_with_its_time(problem, tmp_path):
    pilot = Pilot(problem, "m", STANDARD["full"], loop(tmp_path, max_steps=100))
    with pytest.raises(OutOfTimeError):
        pilot.loss(1e-3, deadline=time.monotonic() - 1)
