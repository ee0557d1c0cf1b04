from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from datasets import Features, Value

from hf_transfer.features.cache import Entry, entries, prune
from hf_transfer.features.cache import listing as cache_listing
from hf_transfer.features.cache.shards import DAY


FEATURES = Features({"x": Value("int64")})


def entry(cache: Path, name: str, *, days: float = 0.0, shards: int = 2, written: int | None = None, rows: int = 500):
    """An entry that was last used so many days ago."""
    made = Entry.open({"kind": "features", "name": name}, rows=shards * rows, shard_rows=rows, cache_dir=cache)
    for shard in range(shards if written is None else written):
        made.write(shard, {"x": np.arange(rows) + shard}, FEATURES)
    past = time.time() - days * DAY
    os.utime(made.folder / "description.json", (past, past))
    return made


def keys(infos) -> list[str]:
    return [info.key for info in infos]


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_what_is_listed(tmp_path):
    old, new = entry(tmp_path, "old", days=3, written=1), entry(tmp_path, "new", days=1)
    listed = entries(tmp_path)
    assert keys(listed) == [new.key, old.key]
    first, last = listed
    assert first.description == {"kind": "features", "name": "new"} and first.rows == 1000 and first.complete
    assert not last.complete and last.folder == old.folder
    assert first.bytes == sum(path.stat().st_size for path in new.folder.iterdir())
    assert first.last_used == pytest.approx(time.time() - DAY, abs=60)


def test_no_cache_is_an_empty_one(tmp_path):
    assert entries(tmp_path / "none") == prune(tmp_path / "none", max_bytes=0, incomplete=True) == []


def test_prune_by_age(tmp_path):
    old, new = entry(tmp_path, "old", days=8), entry(tmp_path, "new", days=6)
    assert keys(prune(tmp_path, older_than_days=7)) == [old.key]
    assert keys(entries(tmp_path)) == [new.key] and new.missing() == []
    assert not old.folder.exists() and len(list(tmp_path.iterdir())) == 1


def test_prune_by_size_takes_the_least_recently_used(tmp_path):
    made = [entry(tmp_path, str(days), days=days) for days in range(4)]
    size = entries(tmp_path)[0].bytes
    assert keys(prune(tmp_path, max_bytes=4 * size, dry_run=True)) == []
    assert keys(prune(tmp_path, max_bytes=4 * size - 1, dry_run=True)) == [made[3].key]
    assert keys(prune(tmp_path, max_bytes=2 * size + 1)) == [made[3].key, made[2].key]
    assert keys(entries(tmp_path)) == [made[0].key, made[1].key]
    assert keys(prune(tmp_path, max_bytes=0)) == [made[1].key, made[0].key]


def test_prune_by_size_counts_what_goes_anyway(tmp_path):
    partial, whole = entry(tmp_path, "partial", written=1), entry(tmp_path, "whole", days=5)
    size = next(info.bytes for info in entries(tmp_path) if info.complete)
    assert keys(prune(tmp_path, incomplete=True, max_bytes=size)) == [partial.key]
    assert whole.folder.exists()


def test_prune_by_key(tmp_path):
    made = [entry(tmp_path, str(number)) for number in range(3)]
    assert keys(prune(tmp_path, keys=[made[1].key[:10]])) == [made[1].key]
    assert set(keys(entries(tmp_path))) == {made[0].key, made[2].key}
    with pytest.raises(ValueError, match=r"0 entries of the cache have a key that begins with 'zz' - .* - give more"):
        prune(tmp_path, keys=["zz"])
    with pytest.raises(ValueError, match="0 entries of the cache have a key that begins with ''"):
        prune(tmp_path, keys=[""])


def test_a_beginning_of_two_keys_is_refused(tmp_path):
    made = [entry(tmp_path, str(number), shards=0 + 1, rows=1) for number in range(17)]  # 16 first digits
    firsts = [one.key[0] for one in made]
    twice = next(digit for digit in firsts if firsts.count(digit) > 1)
    with pytest.raises(ValueError, match=rf"[2-9] entries .* begins with '{twice}' - which one is meant"):
        prune(tmp_path, keys=[twice])


def test_prune_incomplete_entries(tmp_path):
    partial, whole = entry(tmp_path, "partial", written=1), entry(tmp_path, "whole")
    assert keys(prune(tmp_path, incomplete=True)) == [partial.key]
    assert whole.missing() == []


