from __future__ import annotations

import numpy as np
from datasets import Dataset

from hf_transfer.selection.raw_inputs import BANDS, SIDE, WORDS, raw_features
from hf_transfer.selection.target import read_target
from tests.selection.planted import sentences, shades, tones


def test_images_are_made_small():
    features, labels, examples = raw_features(read_target(shades(6, noise=0.0)))
    assert features.shape == (6, SIDE * SIDE * 3) and labels.tolist() == [0, 1, 2] * 2
    assert np.allclose(features[0], 60 / 255) and examples.tolist() == list(range(6))


def test_texts_are_counts_of_words_and_pairs_both():
    one = Dataset.from_dict({"text": ["a good book", "bad pan"] * 2, "label": [0, 1] * 2})
    features, _, _ = raw_features(read_target(one))
    assert features.shape == (4, WORDS) and np.allclose(np.linalg.norm(features, axis=1), 1)
    assert np.array_equal(features[0], features[2]) and not np.array_equal(features[0], features[1])
    pair = Dataset.from_dict({"premise": ["good"] * 4, "hypothesis": ["bad"] * 4, "label": [0, 1] * 2})
    assert raw_features(read_target(pair))[0].shape == (4, 2 * WORDS)


def test_tokens_have_a_row_each():
    target = read_target(sentences(10))
    features, labels, examples = raw_features(target)
    words = [len(row) for row in target.rows["tokens"][:]]
    assert features.shape == (sum(words), WORDS) and examples.tolist() == np.repeat(range(10), words).tolist()
    assert labels.tolist() == [tag for row in target.rows["label"][:] for tag in row]


def test_tones_of_other_height_have_other_bands(tmp_path):
    features, labels, _ = raw_features(read_target(tones(tmp_path, rows=4)))
    assert features.shape == (4, BANDS) and labels.tolist() == [0, 1, 0, 1]
    assert features[0].argmax() < features[1].argmax()
