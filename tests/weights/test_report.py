"""The report of a transfer: its sums and its table."""

from __future__ import annotations

from hf_transfer.weights import TransferEntry, TransferReport


def entry(name, shape, reason="same name", part="", source="x", is_parameter=True):
    return TransferEntry(name, source, shape, reason, part, is_parameter)


def test_sums_count_parameters_and_leave_buffers_out():
    report = TransferReport(
        "a",
        copied=[entry("w", (3, 4)), entry("mean", (5,), is_parameter=False), entry("scalar", ())],
        resized=[entry("p", (2,))],
        skipped=[entry("b", (7,))],
        unused=[entry("", (100,))],
    )
    assert report.num_transferred == 12 + 1 + 2
    assert report.num_parameters == 15 + 7
    assert report.coverage == 15 / 22


def test_a_model_without_parameters_is_covered_by_nothing():
    assert TransferReport("a").coverage == 0 and "0 of 0 parameters" in str(TransferReport("a"))


def test_table():
    blocks = [entry(f"l.{number}.w", (10, number + 1), part=f"block.{number}") for number in range(4)]
    report = TransferReport(
        "folder",
        copied=[entry("e", (1000, 2), part="embeddings"), *blocks],
        skipped=[
            entry("h.w", (3, 2), "another shape: (9, 2) there, (3, 2) here", "head"),
            entry("h.b", (3,), "another shape: (9,) in the checkpoint, (3,) here", "head"),
        ],
    )
    assert str(report) == "\n".join(
        [
            "folder: 2,100 of 2,109 parameters (99.6%); 5 tensors copied, 0 resized, 2 skipped, 0 unused",
            "         part        tensors  parameters  why",
            "copied   embeddings        1       2,000  same name",
            "copied   block.0-3         4         100  same name",
            "skipped  head              2           9  another shape, such as h.w: (9, 2) there, (3, 2) here",
        ]
    )


def test_blocks_are_joined_only_where_they_follow_each_other_for_the_same_reason():
    report = TransferReport(
        "f",
        copied=[entry("a", (1,), part="block.0"), entry("b", (1,), part="block.2"), entry("c", (1,), part="block.3")],
        skipped=[entry("d", (1,), "not in the checkpoint", "block.1"), entry("e", (1,), "other", "block.2")],
    )
    parts = [line.split()[:2] for line in str(report).splitlines()[2:]]
    assert parts == [
        ["copied", "block.0"], ["copied", "block.2-3"], ["skipped", "block.1"], ["skipped", "block.2"]
    ]  # fmt: skip


def test_blocks_with_two_reasons_each_make_two_rows():
    copied = [
        entry(f"{number}{reason}", (1,), reason, f"block.{number}") for number in range(11) for reason in ("r", "s")
    ]
    lines = str(TransferReport("f", copied=copied)).splitlines()[2:]
    assert [line.split() for line in lines] == [
        ["copied", "block.0-10", "11", "11", reason] for reason in ("r", "s")
    ]  # fmt: skip
