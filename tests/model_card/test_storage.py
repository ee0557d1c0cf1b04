"""Facts in a folder come back as they were."""

from __future__ import annotations

import json

import pytest

from hf_transfer.model_card import Baseline, DataFacts, RunFacts, Score, Term, load_facts, save_facts
from hf_transfer.model_card.storage import FILE


def full() -> RunFacts:
    score = Score("accuracy", 0.5, "target", 0.6, (0.4, 0.8), [0.5, 0.7])
    return RunFacts(
        base_model="embedded:text",
        label_names=["no", "yes"],
        terms=[Term("l2sp", "L2SP", "0.1", {"alpha": "1"})],
        data=[DataFacts("mine", "source", {"train": 4}, labels_used=True)],
        scores=[score],
        baselines=[Baseline("alone", score, 0.1, (-0.1, 0.3)), Baseline("teacher", score, reference=True)],
        seeds=[0, 1],
        complete=True,
    )


def test_round_trip(tmp_path):
    save_facts(full(), tmp_path)
    assert load_facts(tmp_path) == full()


def test_file_is_not_among_what_the_trainer_pushes(tmp_path):
    assert save_facts(full(), tmp_path).name.startswith("_")  # `Trainer.push_to_hub` ignores these


def test_no_file_is_no_facts(tmp_path):
    assert load_facts(tmp_path) is None


@pytest.mark.parametrize("change", [lambda stored: stored.pop("data"), lambda stored: stored.update(other=1)])
def test_file_of_another_version_counts_as_none(tmp_path, change):
    path = save_facts(full(), tmp_path)
    stored = json.loads(path.read_text())
    change(stored)
    path.write_text(json.dumps(stored))
    assert load_facts(tmp_path) is None


def test_broken_file_counts_as_none(tmp_path):
    (tmp_path / FILE).write_text("{")
    assert load_facts(tmp_path) is None
