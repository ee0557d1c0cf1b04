"""Files that appear whole or not at all."""

from __future__ import annotations

import os

import pytest

from hf_transfer.files import whole_file


def test_the_file_takes_its_name_at_the_end(tmp_path):
    target = tmp_path / "new" / "scores.json"
    with whole_file(target) as unfinished:
        unfinished.write_text("done")
        assert unfinished.parent == target.parent and not target.exists()
    assert target.read_text() == "done"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("before", [None, "old"])
def test_after_an_error_everything_is_as_it_was(tmp_path, before):
    target = tmp_path / "scores.json"
    if before is not None:
        target.write_text(before)
    with pytest.raises(KeyError), whole_file(target) as unfinished:
        unfinished.write_text("half")
        raise KeyError
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == (
        [] if before is None else [("scores.json", "old")]
    )


def test_nothing_takes_the_name_before_it_is_on_the_disk(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(os, "fsync", lambda number: done.append("fsync"))
    monkeypatch.setattr(os, "replace", lambda a, b: done.append("replace"))
    with whole_file(tmp_path / "scores.json") as unfinished:
        unfinished.write_text("done")
    assert done == ["fsync", "replace"]


def test_two_writers_do_not_share_a_temporary_name(tmp_path, monkeypatch):
    with whole_file(tmp_path / "a") as first:
        first.write_text("mine")
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with whole_file(tmp_path / "a") as second:
            second.write_text("theirs")
        assert first != second
    assert (tmp_path / "a").read_text() == "mine"
