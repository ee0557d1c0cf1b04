"""`python -m hf_transfer cache prune` of what a teacher said, which is then said again."""

from __future__ import annotations

import os
import time

import pytest

from hf_transfer.__main__ import main
from hf_transfer.features.cache import entries
from hf_transfer.features.cache.shards import DAY
from hf_transfer.source import Source
from hf_transfer.teacher.cache import cache_teacher
from tests.features.cache.test_listing import entry
from tests.features.extraction.extraction_data import inputs_for
from tests.models import tiny_bert


@pytest.fixture
def forwards(monkeypatch):
    """How many forwards of a teacher there were."""
    found, call = [], Source.__call__
    monkeypatch.setattr(
        Source, "__call__", lambda self, *inputs, **options: found.append(1) or call(self, *inputs, **options)
    )
    return found


@pytest.fixture
def prune(tmp_path, capsys):
    def prune(*words: str) -> str:
        main(["cache", "prune", *words, "--cache_dir", str(tmp_path)])
        return capsys.readouterr().out

    return prune


@pytest.fixture
def said(tmp_path):
    model = tiny_bert()
    data = inputs_for(model, 9)
    return lambda: cache_teacher(model, data, cache_dir=tmp_path, progress=False)


def aged(info, days: float) -> None:
    past = time.time() - days * DAY
    os.utime(info.folder / "description.json", (past, past))


def test_an_old_entry_goes_and_the_teacher_is_asked_again(tmp_path, prune, said, forwards):
    first = said()
    logits = first["teacher_logits"][:]
    (info,) = entries(tmp_path)
    assert info.description["kind"] == "teacher" and info.complete and forwards
    aged(info, 40)
    other = entry(tmp_path, "features of a backbone", days=20)
    text = prune("--older_than_days", "30", "--dry_run")
    assert "teacher" in text and info.key[:12] in text and "\nWould remove 1 entry, " in text and info.folder.exists()
    text = prune("--older_than_days", "30")
    assert info.key[:12] in text and other.key[:12] not in text and "\nRemoved 1 entry, " in text
    assert not info.folder.exists() and [left.key for left in entries(tmp_path)] == [other.key]
    forwards.clear()
    assert said()["teacher_logits"][:] == logits and forwards
    assert info.key in {left.key for left in entries(tmp_path)}


def test_reading_it_makes_it_young(tmp_path, prune, said, forwards):
    said()
    (info,) = entries(tmp_path)
    aged(info, 40)
    forwards.clear()
    said()
    assert not forwards and prune("--older_than_days", "30") == "Removed nothing.\n"


def test_an_interrupted_one_goes_alone(tmp_path, prune, said):
    said()
    (whole,) = entries(tmp_path)
    model = tiny_bert()
    cache_teacher(model, inputs_for(model, 5), cache_dir=tmp_path, progress=False)
    (broken,) = (info for info in entries(tmp_path) if info.key != whole.key)
    for shard in broken.folder.glob("shard-*"):
        shard.unlink()
    assert broken.key[:12] in prune("--incomplete")
    assert [info.key for info in entries(tmp_path)] == [whole.key] and whole.folder.exists()


def test_by_key_and_all(tmp_path, prune, said):
    said()
    (info,) = entries(tmp_path)
    other = entry(tmp_path, "features of a backbone")
    prune("--key", info.key[:10])
    assert [left.key for left in entries(tmp_path)] == [other.key]
    said()
    assert "Removed 2 entries" in prune("--all") and not entries(tmp_path)
