from __future__ import annotations

import os
import time

import numpy as np
import pyarrow as pa
import pytest
import xxhash

from hf_transfer.features.cache.shards import DAY, SHARD_NAME, damage_of, publish, shard_files, sweep, write_shard


SCHEMA = pa.schema([("x", pa.int64())])


def batch(*values: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(values, pa.int64())], schema=SCHEMA)


def test_the_name_carries_number_and_checksum(tmp_path):
    path = write_shard(tmp_path, 7, SCHEMA, [batch(1, 2), batch(3)])
    assert path.name == f"shard-00007-{xxhash.xxh3_128_hexdigest(path.read_bytes())}.arrow"
    with pa.memory_map(str(path)) as source:
        assert pa.ipc.open_stream(source).read_all().column("x").to_pylist() == [1, 2, 3]
    assert list(tmp_path.iterdir()) == [path]
    assert damage_of(path, 3) is None


def test_equal_content_is_one_file(tmp_path):
    assert write_shard(tmp_path, 0, SCHEMA, [batch(1)]) == write_shard(tmp_path, 0, SCHEMA, [batch(1)])
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_larger_than_the_buffer_is_read_to_its_end(tmp_path):
    path = write_shard(tmp_path, 0, SCHEMA, [batch(*range(300_000))])
    content = bytearray(path.read_bytes())
    assert len(content) > 2 << 20 and damage_of(path, 300_000) is None
    content[-9] ^= 1
    path.write_bytes(content)
    assert damage_of(path, 300_000) == "its bytes do not match its checksum"


def test_damage_is_named(tmp_path):
    path = write_shard(tmp_path, 0, SCHEMA, [batch(1, 2)])
    assert damage_of(path, 3) == "it holds 2 rows in place of 3"
    renamed = path.rename(tmp_path / "shard-00000-short.arrow")
    assert damage_of(renamed, 2) == "its bytes do not match its checksum"
    with pytest.raises(FileNotFoundError):
        damage_of(path, 2)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = write_shard(tmp_path, 0, SCHEMA, [batch(1)])

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(PermissionError, match=r"is closed to this user \(Permission denied\) - .* - give `cache_dir`"):
        damage_of(path, 1)


def test_a_disk_that_cannot_be_read_is_damage(tmp_path, monkeypatch):
    path = write_shard(tmp_path, 0, SCHEMA, [batch(1)])

    def broken(*arguments, **options):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("builtins.open", broken)
    assert damage_of(path, 1) == "it cannot be read ([Errno 5] Input/output error)"


def test_files_are_found_by_number_and_others_left_out(tmp_path):
    names = [
        f"shard-{number:05d}-{digit * 32}.arrow" for number, digit in [(1, "b"), (1, "a"), (0, "c"), (123456, "d")]
    ]
    for name in [*names, "shard-00000-.arrow", "shard-00000-xyz.arrow", "other.arrow", f"shard-1-{'a' * 32}.arrow"]:
        (tmp_path / name).touch()
    found = {number: [path.name for path in paths] for number, paths in shard_files(tmp_path).items()}
    assert found == {0: [names[2]], 1: [names[1], names[0]], 123456: [names[3]]}
    assert SHARD_NAME.fullmatch(names[3])


def test_publishing_fills_before_it_names(tmp_path):
    seen = []
    path = publish(tmp_path, lambda: f"after-{len(seen)}", lambda file: seen.append(file.write(b"text")))
    assert path.name == "after-1" and path.read_bytes() == b"text"


def test_publishing_replaces_a_file(tmp_path):
    for text in (b"one", b"two"):
        publish(tmp_path, lambda: "name", lambda file, text=text: file.write(text))
    assert (tmp_path / "name").read_bytes() == b"two" and len(list(tmp_path.iterdir())) == 1


def test_only_old_temporary_files_are_swept(tmp_path):
    names = [".writing-1-a.tmp", ".writing-2-b.tmp", "shard.tmp", "description.json"]
    for name in names:
        (tmp_path / name).touch()
    past = time.time() - DAY - 100
    for name in (names[0], names[2], names[3]):
        os.utime(tmp_path / name, (past, past))
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])
    sweep(tmp_path, older_than=-1.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[2:])


def test_rows_of_many_batches_are_counted(tmp_path):
    path = write_shard(tmp_path, 0, SCHEMA, [batch(*np.arange(size)) for size in (3, 0, 5)])
    assert damage_of(path, 8) is None
