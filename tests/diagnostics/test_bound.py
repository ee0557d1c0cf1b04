from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from hf_transfer.diagnostics.a_distance import ADistance
from hf_transfer.diagnostics.bound import DomainBound, domain_bound


def blobs(rows, seed, shift=0.0, flipped=False):
    """Two classes, far apart in the first feature; the domain moves the second."""
    generator = np.random.default_rng(seed)
    labels = np.arange(rows) % 2
    features = generator.normal(size=(rows, 2)) * 0.3
    features[:, 0] += 4.0 * (labels == (0 if flipped else 1))
    features[:, 1] += shift
    return features, labels


def test_the_terms_add_up():
    bound = domain_bound(0.125, 1.5)
    assert (bound.source_error, bound.half_distance, bound.known) == (0.125, 0.75, 0.875)
    assert bound.joint_error is None and bound.total is None
    assert DomainBound(0.125, 0.25, 0.5).total == 0.875


def test_a_measured_distance_is_taken_as_it_is():
    distance = ADistance(1.0, (0.8, 1.2), 0.25, 1.0, 10, 10, 1.0)
    assert domain_bound(0.0, distance).half_distance == 0.5


def test_the_third_term_is_said_to_be_unknown_without_target_labels():
    source, labels = blobs(20, 0)
    bound = domain_bound(0.1, 1.0, source=source, source_labels=labels, target=source)
    assert bound.joint_error is None and "lambda, the joint error of the best classifier, is unknown" in str(bound)
    # a column of labels in the target is no label that was given
    table = Dataset.from_dict({"features": source.tolist(), "labels": labels.tolist()})
    assert domain_bound(0.1, 1.0, source=table, target=table).joint_error is None


def test_the_third_term_is_small_where_one_classifier_serves_both():
    source, target = blobs(60, 0), blobs(30, 1, shift=3.0)
    bound = domain_bound(
        0.0, 2.0, source=source[0], source_labels=source[1], target=target[0], target_labels=target[1]
    )
    assert bound.joint_error == 0.0 and bound.total == 1.0
    assert str(bound).endswith("It says nothing: every error is at most 1.")


def test_the_third_term_is_large_where_the_classes_do_not_correspond():
    source, target = blobs(60, 0), blobs(40, 1, flipped=True)
    bound = domain_bound(
        0.0, 0.0, source=source[0], source_labels=source[1], target=target[0], target_labels=target[1]
    )
    # what is right in one domain is wrong in the other: whatever it answers, the errors add up to about 1
    assert bound.joint_error == pytest.approx(1.0, abs=0.25)


def test_the_third_term_is_of_rows_that_were_not_fitted():
    """Random labels in high dimension: a classifier that saw the rows would make no error."""
    generator = np.random.default_rng(0)
    features, labels = generator.normal(size=(2, 60, 300)), generator.integers(0, 2, (2, 60))
    bound = domain_bound(
        0.0, 0.0, source=features[0], source_labels=labels[0], target=features[1], target_labels=labels[1]
    )
    assert bound.joint_error > 0.6


def test_the_labels_of_the_source_are_read_off_its_data_set():
    source, target = blobs(30, 0), blobs(30, 1)
    table = Dataset.from_dict({"features": source[0].tolist(), "labels": source[1].tolist()})
    assert domain_bound(0.0, 0.0, source=table, target=target[0], target_labels=target[1]).joint_error == 0.0


def test_it_prints_as_a_sum():
    assert str(DomainBound(0.05, 0.25, 0.1)) == (
        "target error <= 0.050 (source error) + 0.250 (half the proxy A-distance) + 0.100 (lambda) = 0.400"
    )


def test_bad_input_is_refused():
    source, labels = blobs(8, 0)
    with pytest.raises(ValueError, match=r"`source_error=94.0` is outside \[0, 1\].*1 - accuracy"):
        domain_bound(94.0, 1.0)
    with pytest.raises(ValueError, match=r"`distance=2.5` is outside \[0, 2\]"):
        domain_bound(0.1, 2.5)
    with pytest.raises(ValueError, match=r"`source_error=nan`"):
        domain_bound(float("nan"), 1.0)
    with pytest.raises(ValueError, match=r"without features of both domains.*`source=` and `target=`"):
        domain_bound(0.1, 1.0, target_labels=labels)
    options = {"source": source, "source_labels": labels, "target": source}
    with pytest.raises(ValueError, match=r"target has 3 labelled examples.*4 of each domain"):
        domain_bound(0.1, 1.0, **options, target_labels=[0, 1, 1, -100, -100, -100, -100, -100])
    with pytest.raises(ValueError, match=r"`held_out=0` is outside"):
        domain_bound(0.1, 1.0, **options, target_labels=labels, held_out=0)
