from __future__ import annotations

from hf_transfer.callbacks.summary import summary_table


PARTS = {
    "embeddings": ["e"],
    "block.0": ["a", "A"],
    "block.1": ["b", "B"],
    "block.2": ["c", "C"],
    "neck": [],
    "head": ["h"],
}
SIZES = {"e": 1000, "a": 30, "A": 10, "b": 30, "B": 10, "c": 30, "C": 10, "h": 5}


def rows(*phases: tuple[str, dict[str, float | None]]) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.split("  ") if cell.strip()]
        for line in summary_table(PARTS, SIZES, phases).splitlines()
    ]


def test_equal_neighbouring_blocks_share_a_row_and_empty_parts_have_none():
    table = rows(("start", {"h": 1e-3}), ("step 5", {"h": 1e-3, "c": 1e-4, "C": 1e-4}))
    assert table == [
        ["part", "parameters", "start", "step 5"],
        ["embeddings", "1,000", "-", "-"],
        ["block.0-1", "80", "-", "-"],
        ["block.2", "40", "-", "0.0001"],
        ["head", "5", "0.001", "0.001"],
        ["all", "1,125", "0.4%", "4.0%"],
    ]


def test_parts_in_groups_of_several_rates_show_the_range_and_partial_ones_their_share():
    table = rows(("start", {"a": 1e-4, "A": 3e-4, "B": 2e-4}))
    assert table[2:4] == [["block.0", "40", "0.0001..0.0003"], ["block.1", "40", "0.0002 (25%)"]]


def test_unknown_rates_say_that_the_part_trains():
    assert rows(("start", dict.fromkeys(SIZES)))[1:3] == [
        ["embeddings", "1,000", "trains"],
        ["block.0-2", "120", "trains"],
    ]


def test_columns_are_aligned():
    lines = summary_table(PARTS, SIZES, [("start", {"h": 1e-3}), ("a long heading", {"e": 5e-5})]).splitlines()
    assert len({len(line) for line in lines}) == 1
