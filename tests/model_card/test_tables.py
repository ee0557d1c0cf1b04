"""Tables of cards."""

from __future__ import annotations

from hf_transfer.model_card import Baseline, DataFacts, RunFacts, Score, Term
from hf_transfer.model_card.tables import baseline_table, data_table, score_table, setting_table, term_table


def test_spread_over_seeds_stands_beside_the_score():
    spread = Score("accuracy", 0.7, mean=0.75, interval=(0.6, 0.9), by_seed=[0.7, 0.8])
    table = score_table(RunFacts(scores=[spread, Score("loss", 0.5)]))
    assert "| mean of 2 seeds (95% interval) |" in table
    assert (
        "| test | Accuracy | 0.700 | 0.750 (0.600 to 0.900) |" in table and "| test | loss | 0.500 | 0.500 |" in table
    )


def test_difference_is_bold_where_its_interval_excludes_zero():
    rows = [
        Baseline("alone", Score("accuracy", 0.6), 0.1, (0.05, 0.15)),
        Baseline("other", Score("accuracy", 0.6), 0.1, (-0.05, 0.25)),
        Baseline("teacher", Score("accuracy", 0.9), reference=True),
    ]
    table = baseline_table(RunFacts(method="kd", scores=[Score("accuracy", 0.7)], baselines=rows))
    assert "| alone | 0.600 | **+0.100** (+0.050 to +0.150) |" in table
    assert "| other | 0.600 | +0.100 (-0.050 to +0.250) |" in table
    assert "| teacher | 0.900 | |" in table and "| **kd** | 0.700 | |" in table


def test_data_of_the_hub_are_linked_and_sizes_have_commas():
    table = data_table(RunFacts(data=[DataFacts("imdb", splits={"train": 25000}, hub_id="user/imdb", config="plain")]))
    assert "[user/imdb](https://huggingface.co/datasets/user/imdb), configuration `plain` | 25,000 |" in table
    assert "used as" not in table and "labels" not in table


def test_domains_say_whether_their_labels_were_used():
    data = [
        DataFacts("a", "source", {"train": 1}, labels_used=True),
        DataFacts("b", "target", {"test": 2}, None, None, False),
    ]
    table = data_table(RunFacts(data=data))
    assert "| `a` | source | 1 | | yes |" in table and "| `b` | target | | 2 | no |" in table


def test_terms_show_their_settings_but_for_those_left_out():
    table = term_table(
        RunFacts(terms=[Term("kd", "KD", "0.5", {"temperature": "2", "rows": "a|b", "x": "None"}, "What.")])
    )
    assert "| `kd` | What. | `0.5` | temperature: 2, rows: a\\|b |" in table


def test_nothing_makes_no_table():
    empty = RunFacts()
    assert [make(empty) for make in (score_table, baseline_table, data_table, term_table)] == [""] * 4
    assert setting_table({}) == ""
