from __future__ import annotations

import pytest
from accelerate.data_loader import IterableDatasetShard
from datasets import ClassLabel, Dataset, Features, Image, IterableDataset, List, Value
from torch.utils.data import DataLoader

from hf_transfer.data.mixing import mix_domains


NAMES = ClassLabel(names=["neg", "pos"])


def table(domain: str, rows: int, *, feature=NAMES, labels=(0, 1)) -> Dataset:
    return Dataset.from_dict(
        {
            "text": [f"{domain}{row}" for row in range(rows)],
            "label": [labels[row % len(labels)] for row in range(rows)],
        },
        Features({"text": Value("string"), "label": feature}),
    )


def stream(domain: str, rows: int, shards: int = 1, **options) -> IterableDataset:
    return table(domain, rows, **options).to_iterable_dataset(num_shards=shards)


def generated(domain: str, rows: int) -> IterableDataset:
    """A stream whose features are unknown and whose rows are Python objects."""

    def generate():
        for row in range(rows):
            yield {"text": f"{domain}{row}", "label": row % 2}

    return IterableDataset.from_generator(generate)


def texts(dataset) -> list[str]:
    return [row["text"] for row in dataset]


@pytest.mark.parametrize("make", [stream, generated])
def test_rows_alternate_and_short_domains_start_over(make):
    mixed = list(mix_domains(make("s", 5), make("t", 2), make("u", 3)))
    assert [row["domain"] for row in mixed] == ([0, 1, 2] * 5)[: len(mixed)] and len(mixed) >= 13
    assert [row["text"] for row in mixed if row["domain"] == 0] == ["s0", "s1", "s2", "s3", "s4"]
    assert [row["text"] for row in mixed if row["domain"] == 1][:4] == ["t0", "t1", "t0", "t1"]
    assert [row["label"] for row in mixed if row["domain"] == 0] == [0, 1, 0, 1, 0]
    assert {row["label"] for row in mixed if row["domain"]} == {-100}


def test_a_longer_target_makes_the_source_start_over():
    mixed = list(mix_domains(stream("s", 2), stream("t", 5)))
    assert [row["text"] for row in mixed] == ["s0", "t0", "s1", "t1", "s0", "t2", "s1", "t3", "s0", "t4"]


def test_class_names_and_types_are_known():
    mixed = mix_domains(stream("s", 5), stream("t", 2))
    assert mixed.features is not None
    assert mixed.features["label"].names == ["neg", "pos"] and mixed.features["domain"] == Value("int64")


def test_labelled_domains_and_targets_without_labels():
    both = mix_domains(stream("s", 2), stream("t", 2), stream("u", 2), labelled=(0, 1))
    assert [row["label"] for row in both][:6] == [0, 0, -100, 1, 1, -100]
    bare = mix_domains(stream("s", 2), stream("t", 2).remove_columns("label"))
    assert [row["label"] for row in bare] == [0, -100, 1, -100]
    other = mix_domains(stream("s", 2), stream("t", 2).rename_column("label", "labels"))
    assert list(other)[1] == {"text": "t0", "label": -100, "domain": 1}


def test_no_label_of_the_target_comes_through():
    mixed = mix_domains(
        stream("s", 4), stream("t", 4, labels=(1,)).map(lambda row: {"length": 2}).remove_columns("length")
    )
    assert all(set(row) == {"text", "label", "domain"} for row in mixed)
    assert {row["label"] for row in mixed if row["domain"] == 1} == {-100}


def test_shuffle_buffers_and_epochs_are_respected():
    shuffled = mix_domains(
        stream("s", 64).shuffle(seed=1, buffer_size=64), stream("t", 64).shuffle(seed=2, buffer_size=64)
    )
    first = texts(shuffled)
    assert first != texts(mix_domains(stream("s", 64), stream("t", 64)))
    assert first == texts(shuffled)
    assert [text[0] for text in first] == ["s", "t"] * 64
    assert sorted(first) == sorted(texts(mix_domains(stream("s", 64), stream("t", 64))))
    shuffled.set_epoch(1)
    second = texts(shuffled)
    assert second != first and [text[0] for text in second] == ["s", "t"] * 64


def test_shards_for_several_ranks_hold_every_domain():
    mixed = mix_domains(stream("s", 8, shards=2), stream("t", 6, shards=2))
    parts = [texts(mixed.shard(num_shards=2, index=rank)) for rank in range(2)]
    assert all([text[0] for text in part][:6] == ["s", "t"] * 3 for part in parts)
    assert {text for part in parts for text in part} == set(texts(mixed))


@pytest.mark.parametrize("split_batches", [False, True])
def test_accelerates_stream_shards_are_mixed(split_batches):
    mixed = mix_domains(stream("s", 7), stream("t", 3))
    size = 8 if split_batches else 4
    for rank in range(2):
        shard = list(IterableDatasetShard(mixed, size, False, 2, rank, split_batches))  # type: ignore[arg-type]
        for start in range(0, len(shard), 4):
            assert {row["domain"] for row in shard[start : start + 4]} == {0, 1}


def test_resumes_from_a_state_dict():
    mixed = mix_domains(stream("s", 9), stream("t", 4))
    expected = texts(mixed)
    for stop in (1, 5, 8, 11):
        running = mix_domains(stream("s", 9), stream("t", 4))
        iterator = iter(running)
        head = [next(iterator)["text"] for _ in range(stop)]
        state = running.state_dict()
        iterator.close()  # type: ignore[attr-defined]
        resumed = mix_domains(stream("s", 9), stream("t", 4))
        resumed.load_state_dict(state)
        assert head + texts(resumed) == expected


