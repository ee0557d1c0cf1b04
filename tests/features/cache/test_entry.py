from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_transfer.features.cache import Entry, default_cache_dir, entries
from hf_transfer.features.cache.shards import DAY


FEATURES = Features(
    {
        "features": List(Value("float16"), length=3),
        "tokens": List(List(Value("float32"), length=2)),
        "flat": List(Value("float32")),
        "labels": ClassLabel(names=["cat", "dog"]),
        "id": Value("int64"),
        "domain": Value("string"),
    }
)


def columns(rows: range) -> dict:
    numbers = np.array(list(rows), dtype=np.int64)
    return {
        "features": np.stack([numbers, numbers + 0.5, -numbers], 1).astype(np.float16).reshape(-1, 3),
        "tokens": [np.full((row % 4, 2), row, np.float32) for row in rows],
        "flat": [np.arange(row % 3, dtype=np.float32) for row in rows],
        "labels": numbers % 2,
        "id": numbers,
        "domain": [f"domain {row}" for row in rows],
    }


def filled(folder: Path, *, rows: int = 11, shard_rows: int = 4, order=None) -> Entry:
    entry = Entry.open({"kind": "features"}, rows=rows, shard_rows=shard_rows, cache_dir=folder)
    for shard in order or entry.missing():
        entry.write(shard, columns(entry.ranges()[shard]), FEATURES)
    return entry


def test_the_table_comes_back_as_it_was_given(tmp_path):
    dataset = filled(tmp_path, order=[2, 0, 1]).dataset()
    assert dataset.features == FEATURES and len(dataset) == 11
    expected = columns(range(11))
    for row, read in enumerate(dataset):
        assert read["features"] == expected["features"][row].tolist()
        assert read["tokens"] == expected["tokens"][row].tolist()
        assert read["flat"] == expected["flat"][row].tolist()
        assert (read["labels"], read["id"], read["domain"]) == (row % 2, row, f"domain {row}")
    assert dataset.features["labels"].int2str(1) == "dog"
    assert all(Path(file["filename"]).parent.parent == tmp_path for file in dataset.cache_files)


def test_ranges_cover_every_row_once():
    for rows, shard_rows in [(1, 1), (4, 4), (5, 4), (11, 4), (3, 100)]:
        entry = Entry(Path("key"), {}, rows=rows, shard_rows=shard_rows)
        ranges = entry.ranges()
        assert [row for part in ranges for row in part] == list(range(rows))
        assert all(len(part) == shard_rows for part in ranges[:-1])


def test_a_table_without_rows_has_its_columns(tmp_path):
    entry = Entry.open({}, rows=0, shard_rows=4, cache_dir=tmp_path)
    assert entry.ranges() == [range(0, 0)] and entry.missing() == [0]
    entry.write(0, columns(range(0)), FEATURES)
    assert entry.missing() == [] and entry.dataset().features == FEATURES and len(entry.dataset()) == 0
    assert len(entry.rows_of("features")) == 0


def test_the_key_is_the_checksum_of_the_description(tmp_path):
    entry = Entry.open({"b": [1, 2.5], "a": "ä"}, rows=3, shard_rows=2, cache_dir=tmp_path)
    stored = (entry.folder / "description.json").read_bytes()
    assert entry.key == entry.folder.name == hashlib.sha256(stored).hexdigest()[:32]
    assert json.loads(stored) == {"format": 1, "rows": 3, "shard_rows": 2, "description": {"b": [1, 2.5], "a": "ä"}}


def test_the_same_description_is_the_same_entry_and_any_change_another(tmp_path):
    def key(description, rows=3, shard_rows=2):
        return Entry.open(description, rows=rows, shard_rows=shard_rows, cache_dir=tmp_path).key

    first = key({"model": "m", "taps": ("head", 1)})
    assert key({"taps": ["head", 1], "model": "m"}) == first
    others = [
        key({"model": "m", "taps": ["head", 2]}),
        key({"model": "m", "taps": ["head", "1"]}),
        key({"model": "m", "taps": ["head", 1], "x": None}),
        key({"model": "m", "taps": ["head", 1]}, rows=4),
        key({"model": "m", "taps": ["head", 1]}, shard_rows=3),
    ]
    assert len({first, *others}) == 6


def test_other_ranks_find_what_one_has_written(tmp_path):
    one = Entry.open({}, rows=8, shard_rows=4, cache_dir=tmp_path)
    other = Entry.open({}, rows=8, shard_rows=4, cache_dir=tmp_path)
    one.write(0, columns(range(0, 4)), FEATURES)
    assert other.missing() == [1]
    other.write(1, columns(range(4, 8)), FEATURES)
    assert one.missing() == [] and one.dataset()["id"][:] == other.dataset()["id"][:] == list(range(8))


