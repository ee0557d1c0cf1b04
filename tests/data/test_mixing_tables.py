from __future__ import annotations

import pickle

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value, load_from_disk

from hf_transfer.data.mixing import mix_domains


NAMES = ClassLabel(names=["neg", "pos"])
SECRET = 77  # a class number that only the target has: it must be nowhere in the result


def reviews(texts: list[str], labels: list[int], feature=NAMES) -> Dataset:
    return Dataset.from_dict({"text": texts, "label": labels}, Features({"text": Value("string"), "label": feature}))


SOURCE = reviews(["a", "b", "c"], [0, 1, 1])
TARGET = reviews(["d", "e"], [1, 0])


def test_source_first_then_the_targets_masked():
    mixed = mix_domains(SOURCE, TARGET, reviews(["f"], [0]))
    assert mixed.to_dict() == {
        "text": ["a", "b", "c", "d", "e", "f"],
        "label": [0, 1, 1, -100, -100, -100],
        "domain": [0, 0, 0, 1, 1, 2],
    }
    assert mixed.features["domain"] == Value("int64")
    assert mixed.features["label"].names == ["neg", "pos"]


def test_the_inputs_are_left_alone():
    mix_domains(SOURCE, TARGET)
    assert TARGET["label"][:] == [1, 0] and SOURCE.column_names == ["text", "label"]


def test_several_labelled_domains():
    mixed = mix_domains(SOURCE, TARGET, reviews(["f"], [0]), labelled=(0, 2))
    assert mixed["label"][:] == [0, 1, 1, -100, -100, 0]


def test_target_without_a_label_column():
    mixed = mix_domains(SOURCE, TARGET.remove_columns("label"))
    assert mixed["label"][:] == [0, 1, 1, -100, -100]


def test_label_column_by_name_and_under_other_names():
    source, target = SOURCE.rename_column("label", "labels"), TARGET.rename_column("label", "stars")
    assert mix_domains(source, TARGET)["labels"][:] == [0, 1, 1, -100, -100]
    with pytest.raises(ValueError, match=r"target \(domain 1\) has other columns.*`stars`"):
        mix_domains(source, target)
    mixed = mix_domains(SOURCE.rename_column("label", "stars"), target, label_column="stars")
    assert mixed["stars"][:] == [0, 1, 1, -100, -100]


# --- no leak -------------------------------------------------------------------------------------------------------


def contains(dataset: Dataset, value: int) -> bool:
    """Whether an integer occurs anywhere in what the dataset consists of: visible or hidden rows, indices, pickle."""
    tables = [dataset.data.table] + [table for table in (dataset._indices,) if table is not None]
    numbers = [column for table in tables for column in table.columns if column.type in ("int64", "int32")]
    hidden = any(value in column.to_pylist() for column in numbers)
    return hidden or np.int64(value).tobytes() in pickle.dumps(dataset)


def secret_pair() -> tuple[Dataset, Dataset]:
    features = Features({"text": Value("string"), "label": Value("int64")})
    whole = Dataset.from_dict({"text": list("abcdef"), "label": [0, SECRET + 1, 1, SECRET, SECRET, 0]}, features)
    return whole.select([0, 2, 5]), whole.select([4, 3])


def test_hidden_rows_of_a_shared_table_do_not_leak():
    source, target = secret_pair()
    assert contains(source, SECRET)  # the check sees what it should: the source's table holds the target's rows
    with pytest.raises(ValueError, match=f"different label sets.*`{SECRET}`"):
        mix_domains(source, target)
    mixed = mix_domains(source, target.remove_columns("label"))
    assert mixed.to_dict() == {
        "text": ["a", "c", "f", "e", "d"],
        "label": [0, 1, 0, -100, -100],
        "domain": [0, 0, 0, 1, 1],
    }
    assert not contains(mixed, SECRET) and not contains(mixed, SECRET + 1)


