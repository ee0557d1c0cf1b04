from __future__ import annotations

import io
import os
from datetime import datetime

import numpy as np
import pytest
import torch
from datasets import (
    Array2D,
    ClassLabel,
    Dataset,
    Features,
    Image,
    LargeList,
    List,
    Value,
    concatenate_datasets,
    load_from_disk,
)
from PIL import Image as Picture
from transformers import ViTImageProcessorPil, Wav2Vec2FeatureExtractor

from hf_transfer.data.preparation import prepare
from hf_transfer.features.cache import data_content
from hf_transfer.features.cache.digests import data_digest
from tests.data.test_sound import recordings


TEXTS = ["one", "", "three", None, "fünf", "six", "one"] * 100


def texts(**changes) -> Dataset:
    columns = {"text": list(TEXTS), "label": [number % 3 for number in range(700)], **changes}
    return Dataset.from_dict(
        columns, features=Features({"text": Value("string"), "label": ClassLabel(names=["a", "b", "c"])})
    )


BOTH = ["text", "label"]


def test_every_text_and_label_counts():
    digest = data_digest(texts(), BOTH)
    assert digest == data_digest(texts(), BOTH)
    seen, changes = {digest}, 0
    for row in (0, 1, 3, 255, 256, 699):
        for value in ("One", "on", None, "two"):
            if value != TEXTS[row]:
                changes += 1
                seen.add(data_digest(texts(text=[*TEXTS[:row], value, *TEXTS[row + 1 :]]), BOTH))
        labels = [number % 3 for number in range(700)]
        labels[row] = (labels[row] + 1) % 3
        changes += 1
        seen.add(data_digest(texts(label=labels), BOTH))
    assert len(seen) == 1 + changes > 25


def test_where_one_text_ends_counts():
    pairs = [["ab", "c"], ["a", "bc"], ["abc", ""], ["", "abc"], ["abc", None], [None, "abc"]]
    assert len({data_digest(Dataset.from_dict({"x": pair}), ["x"]) for pair in pairs}) == 6


def test_order_and_number_of_rows_count():
    data = texts()
    orders = [range(700), range(699), [1, 0, *range(2, 700)], [*range(698), 699, 698], range(699, -1, -1), [], [0]]
    assert len({data_digest(data.select(order), BOTH) for order in orders}) == len(orders)


def test_names_and_types_count():
    data = texts()
    renamed = data.cast_column("label", ClassLabel(names=["a", "b", "d"]))
    others = [data.rename_column("text", "words"), data.cast_column("label", Value("int64")), renamed]
    digests = [data_digest(other, other.column_names) for other in (data, *others)]
    assert len(set(digests)) == 4
    assert data_digest(data, ["text"]) == data_digest(renamed, ["text"]) != data_digest(data, BOTH)
    assert data_digest(data, ["label", "text"]) == data_digest(data, BOTH)


def test_storage_does_not_count(tmp_path):
    data = texts()
    digest = data_digest(data, BOTH)
    order = np.random.default_rng(0).permutation(700)
    again = data.select(order).select(np.argsort(order))
    assert again._indices is not None
    parts = concatenate_datasets(
        [data.select(range(0, 10)), data.select(range(10, 300)), data.select(range(300, 700))]
    )
    data.save_to_disk(tmp_path / "one", num_shards=3)
    mapped = data.map(lambda row: row, batch_size=7)
    extra = data.add_column("more", list(range(700)))
    for other in (again, again.flatten_indices(), parts, load_from_disk(tmp_path / "one"), mapped, extra):
        assert data_digest(other, BOTH) == digest
        assert data_digest(other.with_format("torch"), BOTH) == digest
    shuffled = data.shuffle(seed=1)
    assert data_digest(shuffled, BOTH) == data_digest(shuffled.flatten_indices(), BOTH) != digest


