"""Weights of source rows by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_transfer.domain_adaptation.outputs import Outputs, load_outputs, save_outputs
from hf_transfer.domain_adaptation.weighting import WEIGHTINGS


def outputs(features, labels):
    return Outputs(torch.tensor(features, dtype=torch.float32), torch.zeros(len(features), 2), torch.tensor(labels))


@pytest.fixture
def shifted():
    random = np.random.default_rng(0)
    source = outputs(random.normal(size=(80, 2)), [0, 1] * 40)
    return source, outputs(random.normal(size=(60, 2)) + [1.0, 0.0], [-100] * 60)


@pytest.mark.parametrize("name", ["iw", "kmm", "kliep", "ulsif", "nearest"])
def test_rows_near_the_target_weigh_more(name, shifted):
    source, target = shifted
    weights = WEIGHTINGS[name]().of(source, target, seed=0)
    assert weights.shape == (80,) and weights.min() >= 0 and weights.mean() == pytest.approx(1)
    near = source.features[:, 0].numpy() > 1
    assert weights[near].mean() > 1 > weights[source.features[:, 0].numpy() < -0.5].mean()
    flat = WEIGHTINGS[name](power=0.0).of(source, target, seed=0)
    assert np.allclose(flat, 1)


def test_bbse_finds_how_frequent_the_classes_are():
    random = np.random.default_rng(1)
    labels = np.repeat([0, 1], 100)
    source = outputs(random.normal(size=(200, 2)) + 3 * labels[:, None], labels.tolist())
    of_target = np.repeat([0, 1], [160, 40])  # 80% and 20%
    target = outputs(random.normal(size=(200, 2)) + 3 * of_target[:, None], [-100] * 200)
    weights = WEIGHTINGS["bbse"]().of(source, target, seed=0)
    assert weights[:100] == pytest.approx(1.6, abs=0.06) and weights[100:] == pytest.approx(0.4, abs=0.06)
    single = outputs([[0.0, 1.0], [1.0, 0.0], [2.0, 0.0]], [0, 0, 1])
    with pytest.raises(ValueError, match="Class 1 has one source row.*leave `bbse` out"):
        WEIGHTINGS["bbse"]().of(single, target, seed=0)


def test_outputs_are_read_back(tmp_path, shifted):
    source, target = shifted
    save_outputs({"source": source, "target": target}, tmp_path / "a.safetensors")
    again = load_outputs(tmp_path / "a.safetensors", ["target"])["target"]
    assert torch.equal(again.features, target.features) and torch.equal(again.labels, target.labels)
    assert len(target.labelled.features) == 0 and len(source.labelled.features) == 80
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
