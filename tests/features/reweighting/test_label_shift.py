"""Label shift: priors that are known, for confusions that are exact."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from transformers.utils import logging as transformers_logging

from hf_transfer.features.reweighting import label_shift_weights


CONFUSION = np.array([[0.7, 0.2, 0.1], [0.2, 0.6, 0.2], [0.1, 0.2, 0.7]])  # of 10 rows a class, in tenths


def predictions(counts, confusion=CONFUSION):
    """Rows of each class whose predictions have exactly the confusions, as probabilities and labels."""
    labels, predicted = [], []
    for label, count in enumerate(counts):
        for answer, share in enumerate(confusion[:, label]):
            rows = round(share * count)
            labels += [label] * rows
            predicted += [answer] * rows
    return 0.1 + 0.7 * np.eye(3)[predicted], np.array(labels)


@pytest.mark.parametrize("confusion", ["hard", "soft"])
@pytest.mark.parametrize(("source", "target"), [((10, 10, 10), (50, 10, 20)), ((30, 10, 50), (10, 60, 30))])
def test_known_priors_come_back_exactly(confusion, source, target):
    probabilities, labels = predictions(source)
    shift = label_shift_weights(probabilities, labels, predictions(target)[0], confusion=confusion)
    priors, expected = np.array(source) / sum(source), np.array(target) / sum(target)
    np.testing.assert_allclose(shift.target_priors, expected, atol=1e-12)
    np.testing.assert_allclose(shift.class_weights, expected / priors, atol=1e-12)
    np.testing.assert_allclose(shift.row_weights, (expected / priors)[labels])
    np.testing.assert_allclose(shift.source_priors, priors)
    assert shift.row_weights.mean() == pytest.approx(1) and shift.row_weights.dtype == np.float64
    if confusion == "hard":
        np.testing.assert_allclose(shift.confusion, CONFUSION)
        assert shift.condition_number == pytest.approx(np.linalg.cond(CONFUSION))


def test_it_is_the_joint_system_of_the_paper():
    """w = C^-1 mu with C[c, y] the share of rows with prediction c and class y."""
    probabilities, labels = predictions((30, 10, 20))
    target, _ = predictions((10, 40, 20))
    joint = np.zeros((3, 3))
    for row, label in zip(probabilities, labels, strict=True):
        joint[:, label] += row / len(labels)
    expected = np.linalg.solve(joint, target.mean(0))
    shift = label_shift_weights(probabilities, labels, target, confusion="soft")
    np.testing.assert_allclose(shift.class_weights, expected)


def test_counting_predictions_alone_is_not_enough():
    probabilities, labels = predictions((10, 10, 10))
    target, _ = predictions((80, 10, 10))
    naive = np.bincount(target.argmax(1), minlength=3) / len(target)
    shift = label_shift_weights(probabilities, labels, target)
    assert abs(naive[0] - 0.8) > 0.15 and shift.target_priors[0] == pytest.approx(0.8)


def test_negative_shares_are_cut_and_the_rest_has_sum_one():
    probabilities, labels = predictions((10, 10, 10))
    only_first = 0.1 + 0.7 * np.eye(3)[[0] * 5]  # more answers 0 than even class 0 gives
    shift = label_shift_weights(probabilities, labels, only_first)
    assert (shift.target_priors >= 0).all() and shift.target_priors.sum() == pytest.approx(1)
    assert (shift.class_weights * shift.source_priors).sum() == pytest.approx(1)
    assert shift.target_priors[0] == pytest.approx(1)


def test_rows_without_a_label_and_classes_without_rows():
    probabilities, labels = predictions((10, 10, 0))
    labels = np.append(labels, [-100, -100])
    probabilities = np.concatenate([probabilities, np.full((2, 3), 1 / 3)])
    shift = label_shift_weights(probabilities, labels, predictions((30, 10, 0))[0])
    np.testing.assert_allclose(shift.target_priors, [0.75, 0.25, 0], atol=1e-9)
    assert shift.class_weights[2] == 0
    assert shift.row_weights[-2:].tolist() == [1, 1] and shift.row_weights.mean() == pytest.approx(1)


def test_a_classifier_that_guesses_is_warned_of(caplog):
    logger = logging.getLogger("hf_transfer.features.reweighting.label_shift")
    transformers_logging.set_verbosity_warning()
    logger.addHandler(caplog.handler)
    try:
        probabilities, labels = predictions((10, 10, 10))
        label_shift_weights(probabilities, labels, probabilities)
        assert not caplog.records
        guess = np.full((30, 3), 1 / 3)
        shift = label_shift_weights(guess, labels, guess[:7], confusion="soft")
    finally:
        logger.removeHandler(caplog.handler)
    assert "condition number" in caplog.records[0].getMessage()
    assert "better classifier" in caplog.records[0].getMessage()
    assert np.isfinite(shift.row_weights).all() and shift.row_weights.mean() == pytest.approx(1)


def test_what_is_refused():
    good, labels = predictions((10, 10, 10))
    with pytest.raises(ValueError, match='`confusion="mean"` is unknown.*Pass "hard" or "soft"'):
        label_shift_weights(good, labels, good, confusion="mean")
    with pytest.raises(ValueError, match="source have shape.*a share of each class.*two classes"):
        label_shift_weights(good[:, 0], labels, good)
    with pytest.raises(ValueError, match="rows of the target are no probabilities.*softmax"):
        label_shift_weights(good, labels, 5 * good)
    with pytest.raises(ValueError, match="do not belong together.*one label a source row"):
        label_shift_weights(good, labels[1:], good)
    with pytest.raises(ValueError, match="hold values from 0 to 3: the confusions need a class number from 0 to 2"):
        label_shift_weights(good, labels + (labels == 2), good)
    with pytest.raises(ValueError, match="hold no label"):
        label_shift_weights(good, np.full(30, -100), good)