NESTED = {
    "list": (List(Value("int32")), [[1, 2], [], [3]], [[1], [2], [3]]),
    "large_list": (LargeList(Value("int32")), [[1, 2], [], [3]], [[1, 2, 3], [], []]),
    "fixed": (List(Value("float16"), length=2), [[1, 2], [3, 4]], [[1, 2], [3, 5]]),
    "fixed_missing": (List(Value("float32"), length=2), [[1, 2], None, [0, 0]], [[1, 2], [0, 0], None]),
    "struct": ({"a": Value("int64"), "b": Value("string")}, [{"a": 1, "b": "x"}] * 2, [{"a": 1, "b": "y"}] * 2),
    "struct_missing": ({"a": Value("int64")}, [{"a": 1}, {"a": None}], [{"a": 1}, {"a": 0}]),
    "structs": (List({"a": Value("int64")}), [[{"a": 1}], []], [[], [{"a": 1}]]),
    "bool": (Value("bool"), [True, False, None], [True, None, False]),
    "binary": (Value("binary"), [b"ab", b"c"], [b"a", b"bc"]),
    "large_string": (Value("large_string"), ["ab", "c"], ["a", "bc"]),
    "double": (Value("float64"), [0.0, 1.0], [-0.0, 1.0]),
    "date": (Value("timestamp[s]"), [datetime(2020, 1, 1), None], [datetime(2020, 1, 2), None]),
    "decimal": (Value("decimal128(5, 2)"), ["1.25", "2"], ["1.25", "3"]),
    "array": (Array2D((2, 2), "float32"), [[[1, 2], [3, 4]]], [[[1, 2], [4, 3]]]),
    "null": (Value("null"), [None, None], [None]),
}


@pytest.mark.parametrize("kind", NESTED)
def test_every_type_of_column(kind):
    feature, values, others = NESTED[kind]
    if kind == "decimal":
        import decimal

        values, others = [[decimal.Decimal(text) for text in column] for column in (values, others)]
    one, other = (Dataset.from_dict({"x": column}, features=Features({"x": feature})) for column in (values, others))
    assert data_digest(one, ["x"]) != data_digest(other, ["x"])
    # behind other rows, in another order, and found through indices
    long = concatenate_datasets([other, one, other])
    part = long.select(range(len(other), len(other) + len(one)))
    assert data_digest(part, ["x"]) == data_digest(one, ["x"])
    backwards = one.select(range(len(one) - 1, -1, -1))
    assert data_digest(backwards.select(range(len(one) - 1, -1, -1)), ["x"]) == data_digest(one, ["x"])


def test_what_lies_under_a_missing_value_does_not_count():
    import pyarrow as pa

    arrays = [
        pa.Array.from_buffers(pa.int64(), 2, [pa.py_buffer(b"\x01"), pa.py_buffer(np.array([7, hidden]).tobytes())])
        for hidden in (0, 5)
    ]
    one, other = (Dataset(pa.table({"x": array}), fingerprint="x") for array in arrays)
    assert one["x"][:] == [7, None] and data_digest(one, ["x"]) == data_digest(other, ["x"])


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Picture.fromarray(np.full((4, 4, 3), shade, np.uint8)).save(file, "PNG")
    return file.getvalue()


def pictures(shades, folder=None) -> Dataset:
    images = [{"bytes": png(shade), "path": f"{number}.png"} for number, shade in enumerate(shades)]
    if folder is not None:
        for image in images:
            (folder / image["path"]).write_bytes(image["bytes"])
        images = [str(folder / image["path"]) for image in images]
    return Dataset.from_dict({"image": images}, features=Features({"image": Image()}))


def test_images_count_by_their_bytes(tmp_path):
    data = pictures([1, 2, 3])
    digest = data_digest(data, ["image"])
    assert data_digest(pictures([1, 2, 4]), ["image"]) != digest
    renamed = [{"bytes": png(shade), "path": None} for shade in (1, 2, 3)]
    assert data_digest(Dataset.from_dict({"image": renamed}, features=data.features), ["image"]) == digest
    data.select([2, 0, 1]).save_to_disk(tmp_path / "saved")
    assert data_digest(load_from_disk(tmp_path / "saved").select([1, 2, 0]), ["image"]) == digest


def test_files_count_by_path_size_and_time(tmp_path):
    data = pictures([1, 2, 3], tmp_path)
    digest = data_digest(data, ["image"])
    assert data_digest(data, ["image"]) == digest
    path = tmp_path / "1.png"
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert data_digest(data, ["image"]) != digest
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert data_digest(data, ["image"]) == digest
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert data_digest(data, ["image"]) != digest
    path.unlink()
    message = rf"{path} cannot be read \(No such file.*\), but a row .* - that row has no content - restore the file"
    with pytest.raises(FileNotFoundError, match=message):
        data_digest(data, ["image"])
    assert data_digest(data.select([0, 2]), ["image"])


