from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from hf_transfer.feature_arguments import FeatureArguments
from hf_transfer.features import matrix
from hf_transfer.recipe_arguments import DataArguments
from tests.models import tiny_bert


@pytest.fixture
def rows() -> Dataset:
    return Dataset.from_dict({"input_ids": [[1, 2, 3], [4, 5], [6]], "labels": [0, 1, 2]})


def test_every_option_reaches_the_extraction(monkeypatch, rows, tmp_path):
    seen = {}

    def extract(model, dataset, processor, **options):
        seen.update(options)
        return dataset

    monkeypatch.setattr("hf_transfer.feature_arguments.extract_features", extract)
    arguments = FeatureArguments(
        pooling="cls",
        feature_dtype="float16",
        feature_batch_size=7,
        cache_dir=str(tmp_path),
        overwrite_cache=True,
    )
    assert arguments.extract("model", rows, "processor", DataArguments(max_length=9), taps=[0], seed=5) is rows
    assert seen == {
        "taps": [0],
        "pooling": "cls",
        "batch_size": 7,
        "max_length": 9,
        "dtype": "float16",
        "views": 1,
        "augment": None,
        "seed": 5,
        "cache_dir": str(tmp_path),
        "overwrite": True,
    }


def test_only_the_training_rows_are_seen_several_times(monkeypatch, rows):
    views = []
    monkeypatch.setattr(
        "hf_transfer.feature_arguments.extract_features", lambda *args, **options: views.append(options["views"])
    )
    monkeypatch.setattr("hf_transfer.feature_arguments.augmentation", lambda name, processor: name)
    arguments, data_args = FeatureArguments(views=3), DataArguments(augmentation="light")
    arguments.check(data_args)
    arguments.extract("model", rows, "processor", data_args, training=True)
    arguments.extract("model", rows, "processor", data_args)
    assert views == [3, 1]


def test_batch_size_changes_nothing(rows, tmp_path):
    model = tiny_bert().eval()
    one, three = (
        FeatureArguments(feature_batch_size=size, cache_dir=str(tmp_path / str(size))).extract(
            model, rows, None, DataArguments()
        )
        for size in (1, 3)
    )
    np.testing.assert_allclose(matrix(one), matrix(three), atol=1e-6)


@pytest.mark.parametrize(
    ("views", "augmentation", "message"),
    [(0, "none", "leaves no row"), (2, "none", "Give both, or neither"), (1, "strong", "Give both, or neither")],
)
def test_views_and_augmentation_go_together(views, augmentation, message):
    with pytest.raises(ValueError, match=message):
        FeatureArguments(views=views).check(DataArguments(augmentation=augmentation))
