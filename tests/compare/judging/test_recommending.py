"""Who leads, who is tied, and which of them is recommended; how often on simulated tables."""

from __future__ import annotations

import numpy as np
import pytest

from hf_transfer.compare.cells import Costs
from hf_transfer.compare.judging.recommending import cheapest, recommend, standing
from tests.compare.scored_runs import drawn, planned, right, run


def costs(**seconds):
    return {("m", name): Costs(float(value), None, 100) for name, value in seconds.items()}


def names(keys):
    return [name for _, name in keys]


def test_leader_ties_and_differences():
    found = standing(planned({"majority": 0.3, "scratch": 0.4, "full": 0.8, "lora": 0.79, "probe": 0.6}))
    assert found.leader == ("m", "full") and names(found.tied) == ["full", "lora"]
    assert names(found.candidates) == ["full", "lora", "probe"] and names(found.baselines) == ["majority", "scratch"]
    against = {name: pair.mean for (_, name), pair in found.against_best.items()}
    assert against == pytest.approx({"full": 0, "lora": -0.01, "probe": -0.2, "majority": -0.5, "scratch": -0.4})
    assert found.against_best["m", "full"].low == found.against_best["m", "full"].high == 0
    assert found.against_best["m", "scratch"].high < 0
    assert found.against_baselines[("m", "probe"), ("m", "majority")].mean == pytest.approx(0.3)
    assert found.second == ("m", "lora")


def test_upper_end_of_the_leader_against_baselines_is_not_corrected_for_its_being_picked():
    runs = drawn(np.random.default_rng(0), {"scratch": 0.7, "a": 0.65, "b": 0.6, "c": 0.5}, seeds=3, rows=80)
    found, scratch = standing(runs), ("m", "scratch")
    leader = found.against_baselines[found.leader, scratch]
    other = next(found.against_baselines[key, scratch] for key in found.candidates if key != found.leader)
    assert leader.high - leader.mean < leader.mean - leader.low
    assert other.high - other.mean == pytest.approx(other.mean - other.low)
    assert found.against_best[scratch].low == -leader.high


def test_baselines_never_lead():
    found = standing(planned({"scratch": 0.9, "full": 0.5, "own": 0.95}), baselines=["scratch", "own"])
    assert found.leader == ("m", "full") and found.candidates == [("m", "full")]
    assert found.second is None


def test_planted_ties_are_called_ties():
    generator, kept = np.random.default_rng(2), 0
    for table in range(100):
        found = standing(drawn(generator, dict.fromkeys("abcde", 0.7), seeds=3, rows=60, effect=0.02), seed=table)
        kept += len(found.tied) == 5
    assert 88 <= kept <= 99  # although the leader was picked by its mean


def test_the_best_is_among_the_tied_and_the_worst_is_not():
    generator, best, worst = np.random.default_rng(0), 0, 0
    shares = {"a": 0.75, "b": 0.72, "c": 0.45}
    for table in range(30):
        found = standing(drawn(generator, shares, seeds=3, rows=200, effect=0.02), seed=table)
        best += ("m", "a") in found.tied
        worst += ("m", "c") in found.tied
    assert best >= 27 and worst <= 1


def test_fewer_seeds_lead_only_beyond_doubt():
    runs = planned({"full": 0.7, "lora": 0.71}, seeds=3)
    runs["m", "lora"] = {0: right(0.71)}
    assert standing(runs).leader == ("m", "full")  # the mean of one lucky seed is no lead
    runs["m", "lora"] = {0: right(0.9)}
    found = standing(runs)
    assert found.leader == ("m", "lora") and names(found.tied) == ["lora"]
    assert found.against_best["m", "full"].mean == pytest.approx(-0.2)


def test_what_has_no_seed_in_common_is_not_tied():
    runs = {("m", "full"): {0: right(0.7), 1: right(0.7)}, ("m", "lora"): {2: right(0.7)}}
    found = standing(runs)
    assert found.tied == [("m", "full")] and ("m", "lora") not in found.against_best


def test_cheapest_by_seconds_then_weights_where_they_differ_by_more_than_twice():
    keys = [("m", name) for name in "abcd"]

    def chosen(*own):
        return cheapest(keys, dict(zip(keys, own, strict=True)))[1]

    assert chosen(Costs(10), Costs(2), Costs(3), Costs(0.9)) == "d"
    assert chosen(Costs(10), Costs(2), Costs(3), Costs(1)) == "b"  # the better of those that cost alike
    # of those that are done in time
    assert chosen(Costs(10, None, 9), Costs(9, None, 5), Costs(8, None, 7), Costs(17, None, 1)) == "a"
    assert chosen(Costs(10, None, 11), Costs(9, None, 5), Costs(8, None, 7), Costs(17, None, 1)) == "b"
    assert cheapest(keys, {("m", "d"): Costs(1e9)}) == ("m", "d")  # unknown costs are the highest
    assert cheapest(keys, {}) == ("m", "a")