def test_no_condition_and_dry_runs_remove_nothing(tmp_path):
    entry(tmp_path, "one", days=100, written=1)
    before = tree(tmp_path)
    assert prune(tmp_path) == []
    assert len(prune(tmp_path, older_than_days=1, incomplete=True, max_bytes=0, dry_run=True)) == 1
    assert tree(tmp_path) == before


def test_left_overs_of_killed_processes_go(tmp_path):
    made = entry(tmp_path, "one")
    old, young = made.folder / ".writing-1-a.tmp", made.folder / ".writing-2-b.tmp"
    for path in (old, young):
        path.touch()
    os.utime(old, (0, time.time() - 2 * DAY))
    half_removed = tmp_path / f".removed-{'a' * 32}-{'b' * 12}"
    half_removed.mkdir()
    (half_removed / "shard").touch()
    prune(tmp_path, dry_run=True)
    assert old.exists() and half_removed.exists()
    prune(tmp_path)
    assert not old.exists() and not half_removed.exists() and young.exists() and made.missing() == []


FOREIGN = {
    "with_other_name/description.json": "{}",
    f"{'1' * 32}/model.safetensors": "",
    f"{'2' * 32}/description.json": '{"name": "something else"}',
    f"{'3' * 32}/inner/shard-00000-{'0' * 32}.arrow": "",
    f"{'4' * 32}/cache-0123.arrow": "",
    f"{'5' * 32}": "a file",
    f"{'6' * 31}/shard-00000-{'0' * 32}.arrow": "",
    ".removed-something/file": "",
    "file.txt": "",
}


def test_what_is_not_ours_is_left_alone(tmp_path):
    made = entry(tmp_path, "ours", days=50, written=1)
    for name, content in FOREIGN.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(content)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / f"shard-00000-{'0' * 32}.arrow").touch()
    (tmp_path / ("7" * 32)).symlink_to(outside, target_is_directory=True)
    linked = tmp_path / ("8" * 32)
    linked.mkdir()
    (linked / f"shard-00000-{'0' * 32}.arrow").symlink_to(tmp_path / "file.txt")
    before = tree(tmp_path)
    assert keys(entries(tmp_path)) == [made.key]
    assert keys(prune(tmp_path, older_than_days=0, max_bytes=0, incomplete=True)) == [made.key]
    gone = before - tree(tmp_path)
    assert gone and all(path.startswith(made.key) for path in gone)


def test_an_entry_with_a_damaged_description_can_be_removed(tmp_path):
    made = entry(tmp_path, "one")
    (made.folder / "description.json").write_text("{")
    info = entries(tmp_path)[0]
    assert (info.key, info.description, info.complete, info.rows) == (made.key, {}, False, 0)
    assert keys(prune(tmp_path, incomplete=True)) == [made.key] and list(tmp_path.iterdir()) == []


def test_a_folder_whose_writer_was_killed_at_once_can_be_removed(tmp_path):
    empty, begun = tmp_path / ("a" * 32), tmp_path / ("b" * 32)
    empty.mkdir(), begun.mkdir()
    (begun / ".writing-1-a.tmp").touch()
    assert set(keys(prune(tmp_path, incomplete=True))) == {empty.name, begun.name}
    assert list(tmp_path.iterdir()) == []


def test_files_and_folders_that_vanish_meanwhile(tmp_path, monkeypatch):
    made = entry(tmp_path, "one")
    ghost = made.folder / ".writing-1-gone.tmp"
    ghost.symlink_to(tmp_path / "nowhere")
    assert cache_listing._info(made.folder).complete
    shutil.rmtree(made.folder)
    assert cache_listing._info(made.folder) is None
    cache_listing._remove(made.folder)  # another process was faster


def test_a_cache_of_somebody_else_is_not_pruned(tmp_path, monkeypatch):
    entry(tmp_path, "one")

    def refuse(source, destination):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cache_listing.os, "replace", refuse)
    with pytest.raises(
        PermissionError, match=r"cannot be removed \(Permission denied\) - the cache is closed .* - ask"
    ):
        prune(tmp_path, max_bytes=0)
    assert len(entries(tmp_path)) == 1


def test_removal_is_hidden_before_it_begins(tmp_path, monkeypatch):
    made = entry(tmp_path, "one")

    def killed(folder, **options):
        assert entries(tmp_path) == [] and not made.folder.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(cache_listing.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        prune(tmp_path, max_bytes=0)
    monkeypatch.undo()
    prune(tmp_path)
    assert list(tmp_path.iterdir()) == []