@pytest.mark.parametrize("how", ["whole", "select", "slice", "shuffle", "filter", "disk"])
def test_labels_of_the_target_are_nowhere(how, tmp_path):
    names = ClassLabel(num_classes=SECRET + 1)
    target = reviews(["a", "b", "c", "d"], [SECRET] * 4, names)
    if how == "select":
        target = target.select([3, 1])
    elif how == "slice":
        target = target.select(range(1, 3))
    elif how == "shuffle":
        target = target.shuffle(seed=0)
    elif how == "filter":
        target = target.filter(lambda row: row["text"] != "b")
    elif how == "disk":
        target.save_to_disk(tmp_path)
        target = load_from_disk(tmp_path)
    assert contains(target, SECRET)
    mixed = mix_domains(reviews(["s", "t", "u", "v"], [0, 1, 2, 3], names).shuffle(seed=1), target)
    assert set(mixed.filter(lambda row: row["domain"] == 1)["label"][:]) == {-100}
    table_only = mixed.data.table.select(["label", "domain"]).to_pydict()
    assert SECRET not in table_only["label"]
    if how != "disk":
        assert not contains(mixed, SECRET)


def test_a_second_label_column_is_refused():
    both = [ds.add_column("labels", ds["label"][:]) for ds in (SOURCE, TARGET)]
    with pytest.raises(ValueError, match="2 columns that may hold the labels: `label`, `labels`.*remove_columns"):
        mix_domains(*both)
    with pytest.raises(ValueError, match=r"domain 1\) is unlabelled, but its column `labels` would still tell"):
        mix_domains(*both, label_column="label")
    named = [ds.add_column("label_text", list("xy" * 2)[: len(ds)]) for ds in (SOURCE, TARGET)]
    with pytest.raises(ValueError, match=r"its column `label_text` would.*remove_columns\(\['label_text'\]\)"):
        mix_domains(*named)
    classes = [ds.add_column("kind", [0] * len(ds)).cast_column("kind", NAMES) for ds in (SOURCE, TARGET)]
    with pytest.raises(ValueError, match="its column `kind` would"):
        mix_domains(*classes)


def test_a_renumbered_copy_of_the_labels_is_refused():
    def with_stars(stars):
        return reviews(list("abcd"), [0, 1, 1, 0]).add_column("stars", stars)

    with pytest.raises(ValueError, match="its column `stars` would"):
        mix_domains(with_stars([1, 5, 5, 1]), with_stars([1, 5, 5, 1]))
    assert "stars" in mix_domains(with_stars([1, 5, 4, 1]), with_stars([1, 5, 4, 1])).column_names
    assert "stars" in mix_domains(with_stars([1, 5, 5, 5]), with_stars([1, 5, 5, 5])).column_names


# --- kinds of labels -----------------------------------------------------------------------------------------------


def numbers(labels, feature) -> Dataset:
    return Dataset.from_dict(
        {"x": [0.5] * len(labels), "label": labels}, Features({"x": Value("float32"), "label": feature})
    )


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint8", "int64", "bool"])
def test_integers_become_int64(dtype):
    mixed = mix_domains(numbers([1, 0], Value(dtype)), numbers([0], Value(dtype)))
    assert mixed["label"][:] == [1, 0, -100]
    assert mixed.features["label"] == Value("int64")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_floats_are_masked_by_floats(dtype):
    mixed = mix_domains(numbers([0.5, -3.0], Value(dtype)), numbers([2.5], Value(dtype)))
    assert mixed["label"][:] == [0.5, -3.0, -100.0]
    assert mixed.features["label"] == Value(dtype)


def test_half_floats_are_widened():
    source = Dataset.from_dict({"label": np.array([0.5, 1.5], dtype=np.float16), "x": [1, 2]})
    assert mix_domains(source, source).features["label"] == Value("float32")


def test_token_labels_keep_their_shape():
    def tokens(tags):
        features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=["O", "B", "I"]))})
        return Dataset.from_dict({"tokens": [["w"] * len(t) for t in tags], "ner_tags": tags}, features)

    source, target = tokens([[0], [1, 2, 0]]), tokens([[1, 1], [], [2]])
    expected = [[0], [1, 2, 0], [-100, -100], [], [-100]]
    mixed = mix_domains(source, target)
    assert mixed["ner_tags"][:] == expected
    assert mixed.features["ner_tags"].feature.names == ["O", "B", "I"]
    assert mix_domains(source, target.remove_columns("ner_tags"))["ner_tags"][:] == expected
    shuffled = mix_domains(source.select([1, 0]), target.select([2, 0]))
    assert shuffled["ner_tags"][:] == [[1, 2, 0], [0], [-100], [-100, -100]]


