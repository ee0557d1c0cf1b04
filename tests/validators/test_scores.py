from __future__ import annotations

import math

import numpy as np
import pytest

from hf_transfer.features.reweighting import DomainClassifier
from hf_transfer.functional import model_selection as formulas
from hf_transfer.metrics import compute_metrics_for
from hf_transfer.validators.reading import Readings
from hf_transfer.validators.scores import NAMES, NEEDS_SOURCE, NEEDS_TRAIN_SOURCE, Evidence, oracle_scores, scores_of


def readings(rows=40, *, labelled=False, seed=0, shift=0.0, classes=3, **options) -> Readings:
    generator = np.random.default_rng(seed)
    features = (generator.normal(size=(rows, 4)) + shift).astype(np.float32)
    logits = features[:, :classes] * 2
    labels = np.where(generator.random(rows) < 0.7, logits.argmax(1), 0) if labelled else None
    return Readings(features, logits, labels, **options)


def evidence(**target) -> Evidence:
    return Evidence(
        target=readings(seed=1, shift=0.5, **target), source=readings(labelled=True), train_source=readings(seed=2)
    )


def test_each_name_is_its_formula():
    found, seen = scores_of(NAMES, evidence()), evidence()
    assert tuple(found) == NAMES
    assert seen.source is not None and seen.train_source is not None and seen.source.labels is not None
    errors = (seen.source.logits.argmax(1) != seen.source.labels).astype(float)
    classifier = DomainClassifier(strengths=(1e-4, 1e-3, 1e-2, 1e-1), folds=2)
    ratio = classifier.fit(seen.train_source.features, seen.target.features).ratio(seen.source.features)
    logits, classes = seen.target.logits, seen.target.logits.argmax(1)
    other = formulas.mixing_partners(classes, np.random.default_rng(0))[1]
    assert found == pytest.approx(
        {
            "iwv": formulas.importance_weighted_validation(errors, ratio),
            "dev": formulas.deep_embedded_validation(errors, ratio),
            "entropy": formulas.negative_entropy(logits),
            "information_maximization": formulas.information_maximization(logits),
            "snd": formulas.soft_neighborhood_density(logits),
            "reverse": formulas.probe_consistency(
                seen.target.features, classes, seen.source.features, seen.source.labels
            ),
            "mixval": formulas.mixed_logit_agreement(logits, other),
        }
    )


def test_weights_lean_to_the_target():
    ratio, source = evidence().ratio, evidence().source
    assert source is not None
    assert np.corrcoef(ratio, source.features.sum(1))[0, 1] > 0.5


def test_mixtures_of_inputs_come_before_those_of_logits():
    assert scores_of(["mixval"], evidence(mixed_agreement=0.125)) == {"mixval": 0.125}


def test_target_validators_need_the_target_alone():
    alone = Evidence(target=readings())
    names = [name for name in NAMES if name not in NEEDS_SOURCE]
    assert set(NEEDS_TRAIN_SOURCE) < set(NEEDS_SOURCE) < set(NAMES)
    assert all(math.isfinite(value) for value in scores_of(names, alone).values())


@pytest.mark.parametrize("part", ["target", "source", "train_source"])
@pytest.mark.parametrize("field", ["features", "logits"])
def test_what_is_not_finite_has_no_score(part, field):
    seen = evidence()
    getattr(getattr(seen, part), field)[3, 1] = np.inf
    found = scores_of(NAMES, seen)
    assert tuple(found) == NAMES and all(math.isnan(value) for value in found.values())


@pytest.mark.parametrize("target", [{"rows": 1}, {"rows": 2}, {"classes": 2}])
def test_small_targets_have_finite_scores(target):
    assert all(math.isfinite(value) for value in scores_of(NAMES, evidence(**target)).values())


def test_one_source_row_and_constant_features_have_finite_scores():
    constant = Readings(np.ones((5, 4), np.float32), np.ones((5, 3), np.float32))
    source = Readings(constant.features, constant.logits, np.array([0, 1, 2, 0, 0]))
    found = scores_of(NAMES, Evidence(target=constant, source=source, train_source=constant))
    assert all(math.isfinite(value) for value in found.values())
    assert found["snd"] == pytest.approx(math.log(4)) and found["reverse"] == 0.6 and found["mixval"] == 0
    assert found["dev"] == pytest.approx(-0.4) and found["iwv"] == pytest.approx(-0.4)
    one = Readings(source.features[:1], source.logits[:1], np.array([1]))
    found = scores_of(NAMES, Evidence(target=constant, source=one, train_source=constant))
    assert all(math.isfinite(value) for value in found.values())


def test_labels_of_the_target_have_no_place():
    with pytest.raises(AssertionError):
        Evidence(target=readings(labelled=True))


def test_oracle_scores_are_those_of_the_package():
    rows = readings(labelled=True)
    assert rows.labels is not None
    outputs = type("Outputs", (), {"predictions": rows.logits, "label_ids": rows.labels})
    expected = compute_metrics_for("text-classification")(outputs)  # pyright: ignore[reportArgumentType]
    assert oracle_scores(rows) == pytest.approx(
        {"oracle_accuracy": expected["accuracy"], "oracle_macro_f1": expected["macro_f1"]}
    )


def test_oracle_scores_by_hand():
    logits = np.eye(3)[[0, 0, 1, 1]]
    found = oracle_scores(Readings(logits, logits, np.array([0, 1, 1, 1])))
    # class 0: 2 / (1 + 2); class 1: 4 / (3 + 2); class 2 is neither there nor predicted
    assert found == pytest.approx({"oracle_accuracy": 0.75, "oracle_macro_f1": (2 / 3 + 4 / 5) / 2})
