"""Killed writers, damaged files, full disks and closed folders: never a wrong row, and what is missing is said."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from datasets import Features, List, Value
from transformers.utils import logging

from hf_transfer.features.cache import Entry
from hf_transfer.features.cache import shards as shards_module


WIDTH = 8
FEATURES = Features({"features": List(Value("float32"), length=WIDTH)})


def values(rows: range) -> dict[str, np.ndarray]:
    return {"features": np.arange(rows.start * WIDTH, rows.stop * WIDTH, dtype=np.float32).reshape(-1, WIDTH)}


def filled(folder: Path) -> Entry:
    entry = Entry.open({"kind": "features"}, rows=50, shard_rows=20, cache_dir=folder)
    for shard, rows in enumerate(entry.ranges()):
        entry.write(shard, values(rows), FEATURES)
    return entry


def again(entry: Entry) -> Entry:
    """As another process opens it."""
    return Entry.open(entry.description, rows=entry.rows, shard_rows=entry.shard_rows, cache_dir=entry.folder.parent)


def files(entry: Entry) -> list[Path]:
    return sorted(entry.folder.glob("shard-*"))


def rows_right(entry: Entry) -> bool:
    read = np.concatenate([row[None] for row in entry.rows_of("features")])
    return np.array_equal(read, values(range(50))["features"])


@pytest.fixture(scope="module")
def processes():
    """What `cache_writers.py` reports; where another user may read, which pytest's own folders do not allow."""
    folder = tempfile.mkdtemp()
    try:
        program = Path(__file__).with_name("cache_writers.py")
        run = subprocess.run(
            [sys.executable, "-W", "ignore", str(program), folder],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert run.returncode == 0, run.stderr
        yield {**json.loads(run.stdout.splitlines()[-1]), "stderr": run.stderr}
    finally:
        shutil.rmtree(folder)


def test_writers_killed_at_random_leave_no_wrong_row(processes):
    report = processes["killed_writers"]
    assert report["torn"] > 0, "no writer was hit while it wrote: the test shows nothing"
    assert report["published_by_the_killed"] > 0
    assert report["wrong"] == report["misreported"] == 0
    assert report["complete_and_right"]


def test_two_writers_of_one_entry_leave_it_whole(processes):
    report = processes["two_writers"]
    assert report["ends"] == [0, 0]
    assert report["missing"] == [] and report["wrong"] == 0 and report["left_over"] == 0
    assert report["files"] > 12, "the writers did not meet, or did not differ"
    assert report["readings"] == 1, "readers must agree on the file of each shard"


def test_a_disk_that_is_really_full(processes):
    report = processes["full_disk"]
    assert report == {"errno": errno.EFBIG, "missing": [1], "left_over": 0}
    assert "is full (File too large) - this part of the cache was not stored" in processes["stderr"]


def test_a_closed_folder_can_be_read_and_not_written(processes):
    assert processes["closed_folder"] == {"reads": 0, "writes": errno.EACCES, "makes": errno.EACCES}
    assert processes["stderr"].count("is closed to this user (Permission denied) - the cache can neither") == 2


@pytest.fixture
def warnings(monkeypatch):
    seen: list[str] = []
    logger = logging.get_logger("hf_transfer.features.cache.entry")
    monkeypatch.setattr(logger, "warning", seen.append)
    return seen


def test_every_flipped_byte_is_found(tmp_path, warnings):
    entry = filled(tmp_path)
    path = files(entry)[1]
    content = path.read_bytes()
    for place in [0, len(content) - 1, *np.random.default_rng(0).integers(0, len(content), 20)]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(place) % 8
        path.write_bytes(damaged)
        assert again(entry).missing() == [1], place
        assert not path.exists()
        path.write_bytes(content)
        assert again(entry).missing() == []
    assert len(warnings) == 22
    assert warnings[0] == (
        f"{path} is damaged: its bytes do not match its checksum. It is deleted; its rows are computed again when "
        "next needed."
    )


@pytest.mark.parametrize("length", [0, 1, 100, -8, -1])
def test_a_truncated_shard_is_found(tmp_path, warnings, length):
    entry = filled(tmp_path)
    path = files(entry)[2]
    path.write_bytes(path.read_bytes()[:length])
    assert entry.missing() == [2]
    assert len(warnings) == 1
    with pytest.raises(RuntimeError, match=r"Shard 2 of 3 in .* is missing or damaged - the table would lack"):
        entry.dataset()
    entry.write(2, values(entry.ranges()[2]), FEATURES)
    assert entry.missing() == [] and rows_right(entry)


def test_damage_after_the_check_is_found_when_the_table_is_opened(tmp_path, warnings):
    entry = filled(tmp_path)
    assert entry.missing() == []
    path = files(entry)[0]
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    with pytest.raises(RuntimeError, match="Shard 0 of 3"):
        entry.dataset()


def test_a_shard_of_another_place_is_not_taken(tmp_path, warnings):
    entry = filled(tmp_path)
    first, _, last = files(entry)
    # its own bytes, and a checksum that is right, but 20 rows where 10 belong
    os.replace(first, last.with_name(first.name.replace("00000", "00002")))
    last.unlink()
    assert entry.missing() == [0, 2]
    assert "it holds 20 rows in place of 10" in warnings[0]


def test_bytes_with_a_right_checksum_that_are_no_table(tmp_path, warnings):
    entry = filled(tmp_path)
    name = f"shard-00001-{shards_module.new_checksum().hexdigest()}.arrow"
    files(entry)[1].unlink()
    (entry.folder / name).touch()
    assert entry.missing() == [1]
    assert "it cannot be read" in warnings[0]


def test_of_two_files_the_valid_one_is_taken(tmp_path, warnings):
    entry = filled(tmp_path)
    (entry.folder / f"shard-00000-{'0' * 32}.arrow").write_bytes(b"sorts first, but is not what its name says")
    assert again(entry).missing() == []
    assert len(warnings) == 1 and rows_right(again(entry))


def test_a_file_that_cannot_be_deleted_is_not_read(tmp_path, warnings, monkeypatch):
    entry = filled(tmp_path)
    path = files(entry)[0]
    path.write_bytes(b"damaged")

    def refuse(self, missing_ok=False):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert entry.missing() == [0] and path.exists()
    entry.write(0, values(entry.ranges()[0]), FEATURES)
    assert entry.missing() == [] and rows_right(entry)


def test_an_altered_description_is_written_anew_and_shards_stay(tmp_path, warnings):
    entry = filled(tmp_path)
    description = entry.folder / "description.json"
    for content in (b"", b"{", b"\xff\xfe", description.read_bytes().replace(b"features", b"something")):
        description.write_bytes(content)
        opened = again(entry)
        assert opened.key == entry.key and opened.missing() == [] and rows_right(opened)
        assert json.loads(description.read_text())["description"] == {"kind": "features"}
    assert len(warnings) == 4 and "was altered. It is written anew" in warnings[0]


def test_a_full_disk_raises_and_leaves_nothing(tmp_path, monkeypatch):
    entry = filled(tmp_path)
    for path in files(entry)[1:]:
        path.unlink()
    write = shards_module._HashingFile.write

    def full_after_a_while(self, data):
        if self.file.tell() > 200:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(shards_module._HashingFile, "write", full_after_a_while)
    message = (
        r"The disk of .* is full \(No space left on device\) - this part of the cache was not stored, .* - make room "
        r"with `python -m hf_transfer cache prune"
    )
    with pytest.raises(OSError, match=message) as raised:
        entry.write(1, values(entry.ranges()[1]), FEATURES)
    assert raised.value.errno == errno.ENOSPC
    assert [path.name for path in entry.folder.glob(".writing-*")] == []
    assert entry.missing() == [1, 2]
    monkeypatch.undo()
    for shard in entry.missing():
        entry.write(shard, values(entry.ranges()[shard]), FEATURES)
    assert rows_right(entry)


def test_a_disk_that_is_full_when_it_is_flushed(tmp_path, monkeypatch):
    entry = Entry.open({}, rows=20, shard_rows=20, cache_dir=tmp_path)

    def full(handle):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(shards_module.os, "fsync", full)
    with pytest.raises(OSError, match=r"is full \(Disk quota exceeded\)"):
        entry.write(0, values(range(20)), FEATURES)
    assert [path.name for path in entry.folder.iterdir()] == ["description.json"]


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    entry = Entry.open({}, rows=20, shard_rows=20, cache_dir=tmp_path)

    def interrupt(source, destination):
        raise KeyboardInterrupt

    monkeypatch.setattr(shards_module.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        entry.write(0, values(range(20)), FEATURES)
    assert [path.name for path in entry.folder.iterdir()] == ["description.json"]


def test_an_error_of_another_kind_is_passed_on(tmp_path, monkeypatch):
    entry = Entry.open({}, rows=20, shard_rows=20, cache_dir=tmp_path)

    def broken(source, destination):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(shards_module.os, "replace", broken)
    with pytest.raises(OSError, match=r"^\[Errno 5\] Input/output error$"):
        entry.write(0, values(range(20)), FEATURES)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_folder_that_is_not_writable(tmp_path, monkeypatch, code):
    entry = Entry.open({}, rows=20, shard_rows=20, cache_dir=tmp_path)

    def refuse(source, destination):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(shards_module.os, "replace", refuse)
    message = r"is closed to this user \(.*\) - the cache can neither be read nor completed there - give `cache_dir`"
    with pytest.raises(PermissionError, match=message):
        entry.write(0, values(range(20)), FEATURES)


def test_an_entry_that_is_pruned_while_it_is_written(tmp_path, monkeypatch):
    entry = filled(tmp_path)
    shutil.rmtree(entry.folder)
    entry.write(0, values(entry.ranges()[0]), FEATURES)  # the folder is made anew
    assert again(entry).missing() == [1, 2]
    replace = os.replace

    def pruned(source, destination):
        shutil.rmtree(entry.folder)
        replace(source, destination)

    monkeypatch.setattr(shards_module.os, "replace", pruned)
    with pytest.raises(
        FileNotFoundError, match=r"was removed while it was written to, as by `cache prune` - .* - run"
    ):
        entry.write(1, values(entry.ranges()[1]), FEATURES)
    assert entry.missing() == [0, 1, 2]


def test_a_table_in_use_outlives_its_entry(tmp_path):
    entry = filled(tmp_path)
    rows = entry.rows_of("features")
    shutil.rmtree(entry.folder)
    assert rows[49].tolist() == values(range(49, 50))["features"][0].tolist()
