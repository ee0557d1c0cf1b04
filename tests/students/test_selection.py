"""Which blocks stay: rules, numbers, lists, and the nearest of a kind, against trying every choice."""

from __future__ import annotations

import itertools
import random

import pytest

from hf_transfer.students.selection import is_rule, kept_positions, nearest_of_kind
from hf_transfer.students.stacks import Stack


def stacks(*lengths):
    found, start = [], 0
    for index, length in enumerate(lengths):
        keys = tuple(str(key) for key in range(length))
        found.append(Stack((f"stage{index}",), keys, tuple(range(start, start + length))))
        start += length
    return found


@pytest.mark.parametrize(
    ("keep_blocks", "lengths", "kept"),
    [
        ("every_other", (12,), [[0, 2, 4, 6, 8, 10]]),
        ("every_other", (5, 1, 2), [[0, 2, 4], [0], [0]]),
        ("first", (5, 4), [[0, 1, 2], [0, 1]]),
        ("last", (5, 4), [[2, 3, 4], [2, 3]]),
        (6, (12,), [[0, 2, 4, 7, 9, 11]]),  # the blocks of DistilBERT
        (3, (12,), [[0, 6, 11]]),
        (2, (12,), [[0, 11]]),
        (1, (12,), [[0]]),
        (12, (12,), [list(range(12))]),
        (6, (2, 2, 6, 2), [[0], [0], [0, 3, 5], [0]]),
        (4, (2, 2, 6, 2), [[0], [0], [0], [0]]),
        (24, (12, 12), [list(range(12))] * 2),
        ([0, 2, 5], (6,), [[0, 2, 5]]),
        ((0, -1), (6,), [[0, 5]]),
        ([1, 3, 4], (3, 2), [[1], [0, 1]]),
        (range(0, 6, 2), (6,), [[0, 2, 4]]),
    ],
)
def test_what_stays(keep_blocks, lengths, kept):
    assert kept_positions(keep_blocks, stacks(*lengths)) == kept


def test_a_number_of_blocks_is_kept_exactly_in_proportion_and_in_order():
    for lengths in ((12,), (2, 2, 6, 2), (6, 6), (1, 9), (3, 4, 6, 3)):
        for count in range(len(lengths), sum(lengths) + 1):
            kept = kept_positions(count, stacks(*lengths))
            assert sum(map(len, kept)) == count
            for positions, length in zip(kept, lengths, strict=True):
                assert positions == sorted(set(positions)) and 0 <= positions[0] <= positions[-1] < length
                assert len(positions) == 1 or (positions[0], positions[-1]) == (0, length - 1)


def test_rules_and_numbers_may_give_way_and_lists_may_not():
    assert is_rule("first") and is_rule(3) and not is_rule([0, 1])


@pytest.mark.parametrize(
    ("keep_blocks", "message"),
    [
        ("even", r'`keep_blocks="even"` is no rule: .*Give "every_other", "first" or "last"'),
        (1, r"`keep_blocks=1`, but the teacher has 6 blocks in 2 lists.*from 2 to 6"),
        (7, r"`keep_blocks=7`, but the teacher has 6 blocks"),
        ([0, 6], r"names a block that the teacher does not have: its 6 blocks are numbered 0 to 5"),
        ([0, "1"], r"names a block that the teacher does not have"),
        ([0, 0, 4], r"repeats blocks or changes their order.*Give \[0, 4\]"),
        ([4, 0], r"repeats blocks or changes their order.*Give \[0, 4\]"),
        ([0, 1], r"leaves none of `stage1`, which are blocks 3 to 5: .*Keep one of them"),
        ([], r"leaves none of `stage0`"),
    ],
)
def test_what_names_no_blocks_is_refused(keep_blocks, message):
    with pytest.raises(ValueError, match=message):
        kept_positions(keep_blocks, stacks(3, 3))


@pytest.mark.parametrize("keep_blocks", [True, 2.0, None])
def test_what_is_neither_rule_nor_number_nor_list(keep_blocks):
    with pytest.raises(TypeError, match=r"it does not say which blocks stay"):
        kept_positions(keep_blocks, stacks(3, 3))


def test_the_nearest_of_a_kind_against_trying_every_choice():
    draw = random.Random(0)
    found = 0
    for _ in range(400):
        length = draw.randint(1, 7)
        count = draw.randint(1, length)
        teacher = [draw.randint(0, 1) for _ in range(length)]
        student = [draw.randint(0, 1) for _ in range(count)]
        wanted = sorted(draw.sample(range(length), count))
        ways = [
            way
            for way in itertools.combinations(range(length), count)
            if all(teacher[position] == student[place] for place, position in enumerate(way))
        ]
        best = nearest_of_kind(wanted, length, lambda place, position, a=student, b=teacher: a[place] == b[position])
        if not ways:
            assert best is None
            continue
        found += 1
        assert tuple(best) in ways

        def cost(way, wanted=wanted):
            return sum(abs(a - b) for a, b in zip(way, wanted, strict=True))

        assert cost(best) == min(map(cost, ways))
    assert found > 100
