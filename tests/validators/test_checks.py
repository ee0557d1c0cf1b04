from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from torch import nn

from hf_transfer.validators.checks import (
    NAMES,
    check_dataset,
    check_labels,
    check_model,
    check_numbers,
    check_validators,
    inputs_only,
)
from tests.models import lora, tiny_bert


LABEL_FREE = ("entropy", "information_maximization", "snd", "mixval")


def validators(names, *, source=True, train_source=True):
    return check_validators(names, source=source, train_source=train_source)


def test_without_names_all_for_which_there_is_data_are_taken():
    assert validators(None) == NAMES
    assert validators(None, train_source=False) == ("entropy", "information_maximization", "snd", "reverse", "mixval")
    assert validators(None, source=False) == validators(None, source=False, train_source=False) == LABEL_FREE


def test_names_come_in_one_order_and_once():
    assert validators(["snd", "dev", "snd"]) == ("dev", "snd")
    assert validators("snd") == ("snd",)


@pytest.mark.parametrize(("given", "near"), [("sdn", "snd"), ("information_maximisation", "information_maximization")])
def test_an_unknown_name_gets_the_nearest(given, near):
    with pytest.raises(ValueError, match=f'no validator "{given}".*Did you mean "{near}".*There are'):
        validators([given])


@pytest.mark.parametrize("name", ["oracle_accuracy", "oracle"])
def test_the_oracle_is_no_validator(name):
    with pytest.raises(ValueError, match=f'"{name}" is no validator: it looks at labels.*`oracle=...`'):
        validators([name])


def test_no_name_is_refused():
    with pytest.raises(ValueError, match=r"validators=\[\] names none.*leave it out"):
        validators([])


@pytest.mark.parametrize("name", ["iwv", "dev"])
def test_missing_training_rows_are_asked_for(name):
    with pytest.raises(ValueError, match=f"`{name}` was asked for without `train_source`: it needs the source rows"):
        validators([name], train_source=False)


@pytest.mark.parametrize("name", ["iwv", "dev", "reverse"])
def test_missing_source_rows_are_asked_for(name):
    with pytest.raises(ValueError, match=f"`{name}` was asked for without `source`: it needs labelled source rows"):
        validators([name], source=False)


@pytest.mark.parametrize("dataset", [None, [{"text": "a"}], Dataset.from_dict({"text": ["a"]}).to_iterable_dataset()])
def test_rows_that_cannot_be_drawn_are_refused(dataset):
    with pytest.raises(TypeError, match=r"`target` is a \w+: rows are drawn.*Dataset.from_generator"):
        check_dataset(dataset, "target")


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="`source` has no rows: there is nothing to validate on. Check its split"):
        check_dataset(Dataset.from_dict({"text": []}), "source")


@pytest.mark.parametrize(
    ("name", "way_out"), [("source", "validators that need none"), ("oracle", r"labelled rows\.")]
)
def test_rows_without_labels_are_refused(name, way_out):
    with pytest.raises(ValueError, match=f"`{name}` has the columns .*text.* and no `labels`.*{way_out}"):
        check_labels(Dataset.from_dict({"text": ["a"]}), name)


@pytest.mark.parametrize("labels", [["cat"], [0.5], [["B-PER"]]])
def test_labels_that_are_no_classes_are_refused(labels):
    with pytest.raises(ValueError, match="`label` of `source` holds .*cannot be compared.*class_encode_column"):
        check_labels(Dataset.from_dict({"label": labels}), "source")


def test_labels_of_classes_pass():
    rows = Dataset.from_dict({"label": ["cat", "dog"]}).class_encode_column("label")
    check_labels(rows, "source")
    check_labels(Dataset.from_dict({"labels": [[0, -100]]}), "source")


def test_every_column_of_labels_is_taken_off():
    given = {"input_ids": [[1]], "label": [0], "labels": [0], "label_ids": [0], "domain": [1]}
    assert inputs_only(Dataset.from_dict(given), "target").column_names == ["input_ids", "domain"]


def test_a_transform_goes_on_without_labels():
    rows = Dataset.from_dict({"value": [1, 2], "label": [0, 1]})
    doubled = rows.with_transform(lambda batch: {"pixels": [2 * value for value in batch["value"]]})
    assert inputs_only(doubled, "target")[:] == {"pixels": [2, 4]}


def test_a_transform_that_reads_labels_is_refused():
    rows = Dataset.from_dict({"value": [1], "label": [0]}).with_transform(lambda batch: {"pixels": batch["label"]})
    with pytest.raises(ValueError, match="transform of `target` reads 'label'.*must not reach a validator. Let"):
        inputs_only(rows, "target")


def test_augmentation_is_taken_off_prepared_images():
    from PIL import Image
    from transformers import ViTImageProcessorPil

    from hf_transfer.data.preparation import prepare

    images = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    processor = ViTImageProcessorPil(size={"height": 8, "width": 8})
    rows = prepare(Dataset.from_dict({"image": images, "label": [0, 1]}), processor, augment=torch.zeros_like)
    plain = prepare(Dataset.from_dict({"image": images}), processor)
    assert not torch.stack(rows[:]["pixel_values"]).any()
    found = inputs_only(rows, "target")
    assert list(found[:]) == ["pixel_values"]
    assert torch.equal(torch.stack(found[:]["pixel_values"]), torch.stack(plain[:]["pixel_values"]))


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: lora(model, ["query"], "classifier")])
def test_models_without_one_class_a_row_are_refused(wrap):
    with pytest.raises(ValueError, match='is a regression.*`metric_for_best_model="loss"`'):
        check_model(wrap(tiny_bert(num_labels=1)))
    with pytest.raises(ValueError, match="is a regression"):
        check_model(wrap(tiny_bert(problem_type="regression")))
    with pytest.raises(ValueError, match='several labels a row.*`metric_for_best_model="loss"`'):
        check_model(wrap(tiny_bert(problem_type="multi_label_classification")))
    check_model(wrap(tiny_bert()))


def test_a_model_of_no_configuration_passes():
    check_model(nn.Linear(2, 3))


@pytest.mark.parametrize("numbers", [{"batch_size": 0, "max_rows": 9}, {"batch_size": 1, "max_rows": 1}])
def test_limits_that_read_nothing_are_refused(numbers):
    with pytest.raises(ValueError, match=r"batch_size=\d and max_rows=\d were given: too few.*Give at least"):
        check_numbers(**numbers)
