from __future__ import annotations

import argparse
import time

import pytest
from transformers.utils import logging

from hf_transfer.cache_commands import _ago, _text, add_commands, human_size, parse_size, run
from hf_transfer.features.cache import Entry, entries
from tests.features.cache.test_listing import entry


def command(cache, *words: str) -> str:
    parser = argparse.ArgumentParser(prog="python -m hf_transfer")
    add_commands(parser.add_subparsers(dest="command", required=True))
    options = parser.parse_args(["cache", *words, "--cache_dir", str(cache)])
    assert options.command == "cache"
    return run(options)


def test_list_is_a_table(tmp_path):
    plain = entry(tmp_path, "old", days=3, written=1)
    described = {"kind": "frozen_prefix", "model": "BertForSequenceClassification", "taps": ["head", "block.3"]}
    Entry.open(described, rows=1_234_567, shard_rows=10**7, cache_dir=tmp_path)
    header, first, second, total = command(tmp_path, "list").splitlines()
    assert header.split("  ")[0].strip() == "key"
    assert header.split() == "key kind model tap rows size complete last used".split()
    key = next(info.key for info in entries(tmp_path) if info.key != plain.key)
    assert first.startswith(f"{key[:12]}  frozen_prefix  BertForSequenceClassification  head, block.3  1,234,567  ")
    assert first.endswith("  no        just now")
    assert second.split()[:5] == [plain.key[:12], "features", "-", "-", "1,000"] and second.endswith("3 days ago")
    size = human_size(sum(info.bytes for info in entries(tmp_path)))
    assert total == f"2 entries, {size} in {tmp_path}"
    assert "complete" in header and header.index("complete") == first.index("no  ")


def test_list_of_nothing(tmp_path):
    assert command(tmp_path, "list") == f"The cache in {tmp_path} is empty.\n"


def test_list_shows_damage(tmp_path):
    made = entry(tmp_path, "one")
    (made.folder / "description.json").write_text("{")
    assert "  damaged   " in command(tmp_path, "list")
    assert command(tmp_path, "verify").startswith(f"{made.key[:12]}  description damaged\n")


def test_prune_says_what_it_removed(tmp_path):
    old, new = entry(tmp_path, "old", days=40), entry(tmp_path, "new", days=20)
    text = command(tmp_path, "prune", "--older_than_days", "30", "--dry_run")
    assert old.key[:12] in text and new.key[:12] not in text and "\nWould remove 1 entry, " in text
    assert old.folder.exists()
    text = command(tmp_path, "prune", "--older_than_days", "30")
    assert old.key[:12] in text and "\nRemoved 1 entry, " in text
    assert not old.folder.exists() and new.folder.exists()
    assert command(tmp_path, "prune", "--older_than_days", "30") == "Removed nothing.\n"


def test_prune_by_size_key_and_completeness(tmp_path):
    made = [entry(tmp_path, str(days), days=days) for days in range(4)]
    partial = entry(tmp_path, "partial", written=1)
    size = next(info.bytes for info in entries(tmp_path) if info.complete)
    command(tmp_path, "prune", "--incomplete")
    assert not partial.folder.exists() and len(entries(tmp_path)) == 4
    command(tmp_path, "prune", "--max_size", f"{3 * size}B")
    assert [info.key for info in entries(tmp_path)] == [one.key for one in made[:3]]
    command(tmp_path, "prune", "--key", made[0].key[:12], "--key", made[2].key)
    assert [info.key for info in entries(tmp_path)] == [made[1].key]


def test_prune_all_leaves_what_is_not_ours(tmp_path):
    entry(tmp_path, "one"), entry(tmp_path, "two")
    (tmp_path / "notes.txt").touch()
    assert "Removed 2 entries" in command(tmp_path, "prune", "--all")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_prune_without_a_condition_is_refused(tmp_path):
    message = (
        r"`cache prune` was given no condition - nothing would be removed - add --older_than_days 30, .* --dry_run"
    )
    for words in ([], ["--dry_run"]):
        with pytest.raises(ValueError, match=message):
            command(tmp_path, "prune", *words)


