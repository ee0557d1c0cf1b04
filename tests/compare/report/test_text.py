from __future__ import annotations

import re

import pytest

from hf_transfer.compare.report import words
from hf_transfer.compare.report.text import plain_text, text
from tests.compare.report import fakes


def tables(said: str) -> list[list[list[str]]]:
    """The tables of a text: lines of cells."""
    found = re.findall(r"(?:^\|.*\n?)+", said, flags=re.MULTILINE)
    return [[re.split(r"(?<!\\)\|", line.strip())[1:-1] for line in table.strip().splitlines()] for table in found]


@pytest.mark.parametrize("name", sorted(fakes.ALL))
def test_the_table_is_that_of_the_results(name):
    results = fakes.ALL[name]()
    header, _, *lines = tables(text(results))[0]
    assert len(lines) == len(results.answer.rows)
    assert {len(line) for line in lines} == {len(header)}
    for row, line in zip(results.answer.rows, lines, strict=True):
        told = [cell.strip() for cell in line]
        if row.validation is None:
            assert told[3] == plain_text(row.reason or "")
            continue
        assert told[3].split()[0] == words.score(row.validation.mean)
        assert float(told[3].split()[0]) == pytest.approx(row.validation.mean, abs=5e-4)
        assert told[-len(words.COSTS) :] == [words.cost(row.costs, cost) for cost in words.COSTS]
        if row.validation.low is not None:
            assert f"({row.validation.low:.3f} to {row.validation.high:.3f})" in told[3].replace("−", "-")


def test_the_answer_comes_first():
    results = fakes.images()
    said = text(results)
    assert said.startswith("# Which way to transfer? tf_flowers\n")
    places = [
        said.index(own) for own in ("**LoRA** on google", "cannot be told from the best", "**▲ Transfer helps.**")
    ]
    assert places == sorted(places) and places[-1] < said.index("## All strategies")
    assert "Test rows took no part in any choice" in said
    assert "best mean, tied" in said and "tied with the best" in said and "baseline" in said
    for row in results.answer.rows:
        assert f"\n{row.command}\n" in said
    curve = next(table for table in tables(said) if "labelled rows" in table[0][3 - 1])
    assert [int(line[2]) for line in curve[2:]] == [point.rows for point in results.answer.curve]


def test_other_answers():
    said = text(fakes.regression())
    assert "**No strategy can be recommended.**" in said and "**◆ Undecided.**" in said
    assert "## Learning curve" not in said and "confuses" not in said
    assert "Pearson r" in said
    assert "**▼ Transfer hurts.**" in text(fakes.texts())


def test_texts_of_the_data_are_only_text():
    said = text(fakes.texts())
    outside = re.sub(r"```bash\n.*?\n```", "", said, flags=re.DOTALL)
    assert "<script>" not in outside.replace("\\<script\\>", "")
    assert fakes.ARABIC in said
    assert "| pipe" not in outside.replace("\\| pipe", "")


@pytest.mark.parametrize("given", ["a|b", "*x*", "<b>", "[a](b)", "`c`", "a\nb", "# d", "back\\slash"])
def test_marks_are_escaped(given):
    shown = re.sub(r"\\(.)", r"\1", plain_text(given))
    assert shown == given.replace("\n", " ")
    assert not re.search(r"(?<!\\)[|*<\[`#]", plain_text(given))


def test_a_fence_is_longer_than_what_it_holds():
    results = fakes.two_classes()
    results.command = "run ```` it"
    assert "`````bash\nrun ```` it\n`````" in text(results)
