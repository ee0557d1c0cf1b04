"""Which blocks a student keeps: from a rule, a number or a list to positions in each stack."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hf_transfer.students.stacks import Stack


__all__ = ["KeepBlocks", "is_rule", "kept_positions", "nearest_of_kind"]

KeepBlocks = str | int | Sequence[int]
RULES = ("every_other", "first", "last")


def is_rule(keep_blocks: KeepBlocks) -> bool:
    """Whether the blocks are chosen by the library, and may be chosen otherwise where kinds of blocks alternate."""
    return isinstance(keep_blocks, str | int)


def kept_positions(keep_blocks: KeepBlocks, stacks: list[Stack]) -> list[list[int]]:
    """
    Positions that stay, for each stack.

    Raises:
        TypeError: if `keep_blocks` is of no kind that names blocks.
        ValueError: if it names no rule, a block that does not exist, blocks twice or out of order, or none of a stack.
    """
    total = sum(len(stack) for stack in stacks)
    if isinstance(keep_blocks, str):
        if keep_blocks not in RULES:
            raise ValueError(
                f'`keep_blocks="{keep_blocks}"` is no rule: it does not say which blocks stay. Give "every_other", '
                '"first" or "last", how many, or their numbers, such as [0, 2, 5].'
            )
        return [_by_rule(keep_blocks, len(stack)) for stack in stacks]
    if isinstance(keep_blocks, bool) or not isinstance(keep_blocks, int | Sequence):
        raise TypeError(
            f"`keep_blocks={keep_blocks!r}` is of type {type(keep_blocks).__name__}: it does not say which blocks "
            'stay. Give "every_other", "first" or "last", how many, or their numbers, such as [0, 2, 5].'
        )
    if isinstance(keep_blocks, int):
        if not len(stacks) <= keep_blocks <= total:
            raise ValueError(
                f"`keep_blocks={keep_blocks}`, but the teacher has {total} blocks in {len(stacks)} lists, each of "
                f"which keeps one at least. Give a number from {len(stacks)} to {total}."
            )
        return [_spread(count, len(stack)) for count, stack in zip(_shares(keep_blocks, stacks), stacks, strict=True)]
    return _by_number(list(keep_blocks), stacks, total)


def _by_rule(rule: str, length: int) -> list[int]:
    half = (length + 1) // 2
    if rule == "every_other":
        return list(range(0, length, 2))
    return list(range(half)) if rule == "first" else list(range(length - half, length))


def _shares(count: int, stacks: list[Stack]) -> list[int]:
    """`count` blocks over the stacks in proportion to what they have, one each at least."""
    total = sum(len(stack) for stack in stacks)
    shares = [1] * len(stacks)
    while sum(shares) < count:
        wanting = [
            (len(stack) * count / total - share) if share < len(stack) else float("-inf")
            for share, stack in zip(shares, stacks, strict=True)
        ]
        shares[wanting.index(max(wanting))] += 1
    return shares


def _spread(count: int, length: int) -> list[int]:
    """Positions at equal distances from the first to the last: 0, 2, 4, 7, 9, 11 for six of twelve."""
    if count == 1:
        return [0]
    return [(2 * step * (length - 1) + count - 1) // (2 * (count - 1)) for step in range(count)]


def _by_number(numbers: list[int], stacks: list[Stack], total: int) -> list[list[int]]:
    if not all(isinstance(number, int) and -total <= number < total for number in numbers):
        raise ValueError(
            f"`keep_blocks={numbers}` names a block that the teacher does not have: its {total} blocks are numbered "
            f"0 to {total - 1}, or -1 for the last. Give numbers in this range."
        )
    wanted = [number % total for number in numbers]
    if wanted != sorted(set(wanted)):
        raise ValueError(
            f"`keep_blocks={numbers}` repeats blocks or changes their order: the student keeps each once, in the "
            f"teacher's order. Give {sorted(set(wanted))}."
        )
    kept = [[place for place, number in enumerate(stack.numbers) if number in wanted] for stack in stacks]
    empty = next((stack for stack, positions in zip(stacks, kept, strict=True) if not positions), None)
    if empty is not None:
        raise ValueError(
            f"`keep_blocks={numbers}` leaves none of `{empty.name}`, which are blocks {empty.numbers[0]} to "
            f"{empty.numbers[-1]}: what follows them would read what it was never trained on. Keep one of them."
        )
    return kept


def nearest_of_kind(wanted: list[int], length: int, fits: Callable[[int, int], bool]) -> list[int] | None:
    """
    Increasing positions, as near to those wanted as can be, of blocks that fit their place in the student; `None` if
    there are none.

    Args:
        wanted (`list[int]`): positions, increasing.
        length (`int`): how many blocks there are.
        fits (`Callable`): of a place in the student and a position in the teacher.
    """
    # best[k]: cost and positions of the places so far, the last of which took a position below k
    best: list[tuple[int, list[int]] | None] = [(0, [])] * (length + 1)
    for place, ideal in enumerate(wanted):
        following: list[tuple[int, list[int]] | None] = [None]
        for position in range(length):
            before, without = best[position], following[-1]
            taken = None
            if before is not None and fits(place, position):
                taken = (before[0] + abs(position - ideal), [*before[1], position])
            following.append(
                min((way for way in (taken, without) if way is not None), default=None, key=lambda w: w[0])
            )
        best = following
    return None if best[-1] is None else best[-1][1]
