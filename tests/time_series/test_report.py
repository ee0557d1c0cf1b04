"""What the report of a forecast comparison says of runs that are made up here."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hf_transfer.time_series.judging import POSITIVE
from hf_transfer.time_series.report import as_json, error_table, find, horizon_table, remarks, share_name
from hf_transfer.time_series.scored import Scored


def scored(mse: float, *, noise: float = 0.02, seed: int = 0) -> Scored:
    random = np.random.default_rng(seed)
    rows = mse + noise * random.normal(size=60)
    rows += mse - rows.mean()
    names = ("mse", "mae", "mase", "mse_original", "mae_original")
    return Scored(
        dict.fromkeys(names, mse),
        {"mse": np.linspace(mse / 2, 3 * mse / 2, 8)},
        {"mse": rows, "mae": rows, "count": np.ones(60, dtype=int)},
    )


def finding(test: dict[str, list[float]], evaluation: dict[str, float] | None = None, **options):
    runs = {name: {seed: scored(mse, seed=seed) for seed, mse in enumerate(own)} for name, own in test.items()}
    means = {name: np.mean(own) for name, own in test.items()} | (evaluation or {})
    eval_mse = {name: {seed: float(means[name]) for seed in by_seed} for name, by_seed in runs.items()}
    fixed = ["naive", "linear", "probe"]
    return find(0.05, runs, eval_mse, block_length=6, fixed=fixed, **options)


def test_the_strategy_is_chosen_on_the_evaluation_part():
    found = finding({"scratch": [0.5, 0.5], "full": [0.4, 0.4], "probe": [0.3]}, {"full": 0.1})
    assert found.recommended == found.transferred == "full"
    assert "Recommended with 5% of the training rows: full" in remarks(found, target="x")[0]
    found = finding({"scratch": [0.5, 0.5], "full": [0.4, 0.4]}, {"scratch": 0.1})
    assert (found.recommended, found.transferred) == ("scratch", "full")


def test_a_verdict_is_against_the_better_of_what_knows_no_source():
    """A probe that only matches a fitted head on random features owes nothing to the pretraining."""
    errors = {"scratch": [0.5, 0.5], "probe_scratch": [0.3, 0.31], "probe": [0.3], "naive": [0.9]}
    found = finding(errors, {"probe": 0.1})
    assert (found.transferred, found.reference) == ("probe", "probe_scratch")
    assert found.against["scratch"]["probe"].verdict == POSITIVE  # which alone would be taken for transfer
    assert found.verdict is not None and not found.verdict.decided
    assert found.verdict.mean == found.against["probe_scratch"]["probe"].mean == pytest.approx(-0.005)
    (line,) = [own for own in remarks(found, target="x") if "Undecided" in own]
    assert "the test MSE of probe, the best" in line and "less that of probe_scratch, the best there" in line
    assert "MSE against probe_scratch" in error_table(found) and as_json(found)["reference"] == "probe_scratch"
    # chosen on the evaluation part, not by the test
    other = finding(errors, {"scratch": 0.1})
    assert other.reference == "scratch" and "MSE against scratch" in error_table(other)
    assert any("Positive transfer" in own and "lower than scratch" in own for own in remarks(other, target="x"))


@pytest.mark.parametrize(
    ("full", "said"),
    [
        ([0.40, 0.41], "Positive transfer with 5% of the training rows: full.*test MSE 0.095 lower than scratch"),
        ([0.60, 0.61], "Negative transfer.*0.105 higher than scratch"),
        ([0.40, 0.60], "Undecided with 5%.*not told from chance"),
    ],
)
def test_verdict_is_by_the_interval(full, said):
    found = finding({"scratch": [0.5, 0.5], "full": full, "naive": [2.0]})
    import re

    assert any(re.search(said, line) for line in remarks(found, target="x"))


def test_nothing_beats_naive_on_a_random_walk():
    found = finding({"scratch": [0.52, 0.53], "full": [0.50, 0.501], "naive": [0.5], "linear": [0.505]})
    (line,) = [own for own in remarks(found, target="exchange_rate") if "Nothing beats" in own]
    assert "naive forecast on `exchange_rate`" in line and "random walk" in line
    assert any("No strategy beats the linear forecast" in own for own in remarks(found, target="x"))
    found = finding({"scratch": [0.3, 0.3], "full": [0.2, 0.2], "naive": [0.5], "linear": [0.4]})
    assert not any("Nothing beats" in own or "No strategy" in own for own in remarks(found, target="x"))
    assert found.against["naive"]["linear"].verdict == POSITIVE


def test_tables_hold_every_run_and_every_failure():
    found = finding(
        {"scratch": [0.5, 0.7], "probe": [0.3], "naive": [0.9]},
        seconds={"scratch": 2.0},
        failures={"lora": "ValueError: no layer | at all"},
    )
    table = error_table(found).splitlines()
    assert [line.split("|")[1].strip(" *") for line in table[2:]] == ["scratch", "probe", "naive", "lora"]
    assert "| **probe** |" in table[3] and table[5].startswith("| lora | failed: ValueError: no layer \\| at all |")
    assert "0.600 (" in table[2] and "| 2.0 | 2 |" in table[2]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert "lora failed with 5% of the training rows" in remarks(found, target="x")[-1]
    steps = horizon_table(found).splitlines()
    assert steps[0] == "| MSE at step | 1 | 6 | 8 |" and steps[4] == "| naive | 0.450 | 1.093 | 1.350 |"


def test_a_failed_scratch_leaves_no_verdict():
    found = finding({"full": [0.3, 0.3], "naive": [0.5]}, failures={"scratch": "diverged"})
    assert found.verdict is None and "scratch" not in found.against and found.recommended == "full"
    assert not any("transfer with" in own for own in remarks(found, target="x"))


def test_one_seed_is_said_to_be_one():
    found = finding({"scratch": [0.5], "full": [0.3], "naive": [0.9]})
    said = remarks(found, target="x")
    assert any("These are single trainings" in own for own in said) and any("One seed" in own for own in said)


def test_it_is_plain_json():
    found = finding({"scratch": [0.5, 0.6], "full": [0.3, 0.4], "naive": [0.9]})
    stored = json.loads(json.dumps(as_json(found)))
    assert stored["verdict"]["verdict"] == "positive" and stored["test_mse_against"]["naive"]["full"]["mean"] < 0
    assert stored["recommended"] == "full" and len(stored["mse_by_horizon"]["naive"]) == 8


def test_shares_in_words():
    assert share_name(0.005) == "0.5% of the training rows"