def test_token_labels_of_unknown_length_are_refused():
    def tokens(tags):
        return Dataset.from_dict({"text": ["w"] * len(tags), "label": tags})

    with pytest.raises(ValueError, match="unequal lengths that match no other column.*lists of -100"):
        mix_domains(tokens([[0], [1, 2]]), tokens([[1]]).remove_columns("label"))


def test_multi_label_rows_keep_their_width():
    feature = List(Value("float32"))
    source, target = numbers([[0.0, 1.0], [1.0, 1.0]], feature), numbers([[1.0, 0.0]], feature)
    expected = [[0.0, 1.0], [1.0, 1.0], [-100.0, -100.0]]
    assert mix_domains(source, target)["label"][:] == expected
    assert mix_domains(source, target.remove_columns("label"))["label"][:] == expected
    fixed = [ds.cast_column("label", List(Value("float32"), length=2)) for ds in (source, target)]
    assert mix_domains(*fixed)["label"][:] == expected


def test_real_labels_of_minus_100_are_refused():
    with pytest.raises(ValueError, match=r"source \(domain 0\) holds the real label -100.0.*Shift or scale"):
        mix_domains(numbers([0.5, -100.0], Value("float32")), numbers([2.5], Value("float32")))
    multi = numbers([[0.5, -100.0]], List(Value("float32")))
    with pytest.raises(ValueError, match="holds the real label -100.0"):
        mix_domains(multi, multi)
    # where the labels are masked anyway it does not matter
    assert len(mix_domains(numbers([0.5], Value("float32")), numbers([-100.0], Value("float32")))) == 2


def test_string_labels_are_refused():
    with pytest.raises(ValueError, match=r"are strings; a loss needs class numbers.*class_encode_column\(\"label\"\)"):
        mix_domains(numbers(["pos"], Value("string")), numbers(["neg"], Value("string")))


def test_labels_that_are_no_labels_are_refused():
    image = Dataset.from_dict({"x": [1], "label": [None]}, Features({"x": Value("int64"), "label": Image()}))
    with pytest.raises(ValueError, match="only classes, numbers and lists of these.*label_column="):
        mix_domains(image, image)


def test_broken_labels_are_refused():
    good = numbers([0], Value("int64"))
    with pytest.raises(ValueError, match="1 rows whose label is null.*Filter"):
        mix_domains(numbers([0, None], Value("int64")), good)
    with pytest.raises(ValueError, match="holds the class number -1; class numbers start at 0.*-100"):
        mix_domains(numbers([0, -1], Value("int64")), good)
    with pytest.raises(ValueError, match="without a single label.*labelled="):
        mix_domains(numbers([-100, -100], Value("int64")), good)
    with pytest.raises(ValueError, match=r"target \(domain 1\) is a labelled domain without a single label"):
        mix_domains(good, numbers([-100], Value("int64")), labelled=(0, 1))
    assert mix_domains(numbers([0, -100], Value("int64")), numbers([-1], Value("int64")))["label"][:] == [
        0,
        -100,
        -100,
    ]


# --- different label sets ------------------------------------------------------------------------------------------


def test_other_class_names_are_refused_by_name():
    other = reviews(["d"], [1], ClassLabel(names=["neg", "neutral"]))
    message = r"different label sets: only the source has `pos`, only the target \(domain 1\) has `neutral`.*Cast both"
    with pytest.raises(ValueError, match=message):
        mix_domains(SOURCE, other)
    swapped = reviews(["d"], [1], ClassLabel(names=["pos", "neg"]))
    with pytest.raises(ValueError, match="same in another order: `neg`, `pos` against `pos`, `neg`"):
        mix_domains(SOURCE, swapped)


def test_integers_outside_the_sources_are_refused():
    feature = Value("int64")
    with pytest.raises(ValueError, match=r"domain 1\) holds `5`, `7`, the source only `0`, `2`.*Drop the rows"):
        mix_domains(numbers([0, 2], feature), numbers([5, 0, 7], feature))
    with pytest.raises(ValueError, match=r"domain 2\) holds `2`, the source only `0`, `1`"):
        mix_domains(SOURCE, TARGET, reviews(["x"], [2], feature))
    assert len(mix_domains(numbers([0, 2], feature), numbers([2], feature))) == 3


