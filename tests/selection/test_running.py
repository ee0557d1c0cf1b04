from __future__ import annotations

import numpy as np
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_transfer.selection.distance import domain_distance
from hf_transfer.selection.running import MODEL, _classes, distances_section


def test_distances_are_told_with_whose_features_they_are_in():
    generator = np.random.default_rng(0)
    source, target = generator.standard_normal((40, 4)), generator.standard_normal((40, 4)) + 3
    distance = domain_distance(source, target, seed=0)
    section = distances_section({("/home/me/data", "/home/me/model"): distance})
    assert section.startswith("## Distance of source data\n\n") and "data (model)" in section
    assert "/home" not in section and f"{distance.a_distance.distance:.2f}" in section
    assert MODEL == "model"


def test_classes_of_features_are_read_where_there_are_any():
    columns = {"features": [[0.0], [1.0]], "labels": [1, 0]}
    kinds = Features({"features": List(Value("float32")), "labels": ClassLabel(names=["a", "b"])})
    found = _classes(Dataset.from_dict(columns, features=kinds))
    assert found.tolist() == [1, 0]
    assert _classes(Dataset.from_dict({"features": [[0.0]]})) is None
    real = Features({"features": List(Value("float32")), "labels": Value("float32")})
    assert _classes(Dataset.from_dict({**columns, "labels": [0.5, 0.7]}, features=real)) is None