def test_files_in_lists_and_missing_images(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(1))
    features = Features({"images": List(Image())})
    data = Dataset.from_dict({"images": [[str(path)], [], [str(path), {"bytes": png(2), "path": None}]]}, features)
    digest = data_digest(data, ["images"])
    os.utime(path, (0, 0))
    assert data_digest(data, ["images"]) != digest
    rows = [{"bytes": png(1), "path": None}, None]
    missing = [Dataset.from_dict({"image": column}, Features({"image": Image()})) for column in (rows, rows[::-1])]
    assert len({data_digest(one, ["image"]) for one in missing}) == 2


def test_files_in_archives_and_at_addresses(tmp_path):
    archive = tmp_path / "images.zip"
    archive.write_bytes(b"one")

    def data(path):
        return Dataset.from_dict({"image": [path]}, Features({"image": Image()}))

    digest = data_digest(data(f"zip://a.png::{archive}"), ["image"])
    archive.write_bytes(b"another")
    assert data_digest(data(f"zip://a.png::{archive}"), ["image"]) != digest
    assert data_digest(data("hf://datasets/a/b@0123abc/c.png"), ["image"])
    for address in ("https://example.org/a.png", "hf://datasets/a/b/c.png", "zip://a.png::https://example.org/b.zip"):
        message = r"A row holds only the address .* - whether it still gives the same .* - store the bytes"
        with pytest.raises(ValueError, match=message):
            data_digest(data(address), ["image"])


def double(batch):
    return {"text": [text * 2 for text in batch["text"]]}


def half(batch):
    return {"text": [text[::2] for text in batch["text"]]}


def test_a_transform_counts():
    data = Dataset.from_dict({"text": ["a", "b"]})
    digests = [data_digest(one, ["text"]) for one in (data, data.with_transform(double), data.with_transform(half))]
    assert len(set(digests)) == 3
    assert data_digest(data.with_transform(double), ["text"]) == digests[1]


class Flip:
    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.flip(-1)


def test_the_transform_of_prepare_counts_by_its_processor():
    data = pictures([1, 2])
    processors = [ViTImageProcessorPil(), ViTImageProcessorPil(do_normalize=False)]
    first, other = (prepare(data, processor) for processor in processors)
    digest = data_digest(first, ["image"])
    first[0]
    assert digest == data_digest(first, ["image"]) == data_digest(prepare(data, ViTImageProcessorPil()), ["image"])
    flipped = prepare(data, processors[0], augment=Flip())
    assert len({digest, *(data_digest(one, ["image"]) for one in (data, other, flipped))}) == 4


def test_the_extractor_of_sound_counts():
    split = recordings(np.ones(40), np.zeros(40))
    digests = {
        data_digest(prepare(split, Wav2Vec2FeatureExtractor(do_normalize=flag)), ["audio"])
        for flag in (True, False, True)
    }
    assert len(digests) == 2


def test_a_transform_that_cannot_be_pickled_is_refused():
    class Unpicklable:
        def __reduce__(self):
            raise ValueError("holds a lock")

        def __call__(self, batch):
            return batch

    with pytest.raises(TypeError, match=r"cannot be pickled \(holds a lock\) - features that depend on it .* - use a"):
        data = Dataset.from_dict({"text": ["a"]})
        data._format_type, data._format_kwargs = "custom", {"transform": Unpicklable()}
        data_digest(data, ["text"])


def test_rows_are_read_in_batches(monkeypatch):
    sizes = []
    update = data_content._update

    def counted(checksum, array, feature):
        sizes.append(len(array))
        update(checksum, array, feature)

    monkeypatch.setattr(data_content, "_update", counted)
    data_digest(texts(), ["text"])
    assert sizes == [256, 256, 188]


def test_what_is_no_data_set_is_refused():
    message = (
        r"The data is a IterableDataset, not a `datasets.Dataset` - its content .* - load it without `streaming=True`"
    )
    with pytest.raises(TypeError, match=message):
        data_digest(texts().to_iterable_dataset(), ["text"])  # type: ignore[arg-type]


def test_a_missing_column_is_refused():
    with pytest.raises(ValueError, match=r"has no column `image`, only text, label - what the features .* - name col"):
        data_digest(texts(), ["text", "image"])
