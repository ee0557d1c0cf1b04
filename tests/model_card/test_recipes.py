"""What recipes put into the facts of their runs."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from hf_transfer.compare.results import Cell
from hf_transfer.data.loading import load_splits
from hf_transfer.model_card import DataFacts, RunFacts, load_facts, save_facts
from hf_transfer.model_card.recipes import add_comparison, changed_options, data_facts, keep_facts, over_seeds
from tests.model_card.runs import trained


@dataclass
class Options:
    first: float = 0.0
    path: str | None = None
    many: list[str] = field(default_factory=list)


def test_options_at_their_defaults_are_left_out():
    assert changed_options(Options()) == {} and changed_options(Options(0.5)) == {"first": "0.5"}
    assert changed_options(Options(path="/data/secret/mine.yaml")) == {"path": "mine.yaml"}


def test_sizes_of_splits():
    found = data_facts("embedded:reviews/kitchen", load_splits("embedded:reviews/kitchen", max_samples=40))
    assert found == DataFacts("embedded:reviews/kitchen", "", {"train": 40, "validation": 200, "test": 600})


def cells(values):
    return [
        Cell(method, seed, "", "", {"target_accuracy": value, "source_accuracy": 0.9})
        for method, own in values.items()
        for seed, value in enumerate(own)
    ]


def test_kept_run_stands_beside_its_baselines():
    found, facts = cells({"source_only": [0.5, 0.6], "dann": [0.7, 0.81]}), RunFacts()
    references = {"target_oracle": {0: 0.9, 1: 0.92}}
    add_comparison(facts, found, found[3], "target_accuracy", against="source_only", references=references)
    score = facts.score("target", "accuracy")
    assert score is not None and (score.value, score.mean) == (0.81, pytest.approx(0.755)) and facts.seeds == [0, 1]
    plain, oracle = facts.baselines
    assert (
        plain.difference == pytest.approx(0.205) and plain.score.by_seed == [0.5, 0.6] and plain.interval is not None
    )
    assert oracle.reference and oracle.score.value == pytest.approx(0.91)


def test_baseline_that_is_kept_says_so():
    found, facts = cells({"source_only": [0.6], "dann": [0.5]}), RunFacts()
    add_comparison(facts, found, found[0], "target_accuracy", against="source_only", references={})
    assert facts.baselines == [] and "is the baseline `source_only` itself" in facts.notes[0]


def test_target_without_labels_has_no_baselines():
    found, facts = [Cell("dann", 0, "", "", {"source_accuracy": 0.5}), Cell("source_only", 0, "", "")], RunFacts()
    add_comparison(facts, found, found[0], "target_accuracy", against="source_only", references={})
    assert facts.baselines == [] and len(facts.scores) == 1


def test_cards_of_several_seeds_have_mean_and_interval(tmp_path):
    for seed, value in ((3, 0.5), (4, 0.7)):
        facts = RunFacts(seeds=[seed], task="text-classification", complete=True)
        facts.add_scores({"test_accuracy": value})
        save_facts(facts, tmp_path / f"seed_{seed}")
    over_seeds(tmp_path, {"test_accuracy": {3: 0.5, 4: 0.7}})
    text = (tmp_path / "seed_4" / "README.md").read_text(encoding="utf-8")
    assert "mean of 2 seeds (95% interval)" in text and "| test | Accuracy | 0.700 | 0.600 (-0.671 to 1.871) |" in text
    assert "Seeds 3, 4." in text and "one seed" not in text


def test_folders_without_facts_are_passed_over(tmp_path):
    over_seeds(tmp_path, {"test_accuracy": {0: 0.5, 1: 0.6}})
    assert list(tmp_path.iterdir()) == []


def test_facts_are_kept_while_the_trainer_knows_them(tmp_path):
    keep_facts(trained(tmp_path))
    facts = load_facts(tmp_path)
    assert facts is not None and facts.complete and facts.hyperparameters["steps"] == "2"