def test_zero_is_a_condition(tmp_path):
    entry(tmp_path, "one", days=0.1)
    assert "Removed 1 entry" in command(tmp_path, "prune", "--older_than_days", "0")
    entry(tmp_path, "one")
    assert "Removed 1 entry" in command(tmp_path, "prune", "--max_size", "0")


def test_verify_says_which_shards_were_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(logging.get_logger("hf_transfer.features.cache.entry"), "warning", lambda text: None)
    made, other = entry(tmp_path, "one"), entry(tmp_path, "other", days=1)
    damaged = next(made.folder.glob("shard-00001-*"))
    damaged.write_bytes(b"damaged")
    assert command(tmp_path, "verify").splitlines() == [
        f"{made.key[:12]}  1 of 2 shards valid",
        f"  removed {damaged.name}",
        f"{other.key[:12]}  2 of 2 shards valid",
        "2 entries read, 1 damaged file removed; what is missing is computed when next needed.",
    ]
    assert command(tmp_path, "verify", "--key", other.key[:8]).endswith("1 entry read, no damaged file.\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["prune", "--max_size", "much"],
            "'much' is not a size - how much to keep is not known - write a size such as 500MB",
        ),
        (["prune", "--older_than_days", "-1"], "'-1' is not a number of days - which entries are old is not known"),
        (["prune", "--older_than_days", "nan"], "'nan' is not a number of days"),
        (["prune", "--older_than_days", "old"], "'old' is not a number of days"),
    ],
)
def test_what_the_command_line_refuses(tmp_path, capsys, words, message):
    with pytest.raises(SystemExit):
        command(tmp_path, *words)
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_key_that_is_not_there(tmp_path):
    for action in ("prune", "verify"):
        with pytest.raises(ValueError, match="0 entries of the cache have a key that begins with 'abc'"):
            command(tmp_path, action, "--key", "abc")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        *((0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (999_949, "999.9 KB"), (999_960, "1.0 MB"), (10**9, "1.0 GB")),
        *((2_340_000_000_000, "2.3 TB"), (10**18, "1000.0 PB")),
    ],
)
def test_sizes_for_people(size, text):
    assert human_size(size) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("0", 0), ("12", 12), ("1kb", 1000), ("1 KiB", 1024), ("1.5GB", 1_500_000_000), ("2g", 2 * 10**9)),
        *(("1TiB", 2**40), ("3PB", 3 * 10**15), (" 7 MB ", 7_000_000)),
    ],
)
def test_sizes_that_people_write(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1XB", "1ib", "1e3", "1,5GB"])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match="is not a size - how much to keep is not known - write a size such as 500MB"):
        parse_size(text)


def test_times_for_people():
    times = [
        (5, "just now"),
        (60, "1 minute ago"),
        (3599, "59 minutes ago"),
        (7200, "2 hours ago"),
        (86400, "1 day ago"),
    ]
    assert [_ago(seconds) for seconds, _ in times] == [text for _, text in times]
    assert _ago(time.time()).endswith("days ago")


def test_cells_show_whatever_a_description_holds():
    assert _text({"model": "a\nb"}, "model") == "a b"
    assert _text({"taps": ["head", 3]}, "taps", "tap") == "head, 3"
    taps = [["features", "classifier", None], ["block.0", "layer.0", "mean"]]
    assert _text({"taps": taps}, "taps") == "features, block.0"
    assert _text({"tap": "head"}, "taps", "tap") == "head"
    assert _text({"model": {"name": "bert", "digest": "0"}}, "model") == "bert"
    assert _text({}, "model") == _text({"model": None}, "model") == _text({"model": ""}, "model") == "-"
    assert _text({"model": "x" * 50}, "model") == "x" * 37 + "..."
