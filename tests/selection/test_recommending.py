from __future__ import annotations

import pytest

from hf_transfer.selection.recommending import MAJORITY, RAW, control_remark, recommend, transfer_check
from tests.selection.made import ROWS, outcome


def recommended(*outcomes, by="probe"):
    found = recommend(outcomes, by, size=ROWS, parts=[320] * 20)
    assert found is not None
    return found


def test_a_clear_leader_is_taken():
    found = recommended(outcome("a", 0.6), outcome("b", 0.9), outcome("c", 0.5))
    assert (found.name, found.leader, found.tied, found.too_close) == ("b", "b", ("b",), False)
    assert found.behind["a"].mean == pytest.approx(0.3) and found.behind["a"].decided
    assert found.sentence.startswith("Take `b`: its linear probe is 0.300 above that of the next, `a`")


def test_of_those_that_are_tied_the_smallest_is_taken():
    found = recommended(outcome("a", 0.8, size=9), outcome("b", 0.805, size=5000, seed=1), outcome("c", 0.3, size=1))
    assert (found.name, found.leader, found.tied) == ("a", "b", ("b", "a"))
    assert "Too close to call by linear probe: `b`, `a`" in found.sentence and "(9 parameters)" in found.sentence


def test_controls_are_recommended_only_where_there_is_nothing_else():
    found = recommended(outcome("a", 0.6), outcome("a#random", 0.9))
    assert found.name == "a" and "only candidate" in found.sentence
    assert recommended(outcome("a#random", 0.9)).name == "a#random"
    assert recommend([], "probe", size=1, parts=[]) is None


def test_by_a_formula_without_draws_all_are_tied():
    found = recommended(outcome("a", 0.9, logme=0.1), outcome("b", 0.3, logme=0.2), by="logme")
    assert found.leader == "b" and found.too_close
    assert recommend([outcome("a", 0.9, logme=None)], "logme", size=ROWS, parts=[]) is None


def test_transfer_is_judged_by_what_needs_no_model():
    plain = [outcome(MAJORITY, 0.3), outcome(RAW, 0.6)]
    verdict, gains, told = transfer_check(outcome("a", 0.9), plain)
    assert verdict == "positive" and gains[RAW].mean == pytest.approx(0.3) and "+0.300 against `raw inputs`" in told
    verdict, _, told = transfer_check(outcome("a", 0.45), plain)
    assert verdict == "negative" and told.startswith("Transfer may hurt") and "`raw inputs` (-0.150)" in told
    verdict, _, told = transfer_check(outcome("a", 0.605, seed=1), plain)
    assert verdict == "undecided" and told.startswith("Transfer may not help")
    assert transfer_check(outcome("a", 0.9), []) == ("undecided", {}, "")


@pytest.mark.parametrize(("share", "told"), [(0.5, "serves the target: +0.3"), (0.95, "in the way"), (0.8, "is open")])
def test_new_top_blocks_tell_what_the_old_ones_learned(share, told):
    seed = 0 if share != 0.8 else 1
    (remark,) = control_remark(
        outcome("a", 0.8), [outcome("a#reinit:1", share, seed=seed), outcome("b#reinit:1", 0.1)]
    )
    assert told in remark and "`a#reinit:1`" in remark
