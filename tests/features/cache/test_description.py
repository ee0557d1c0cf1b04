from __future__ import annotations

import datetime

import pytest

from hf_transfer.features.cache.checksums import text_digest
from hf_transfer.features.cache.description import DESCRIPTION, describe, read_description


def stored(folder, text):
    folder = folder / text_digest(text)
    folder.mkdir()
    (folder / DESCRIPTION).write_text(text, encoding="utf-8")
    return folder


def test_the_order_of_fields_does_not_count():
    assert describe({"a": 1, "b": {"c": 2, "d": 3}}, rows=1, shard_rows=1) == describe(
        {"b": {"d": 3, "c": 2}, "a": 1}, rows=1, shard_rows=1
    )


def test_round_trip(tmp_path):
    folder = stored(tmp_path, describe({"model": "größe", "taps": (1, "head")}, rows=5, shard_rows=2))
    read = read_description(folder)
    assert read == {"format": 1, "rows": 5, "shard_rows": 2, "description": {"model": "größe", "taps": [1, "head"]}}


@pytest.mark.parametrize("value", [datetime.date(2020, 1, 1), float("nan"), {1, 2}, b"bytes", object()])
def test_what_is_not_json_is_refused(value):
    message = r"The description of a cache entry is not JSON \(.*\) - its key would not be the same .* - describe"
    with pytest.raises(TypeError, match=message):
        describe({"value": value}, rows=1, shard_rows=1)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": 1}', '{"description": {}, "rows": 1, "shard_rows": 1}'])
def test_what_is_no_description_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match=r"holds no valid description.json - what its shards hold is not known - run"):
        read_description(stored(tmp_path, text))


def test_the_description_of_another_entry_is_refused(tmp_path):
    folder = stored(tmp_path, describe({"a": 1}, rows=5, shard_rows=2))
    (folder / DESCRIPTION).write_text(describe({"a": 2}, rows=5, shard_rows=2))
    with pytest.raises(ValueError, match="holds no valid description"):
        read_description(folder)
    (folder / DESCRIPTION).unlink()
    with pytest.raises(ValueError, match="holds no valid description"):
        read_description(folder)