def test_times_that_are_noise_decide_nothing():
    keys = [("m", name) for name in "abcd"]
    noise = np.random.default_rng(0)
    for _ in range(50):
        own = {key: Costs(float(noise.uniform(6, 11)), None, 100) for key in keys}
        assert cheapest(keys, own) == ("m", "a")


def test_cheapest_of_the_tied_wins_with_the_figures_in_its_reason():
    runs = planned({"majority": 0.3, "scratch": 0.4, "full": 0.82, "lora": 0.81, "probe": 0.6}, seeds=2)
    found = recommend(standing(runs), costs(full=10, lora=2, probe=0.1, majority=0, scratch=10))
    assert (found.model, found.strategy, found.leader) == ("m", "lora", ("m", "full"))
    assert names(found.tied) == ["full", "lora"]
    start, end = "lora: 0.810, not told from full (0.820; difference -0.010, ", "), at a fifth of its training time"
    assert found.reason.startswith(start) and found.reason.endswith(end)


def test_reasons_of_other_cases():
    shares = {"majority": 0.3, "scratch": 0.4, "full": 0.82, "lora": 0.81}
    table = standing(planned(shares, seeds=2))
    own = {("m", "full"): Costs(10.0, None, 100), ("m", "lora"): Costs(9.0, None, 25)}
    assert recommend(table, own).reason.endswith(", with a quarter of its trained parameters")
    told = recommend(table, costs(full=1, lora=5)).reason
    assert (
        told
        == "full: 0.820, the best on the validation rows; the one other that cannot be told from it would save nothing"
    )
    alone = recommend(standing(planned({"majority": 0.3, "full": 0.82}, seeds=2)), costs(full=1))
    assert alone.reason == "full: 0.820, the only strategy that finished"
    clear = recommend(standing(planned({"full": 0.82, "lora": 0.5})), costs(full=9, lora=1)).reason
    assert "told from all others (next is lora: difference -0.320, " in clear
    assert clear.endswith("; only one seed was run, so other seeds may differ")


def test_none_below_a_baseline_that_the_leader_beats():
    generator = np.random.default_rng(0)
    noise = generator.permutation(40)
    runs = {("m", "full"): {0: run(noise < 22)}, ("m", "probe"): {0: run(generator.permutation(40) < 17)}}
    runs["m", "majority"] = runs["m", "scratch"] = {0: run(generator.permutation(40) < 20)}
    table = standing(runs)
    assert names(table.tied) == ["full", "probe"]
    found = recommend(table, costs(full=10, probe=1))
    assert found.strategy == "full"
    assert (
        "the one other that cannot be told from it would save nothing, or beat no baseline beyond doubt"
        in found.reason
    )
    assert "not told from the majority class either" in found.reason


def test_none_that_is_not_told_from_a_baseline_that_the_leader_beats():
    shares = {"majority": 0.2, "scratch": 0.6, "full": 0.72, "probe": 0.67}
    table = standing(drawn(np.random.default_rng(9), shares, seeds=3, rows=300, effect=0.01))
    leader, probe = ("m", "full"), ("m", "probe")
    against = {key: table.against_baselines[key, ("m", "scratch")] for key in (leader, probe)}
    assert table.leader == leader and probe in table.tied
    assert against[leader].decided and not against[probe].decided
    assert recommend(table, costs(full=10, probe=1)).strategy == "full"


def test_nothing_is_recommended_that_does_not_beat_the_majority():
    assert recommend(standing(planned({"majority": 0.6, "full": 0.5})), {}) is None
    assert recommend(standing(planned({"majority": 0.6, "full": 0.6})), {}) is None
    assert recommend(standing(planned({"majority": 0.6, "scratch": 0.7})), {}) is None
    assert recommend(standing({}), {}) is None


def test_training_from_scratch_that_is_better_is_told():
    found = recommend(standing(planned({"majority": 0.2, "scratch": 0.9, "full": 0.5})), costs(full=1))
    assert "; worse than training from scratch (difference -0.400, " in found.reason


def test_models_are_named_where_there_are_several():
    runs = planned({"full": 0.8}, model="vit") | planned({"full": 0.6, "probe": 0.4}, model="bit")
    found = recommend(standing(runs), {})
    assert (found.model, found.strategy) == ("vit", "full")
    assert found.reason.startswith("full on vit: 0.800") and "next is full on bit" in found.reason


def test_best_of_several_baselines_counts():
    runs = planned({"full": 0.8, "scratch": 0.3}, model="vit") | planned({"scratch": 0.5}, model="bit")
    found = standing(runs)
    assert found.baseline("scratch") == ("bit", "scratch") and found.baseline("majority") is None
    assert found.words("majority") == "the majority class"


def test_errors_are_measured_by_the_mean():
    errors = np.linspace(0.5, 1, 50)
    runs = {("m", "majority"): {0: run(-2 * errors)}, ("m", "full"): {0: run(-errors)}}
    found = standing(runs)
    assert found.words("majority") == "always giving the mean"
    assert recommend(found, {}).reason.startswith("full: -0.750, the only strategy")