def test_goes_through_map_and_a_data_loader():
    mixed = mix_domains(stream("s", 6), stream("t", 6)).map(lambda row: {**row, "length": len(row["text"])})
    for batch in DataLoader(mixed, batch_size=4):  # type: ignore[arg-type]
        assert batch["domain"].tolist() == [0, 1, 0, 1] and batch["length"].tolist() == [2] * 4
        assert batch["label"][1::2].tolist() == [-100, -100]


def test_tokenized_streams_of_unknown_features():
    def tokenize(row):
        return {"input_ids": [1] * len(row["text"])}

    mixed = mix_domains(*(stream(name, 2).map(tokenize, remove_columns="text") for name in "st"))
    assert list(mixed)[1] == {"input_ids": [1, 1], "label": -100, "domain": 1}


def test_lists_of_labels_keep_their_shape():
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=["O", "B"]))})
    rows = {"tokens": [["a"], ["b", "c"]], "ner_tags": [[0], [1, 0]]}
    source = Dataset.from_dict(rows, features).to_iterable_dataset()
    expected = [[0], [-100], [1, 0], [-100, -100]]
    assert [row["ner_tags"] for row in mix_domains(source, source)] == expected
    assert [row["ner_tags"] for row in mix_domains(source, source.remove_columns("ner_tags"))] == expected


def test_floats_are_masked_by_floats():
    mixed = mix_domains(*(stream(n, 2, feature=Value("float32"), labels=(0.5, 1.5)) for n in "st"))
    assert [row["label"] for row in mixed] == [0.5, -100.0, 1.5, -100.0]


def images(pictures: list) -> IterableDataset:
    features = Features({"image": Image(), "label": NAMES})
    return Dataset.from_dict({"image": pictures, "label": [0, 1]}, features).to_iterable_dataset()


def test_images_are_decoded_when_read():
    from PIL import Image as PIL

    mixed = mix_domains(*(images([PIL.new("L", (4, 4), color)] * 2) for color in (10, 20)))
    assert [row["image"].getpixel((0, 0)) for row in mixed] == [10, 20, 10, 20]
    mapped = mixed.map(lambda row: {"pixel": row["image"].getpixel((0, 0))}, remove_columns="image")
    assert [row["pixel"] for row in mapped] == [10, 20, 10, 20]


def test_images_are_not_decoded_by_the_mask():
    broken = images([{"bytes": b"no image", "path": None}] * 2)
    mixed = mix_domains(broken, broken)
    assert len(list(mixed.with_format("arrow"))) == 4
    with pytest.raises(Exception, match="cannot identify image"):
        next(iter(mixed))


def test_formats_are_kept():
    source, target = stream("s", 2).with_format("torch"), stream("t", 2).with_format("torch")
    assert next(iter(mix_domains(source, target)))["label"].item() == 0
    with pytest.raises(ValueError, match="different formats: `torch`, `None`.*with_format"):
        mix_domains(source, stream("t", 2))


def test_errors_before_training():
    good = stream("s", 3)
    with pytest.raises(ValueError, match=r"target \(domain 1\) is empty"):
        mix_domains(good, good.filter(lambda row: False))
    with pytest.raises(ValueError, match=r"source \(domain 0\) has no label column"):
        mix_domains(good.remove_columns("label"), good)
    with pytest.raises(ValueError, match="only the source has `pos`, only .* has `neutral`"):
        mix_domains(good, stream("t", 2, feature=ClassLabel(names=["neg", "neutral"])))
    with pytest.raises(ValueError, match="lacks `text` and has `review` besides"):
        mix_domains(good, good.rename_column("text", "review"))
    with pytest.raises(ValueError, match="has a column `domain` already"):
        mix_domains(good, good.map(lambda row: {"domain": 0}))
    with pytest.raises(ValueError, match="column `labels` would still tell"):
        both = good.map(lambda row: {"labels": row["label"]})
        mix_domains(both, both, label_column="label")
    with pytest.raises(ValueError, match="are strings; a loss needs class numbers"):
        mix_domains(*(stream("s", 2, feature=Value("string"), labels=("a", "b")),) * 2)
    with pytest.raises(ValueError, match="holds the class number -1"):
        mix_domains(stream("s", 2, feature=Value("int64"), labels=(0, -1)), good)
    with pytest.raises(ValueError, match="holds the real label -100.0"):
        mix_domains(*(stream("s", 2, feature=Value("float32"), labels=(0.5, -100.0)),) * 2)


def test_a_broken_label_further_on_stops_the_stream():
    labels = [0] * 40 + [-7]
    mixed = mix_domains(stream("s", 41, feature=Value("int64"), labels=labels), stream("t", 2, feature=Value("int64")))
    with pytest.raises(ValueError, match="holds the class number -7"):
        list(mixed)


def test_sample_weights_are_handed_on_and_are_one_elsewhere():
    weighted = table("s", 3).add_column("sample_weight", [0.5, 2.0, 0.25]).to_iterable_dataset()
    mixed = mix_domains(weighted, stream("t", 3))
    assert [row["sample_weight"] for row in mixed] == [0.5, 1.0, 2.0, 1.0, 0.25, 1.0]
    assert [row["sample_weight"] for row in mix_domains(stream("t", 3), weighted)] == [1.0, 0.5, 1.0, 2.0, 1.0, 0.25]
    assert mixed.features["sample_weight"] == Value("float64")
