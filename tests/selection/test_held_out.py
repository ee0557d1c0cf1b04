from __future__ import annotations

import numpy as np
import pytest

from hf_transfer.features import fit_probe
from hf_transfer.selection.held_out import best_layer, held_out, majority
from hf_transfer.selection.target import read_target
from tests.selection.planted import CLASSES, sentences, shades


def test_every_row_is_judged_by_a_probe_that_has_not_seen_it():
    target = read_target(shades(45), folds=3)
    labels = np.array(target.rows["label"][:])
    features = (np.eye(3)[labels] + np.random.default_rng(0).standard_normal((45, 3))).astype(np.float32)
    found = held_out("ridge", target, {"x": features}, labels, np.arange(45))
    right = np.zeros(45)
    for fold in range(3):
        train, held = target.folds != fold, target.folds == fold
        probe = fit_probe(features[train], labels[train], kind="ridge", label_names=CLASSES)
        right[held] = probe.predict(features[held]) == labels[held]
    assert np.array_equal(found.scores, right) and found.ids.tolist() == list(range(45))
    assert found.mean == pytest.approx(right.mean())


def test_features_that_only_name_the_row_score_by_chance():
    target = read_target(shades(60))
    labels = np.array(target.rows["label"][:])
    names = np.eye(60, dtype=np.float32)
    for kind in ("ridge", "knn"):
        assert held_out(kind, target, {"x": names}, labels, np.arange(60)).mean < 0.55


def test_tokens_of_a_sentence_are_held_out_together_and_count_each():
    target = read_target(sentences(20))
    tags = target.rows["label"][:]
    labels = np.concatenate([np.array(row) for row in tags])
    examples = np.repeat(np.arange(20), [len(row) for row in tags])
    own = np.eye(20, dtype=np.float32)[examples]  # tells sentences, not tags
    found = held_out("ridge", target, {"x": own}, labels, examples)
    told = held_out("ridge", target, {"x": np.eye(2, dtype=np.float32)[labels]}, labels, examples)
    assert told.mean == 1.0 and found.mean < 1.0
    assert found.weights.tolist() == [len(row) for row in tags] and found.labels is None


def test_the_majority_is_that_of_the_other_folds():
    target = read_target(shades(60))
    labels = np.array(target.rows["label"][:])
    assert majority(target, labels, np.arange(60)).mean <= 0.5


def test_the_best_layer_is_that_whose_probe_predicts_best():
    target = read_target(shades(60))
    labels = np.array(target.rows["label"][:])
    noise = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
    layers = {"block.0": noise, "block.1": np.eye(3, dtype=np.float32)[labels], "features": noise + 1}
    assert best_layer(target, layers, labels, np.arange(60)) == "block.1"
    assert held_out("ridge", target, layers, labels, np.arange(60)).mean == 1.0
