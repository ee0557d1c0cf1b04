from __future__ import annotations

import pytest
from transformers.utils import logging

from hf_transfer.features.cache import Verification, verify
from tests.features.cache.test_listing import entry


@pytest.fixture(autouse=True)
def warnings(monkeypatch):
    seen: list[str] = []
    monkeypatch.setattr(logging.get_logger("hf_transfer.features.cache.entry"), "warning", seen.append)
    return seen


def test_every_damaged_shard_is_named_and_removed(tmp_path, warnings):
    made = entry(tmp_path, "one", shards=4, written=3)
    damaged = sorted(made.folder.glob("shard-*"))[1]
    damaged.write_bytes(damaged.read_bytes()[:-3])
    assert verify(tmp_path) == [Verification(made.key, 4, missing=[1, 3], removed=[damaged.name])]
    assert not damaged.exists() and len(warnings) == 1
    assert verify(tmp_path) == [Verification(made.key, 4, missing=[1, 3], removed=[])]


def test_only_the_entries_named(tmp_path):
    made = [entry(tmp_path, str(number)) for number in range(3)]
    for one in made:
        next(one.folder.glob("shard-00000-*")).write_bytes(b"")
    results = verify(tmp_path, keys=[made[2].key[:12]])
    assert [(result.key, result.missing) for result in results] == [(made[2].key, [0])]
    assert made[0].folder.joinpath("description.json").exists()
    assert len(list(made[0].folder.glob("shard-*"))) == 2
    with pytest.raises(ValueError, match="0 entries of the cache have a key"):
        verify(tmp_path, keys=["nothing"])


def test_checking_is_no_use_of_an_entry(tmp_path):
    made = entry(tmp_path, "one", days=5)
    before = (made.folder / "description.json").stat().st_mtime_ns
    assert verify(tmp_path)[0].missing == []
    assert (made.folder / "description.json").stat().st_mtime_ns == before


def test_an_entry_without_its_description_cannot_be_checked(tmp_path):
    made = entry(tmp_path, "one")
    (made.folder / "description.json").unlink()
    assert verify(tmp_path) == [Verification(made.key, 0)]
    assert len(list(made.folder.glob("shard-*"))) == 2


def test_no_cache(tmp_path):
    assert verify(tmp_path / "none") == []