def test_another_task_is_refused():
    with pytest.raises(ValueError, match="one model cannot learn both.*same task"):
        mix_domains(numbers([0, 1], Value("int64")), numbers([0.5], Value("float32")))
    with pytest.raises(ValueError, match="one model cannot learn both"):
        mix_domains(numbers([0, 1], Value("int64")), numbers([[1]], List(Value("int64"))))


# --- columns -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "target"), [(SOURCE.select([]), TARGET), (SOURCE, TARGET.select([]))])
def test_empty_domains_are_refused(source, target):
    with pytest.raises(ValueError, match="is empty; every batch must hold rows of every domain.*Check the split"):
        mix_domains(source, target)


def test_source_without_labels_is_refused():
    with pytest.raises(ValueError, match=r"source \(domain 0\) has no label column; its columns are `text`"):
        mix_domains(SOURCE.remove_columns("label"), TARGET)
    with pytest.raises(ValueError, match=r"source \(domain 0\) has no column `stars`; its columns are `text`"):
        mix_domains(SOURCE, TARGET, label_column="stars")
    with pytest.raises(ValueError, match=r"target \(domain 1\) has no label column"):
        mix_domains(SOURCE, TARGET.remove_columns("label"), labelled=(0, 1))


def test_a_domain_column_is_refused():
    with pytest.raises(ValueError, match=r"target \(domain 1\) has a column `domain` already.*rename_column"):
        mix_domains(SOURCE, TARGET.add_column("domain", [1, 1]))


def test_other_columns_are_refused_by_name():
    with pytest.raises(ValueError, match="lacks none and has `stars` besides.*remove_columns"):
        mix_domains(SOURCE, TARGET.add_column("stars", [1, 5]))
    with pytest.raises(ValueError, match="lacks `text` and has `review` besides"):
        mix_domains(SOURCE, TARGET.rename_column("text", "review"))


def test_columns_in_another_order_or_width_are_brought_together():
    target = TARGET.select_columns(["label", "text"]).cast_column("text", Value("large_string"))
    mixed = mix_domains(SOURCE, target)
    assert mixed["text"][:] == ["a", "b", "c", "d", "e"]
    assert mixed.features["text"] == Value("string")


def test_columns_of_another_type_are_refused():
    with pytest.raises(ValueError, match=r"`text` is Value\('int64'\), in the source Value\('string'\).*cast_column"):
        mix_domains(SOURCE, Dataset.from_dict({"text": [1], "label": [0]}))


# --- what happens afterwards ---------------------------------------------------------------------------------------


def test_goes_through_map_filter_shuffle_and_disk(tmp_path):
    mixed = mix_domains(SOURCE.shuffle(seed=0), TARGET)
    mapped = mixed.map(lambda row: {**row, "length": len(row["text"])})
    assert mapped["label"][:] == mixed["label"][:] and mapped.features["label"].names == ["neg", "pos"]
    assert sorted(mixed.shuffle(seed=1)["label"][:]) == [-100, -100, 0, 1, 1]
    mixed.save_to_disk(tmp_path)
    assert load_from_disk(tmp_path).to_dict() == mixed.to_dict()
    assert pickle.loads(pickle.dumps(mixed)).to_dict() == mixed.to_dict()


def test_fingerprint_follows_the_mask():
    plain, labelled = mix_domains(SOURCE, TARGET), mix_domains(SOURCE, TARGET, labelled=(0, 1))
    assert plain._fingerprint == mix_domains(SOURCE, TARGET)._fingerprint
    assert plain._fingerprint != labelled._fingerprint


def test_inputs_behind_indices_are_not_copied():
    source = reviews(["a" * 10_000] * 100, [0, 1] * 50)
    address = source.data.table["text"].chunk(0).buffers()[2].address
    mixed = mix_domains(source.shuffle(seed=0), source.select([3, 1]))
    assert {chunk.buffers()[2].address for chunk in mixed.data.table["text"].chunks} == {address}


def test_formats_are_kept():
    source, target = (ds.map(lambda row: {"ids": [len(row["text"])]}).with_format("torch") for ds in (SOURCE, TARGET))
    mixed = mix_domains(source, target)
    assert mixed.format["type"] == "torch" and mixed[0]["domain"].item() == 0
    narrow = mix_domains(source.with_format("torch", columns=["ids"]), target.with_format("torch", columns=["ids"]))
    assert list(narrow[4]) == ["ids", "label", "domain"] and narrow[4]["label"].item() == -100
    with pytest.raises(ValueError, match="different formats: `torch`, `numpy`.*with_format"):
        mix_domains(source, target.with_format("numpy"))