def test_the_fingerprint_is_of_the_content(tmp_path):
    entry = filled(tmp_path / "a")
    assert entry.dataset()._fingerprint == filled(tmp_path / "b").dataset()._fingerprint
    changed = Entry.open({"kind": "features"}, rows=11, shard_rows=4, cache_dir=tmp_path / "c")
    for shard, rows in enumerate(changed.ranges()):
        changed.write(shard, {**columns(rows), "id": np.array(rows) + 1}, FEATURES)
    assert changed.key == entry.key and changed.dataset()._fingerprint != entry.dataset()._fingerprint


def test_what_datasets_caches_beside_the_shards_does_no_harm(tmp_path):
    entry = filled(tmp_path)
    shuffled = entry.dataset().shuffle(seed=0)
    mapped = entry.dataset().map(lambda row: {"id": row["id"] * 2})
    assert sorted(shuffled["id"]) == list(range(11)) and mapped["id"][3] == 6
    assert any(path.name.startswith("cache-") for path in entry.folder.iterdir())
    assert entry.missing() == [] and [info.key for info in entries(tmp_path)] == [entry.key]


def test_opening_marks_as_used_and_from_folder_does_not(tmp_path):
    entry = filled(tmp_path)
    long_ago = time.time() - 1000
    os.utime(entry.folder / "description.json", (long_ago, long_ago))
    opened = Entry.from_folder(entry.folder)
    assert (opened.key, opened.rows, opened.shard_rows, opened.description) == (entry.key, 11, 4, entry.description)
    assert entries(tmp_path)[0].last_used == pytest.approx(long_ago, abs=1)
    filled(tmp_path)
    assert entries(tmp_path)[0].last_used == pytest.approx(time.time(), abs=30)


def test_opening_removes_what_killed_writers_left_a_day_ago(tmp_path):
    entry = filled(tmp_path)
    old, young = entry.folder / ".writing-1-abc.tmp", entry.folder / ".writing-2-abc.tmp"
    old.touch(), young.touch()
    os.utime(old, (0, time.time() - DAY - 60))
    filled(tmp_path)
    assert not old.exists() and young.exists()


def test_the_default_place_follows_hf_home(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "hf_transfer" / "features"
    assert Entry.open({}, rows=1, shard_rows=1).folder.parent == default_cache_dir()


def test_files_have_the_permissions_of_the_umask(tmp_path):
    mask = os.umask(0o027)
    try:
        entry = filled(tmp_path)
    finally:
        os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in entry.folder.iterdir()} == {0o640}


def test_a_relative_place_holds_in_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entry = filled(Path("cache"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert entry.missing() == [] and len(entry.dataset()) == 11


def test_shards_with_other_columns_do_not_make_a_table(tmp_path):
    entry = Entry.open({}, rows=2, shard_rows=1, cache_dir=tmp_path)
    for shard, kind in enumerate(["float32", "float64"]):
        entry.write(shard, {"x": np.zeros(1, kind)}, Features({"x": Value(kind)}))
    message = rf"The shards in .* hold different columns - they do not make one table - remove .* --key {entry.key}"
    with pytest.raises(RuntimeError, match=message):
        entry.dataset()


@pytest.mark.parametrize("shard", [-1, 3])
def test_a_shard_that_is_not_there_is_refused(tmp_path, shard):
    message = rf"There is no shard {shard}, the table has 3 - its rows would never be read - give a number that"
    with pytest.raises(ValueError, match=message):
        filled(tmp_path).write(shard, columns(range(4)), FEATURES)


@pytest.mark.parametrize(("rows", "shard_rows"), [(-1, 2), (3, 0)])
def test_sizes_out_of_range_are_refused(tmp_path, rows, shard_rows):
    with pytest.raises(ValueError, match=r"describe no table - nothing can be stored - give rows >= 0"):
        Entry.open({}, rows=rows, shard_rows=shard_rows, cache_dir=tmp_path)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_in_the_place_of_the_cache_is_refused(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"is a file, or lies in one - the cache has no place there - give a"):
        Entry.open({}, rows=1, shard_rows=1, cache_dir=tmp_path / place)


def test_a_folder_that_may_not_be_made(tmp_path, monkeypatch):
    def refuse(self, *arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(PermissionError, match=r"is closed to this user \(Permission denied\) - .* - give `cache_dir`"):
        Entry.open({}, rows=1, shard_rows=1, cache_dir=tmp_path)


def test_only_the_first_of_two_valid_files_is_read(tmp_path):
    entry = Entry.open({}, rows=1, shard_rows=1, cache_dir=tmp_path)
    for value in (1.0, 2.0, 3.0):
        entry.write(0, {"x": np.array([value])}, Features({"x": Value("float64")}))
    first = min(entry.folder.glob("shard-*"))
    assert entry.dataset()["x"][:] == Dataset.from_file(str(first))["x"][:]
    assert len(entry.dataset()) == 1
