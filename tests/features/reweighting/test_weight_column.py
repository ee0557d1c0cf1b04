"""The column beside shuffled, formatted and transformed data sets."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from hf_transfer import mix_domains
from hf_transfer.features.reweighting.weight_column import with_weights


DATA = Dataset.from_dict({"text": ["a", "bb", "ccc", "dddd"], "label": [0, 1, 0, 1]})


def length(batch):
    return {"length": [len(text) for text in batch["text"]], "label": batch["label"]}


@pytest.mark.parametrize("change", [lambda d: d, lambda d: d.shuffle(seed=1), lambda d: d.select([2, 0])])
def test_rows_keep_their_weights(change):
    data = change(DATA)
    weights = np.arange(1.0, len(data) + 1) / 2
    weighted = with_weights(data, weights)
    assert weighted["sample_weight"][:] == weights.tolist() and weighted["text"][:] == data["text"][:]
    assert weighted.features["sample_weight"].dtype == "float64"
    assert weighted.select([1])["sample_weight"][:] == [weights[1]]
    assert "sample_weight" not in data.column_names
    assert weighted._fingerprint != with_weights(data, weights + 1)._fingerprint


def test_transforms_go_on_and_hand_the_weights_on():
    weighted = with_weights(DATA.with_transform(length), np.array([2.0, 0.5, 1.0, 0.5]))
    assert weighted[:2] == {"length": [1, 2], "label": [0, 1], "sample_weight": [2.0, 0.5]}
    assert weighted["sample_weight"][:] == [2.0, 0.5, 1.0, 0.5]
    mixed = mix_domains(weighted, DATA.select([3]).with_transform(length))
    assert mixed[3:] == {
        "length": [4, 4],
        "label": [1, -100],
        "domain": [0, 1],
        "sample_weight": [0.5, 1.0],
    }


def test_formats_show_the_weights():
    weighted = with_weights(DATA.with_format("numpy", columns=["label"]), np.ones(4))
    assert set(weighted[0]) == {"label", "sample_weight"} and weighted.format["type"] == "numpy"
    assert set(with_weights(DATA.with_format(None, columns=["label"]), np.ones(4))[0]) == {"label", "sample_weight"}