def shout(batch):
    return {"loud": [text.upper() for text in batch["text"]], "labels": batch["label"]}


def whisper(batch):
    return {"loud": [text + "..." for text in batch["text"]], "labels": batch["label"]}


def test_transforms_of_each_domain_go_on():
    mixed = mix_domains(SOURCE.with_transform(shout), TARGET.with_transform(whisper))
    assert mixed[[4, 0]] == {"loud": ["e...", "A"], "labels": [-100, 0], "domain": [1, 0]}
    assert mixed[1] == {"loud": "B", "labels": 1, "domain": 0}
    assert mixed["domain"][:] == [0, 0, 0, 1, 1]
    assert pickle.loads(pickle.dumps(mixed))[3] == {"loud": "d...", "labels": -100, "domain": 1}
    assert mixed.select([4, 2])[0] == {"loud": "e...", "labels": -100, "domain": 1}


def test_transform_on_the_result():
    mixed = mix_domains(SOURCE, TARGET).with_transform(lambda batch: {**shout(batch), "domain": batch["domain"]})
    assert mixed[4] == {"loud": "E", "labels": -100, "domain": 1}


def test_images_are_decoded_only_when_read():
    from PIL import Image as PIL

    features = Features({"image": Image(), "label": NAMES})
    rows = {"image": [PIL.new("L", (4, 4), color) for color in (10, 20, 30)], "label": [0, 1, 0]}
    source = Dataset.from_dict(rows, features)

    def pixel(batch):
        return {"pixel": [image.getpixel((0, 0)) for image in batch["image"]], "labels": batch["label"]}

    mixed = mix_domains(source.select([2, 0]).with_transform(pixel), source.select([1]).with_transform(pixel))
    assert mixed[:] == {"pixel": [30, 10, 20], "labels": [0, 0, -100], "domain": [0, 0, 1]}


# --- sample weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["whole", "shuffled"])
def test_sample_weights_are_handed_on_and_are_one_elsewhere(how):
    source = SOURCE.add_column("sample_weight", [0.5, 2.0, 0.25])
    target = TARGET if how == "whole" else TARGET.shuffle(seed=0).select([1, 0])
    if how == "shuffled":
        source = source.select([2, 0])
    mixed = mix_domains(source, target, TARGET.add_column("sample_weight", [3.0, 4.0]))
    expected = [0.5, 2.0, 0.25] if how == "whole" else [0.25, 0.5]
    assert mixed["sample_weight"][:] == [*expected, 1.0, 1.0, 3.0, 4.0]
    assert mixed.features["sample_weight"] == Value("float64")
    assert mixed["text"][:] == [*source["text"], *target["text"], "d", "e"]
    assert mix_domains(TARGET, source)["sample_weight"][:] == [1.0, 1.0, *expected]  # the source is without
    assert "sample_weight" not in mix_domains(SOURCE, TARGET).column_names


def test_sample_weights_of_a_type_that_the_target_shares():
    source = SOURCE.add_column("sample_weight", [1.0, 2.0, 0.0]).cast_column("sample_weight", Value("float32"))
    mixed = mix_domains(source, TARGET)
    assert mixed.features["sample_weight"] == Value("float32") and mixed["sample_weight"][3:] == [1.0, 1.0]


def test_sample_weights_survive_formats_and_transforms():
    source = SOURCE.add_column("sample_weight", [0.5, 2.0, 0.25])
    arrays = mix_domains(source.with_format("numpy"), TARGET.with_format("numpy"))
    assert arrays[:]["sample_weight"].tolist() == [0.5, 2.0, 0.25, 1.0, 1.0]

    def length(batch):
        return {"length": [len(text) for text in batch["text"]]}

    changed = mix_domains(source.with_transform(length), TARGET.with_transform(length))[:]
    assert changed == {
        "length": [1] * 5,
        "label": [0, 1, 1, -100, -100],
        "domain": [0, 0, 0, 1, 1],
        "sample_weight": [0.5, 2.0, 0.25, 1.0, 1.0],
    }
