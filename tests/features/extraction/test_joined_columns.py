from __future__ import annotations

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_transfer.features.cache.entry import Entry
from hf_transfer.features.cache.rows import matrix
from hf_transfer.features.extraction.fetched_rows import Views
from hf_transfer.features.extraction.inputs import find_source
from hf_transfer.features.extraction.joined_columns import check_columns, joined
from tests.features.extraction.extraction_data import NAMES, image_processor, images, texts, tokenizer
from tests.models import tiny_bert, tiny_vit


def entry_of(tmp_path, rows: int) -> Entry:
    entry = Entry.open({"kind": "features"}, rows=rows, shard_rows=5, cache_dir=tmp_path)
    for shard, numbers in enumerate(entry.ranges()):
        ids = np.arange(numbers.start, numbers.stop)
        features = Features({"features": List(Value("float32"), length=2), "id": Value("int64")})
        entry.write(shard, {"features": np.stack([ids, ids], 1).astype("float32"), "id": ids}, features)
    return entry


@pytest.mark.parametrize("shuffled", [False, True])
def test_labels_and_other_columns_of_any_type(shuffled, tmp_path):
    data = texts().add_column("domain", [row % 2 for row in range(12)])
    data = data.shuffle(seed=0) if shuffled else data
    source = find_source(tiny_bert(), data, tokenizer())
    found = joined(entry_of(tmp_path, 12), data, source, ["domain", "text"])
    assert found.column_names == ["features", "id", "labels", "domain", "text"]
    assert found["labels"] == data["label"] and found["text"] == data["text"] and found["domain"] == data["domain"]
    assert found.features["labels"] == ClassLabel(names=NAMES) and found.features["labels"].int2str(1) == "mid"
    assert matrix(found)[:, 0].tolist() == list(range(12))
    assert found.select([3, 1])["text"] == [data["text"][3], data["text"][1]]


def test_the_label_asked_for_by_its_name_is_there_once(tmp_path):
    source = find_source(tiny_bert(), texts(), tokenizer())
    assert joined(entry_of(tmp_path, 12), texts(), source, ["label"]).column_names == ["features", "id", "labels"]


def test_data_without_labels(tmp_path):
    data = texts().remove_columns("label")
    found = joined(entry_of(tmp_path, 12), data, find_source(tiny_bert(), data, tokenizer()), [])
    assert found.column_names == ["features", "id"]


def test_views_repeat_the_labels(tmp_path):
    source = find_source(tiny_vit(), images(), image_processor(), views=Views(2, lambda pixels: pixels))
    found = joined(entry_of(tmp_path, 20), images(), source, [])
    assert found["labels"] == [row % 3 for row in range(10) for _ in range(2)]


def test_the_fingerprint_tells_labels_apart(tmp_path):
    entry = entry_of(tmp_path, 12)
    other = texts().remove_columns("label").add_column("label", [0] * 12)
    one, two, again = (
        joined(entry, data, find_source(tiny_bert(), data, tokenizer()), []) for data in (texts(), other, other)
    )
    assert one._fingerprint != two._fingerprint == again._fingerprint


def test_columns_are_checked():
    data = Dataset.from_dict({"text": ["a"], "id": [4]})
    with pytest.raises(ValueError, match='columns names "colour".*`text`, `id`: there is nothing'):
        check_columns(data, ["colour"], ["id"])
    with pytest.raises(ValueError, match='columns names "id", which is a column of the result.*rename_column'):
        check_columns(data, ["id"], ["features", "id"])
    check_columns(data, ["text"], ["features", "id"])
