from __future__ import annotations

import numpy as np
import pytest
from datasets import ClassLabel, Dataset

from hf_transfer.diagnostics.discrepancy import mmd_test
from hf_transfer.diagnostics.shift import class_shift


SOURCE = np.array([[0.0, 0.0], [2.0, 0.0], [10.0, 0.0], [10.0, 4.0]])
LABELS = [0, 0, 1, 1]
TARGET = np.array([[4.0, 4.0], [4.0, 4.0], [4.0, 4.0], [10.0, 2.0]])


def test_distances_and_proportions_by_hand():
    shift = class_shift(SOURCE, TARGET, LABELS, target_labels=[0, 0, 0, 1])
    first, second = shift.classes
    # means (1, 0) and (4, 4); (10, 2) twice
    assert (first.distance, second.distance) == (5.0, 0.0)
    # rows of the source lie 1, 1, 2 and 2 from the mean of their class
    assert shift.spread == pytest.approx(np.sqrt((1 + 1 + 4 + 4) / 4))
    assert first.relative == pytest.approx(5 / shift.spread)
    assert (first.source_share, first.target_share, first.change) == (0.5, 0.75, 0.25)
    assert (second.source_rows, second.target_rows) == (2, 1)
    assert shift.total_variation == 0.25


def test_the_discrepancy_of_a_class_is_that_of_its_rows():
    shift = class_shift(SOURCE, TARGET, LABELS, target_labels=[0, 0, 0, 1], permutations=19)
    test = mmd_test(SOURCE[:2], TARGET[:3], permutations=19, max_rows=500)
    assert (shift.classes[0].mmd, shift.classes[0].p_value) == (test.mmd, test.p_value)
    assert shift.classes[1].mmd is None and shift.classes[1].p_value is None  # one row of the target


def test_it_says_whether_the_classes_are_labels_or_predictions():
    by_labels = class_shift(SOURCE, TARGET, LABELS, target_labels=[0, 0, 0, 1], target_predictions=[1, 1, 1, 1])
    assert by_labels.target_classes == "labels" and by_labels.classes[0].target_rows == 3
    assert "by LABELS;" in str(by_labels)
    logits = np.array([[2.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    by_predictions = class_shift(SOURCE, TARGET, LABELS, target_predictions=logits)
    assert by_predictions.target_classes == "predictions" and by_predictions.classes[0].target_rows == 1
    assert "PREDICTIONS (not labels)" in str(by_predictions)


def test_labels_of_a_target_data_set_are_not_read_unasked():
    table = Dataset.from_dict({"features": TARGET.tolist(), "labels": [1, 1, 1, 0]})
    with pytest.raises(ValueError, match=r"Neither `target_labels` nor `target_predictions`.*for evaluation"):
        class_shift(SOURCE, table, LABELS)
    predicted = class_shift(SOURCE, table, LABELS, target_predictions=[0, 0, 0, 1])
    assert predicted == class_shift(SOURCE, TARGET, LABELS, target_predictions=[0, 0, 0, 1])


def test_names_and_labels_come_from_the_source_data_set():
    table = Dataset.from_dict({"features": SOURCE.tolist(), "labels": LABELS})
    table = table.cast_column("labels", ClassLabel(names=["cat", "dog", "owl"]))
    shift = class_shift(table, TARGET, target_predictions=[0, 0, 1, 1])
    assert [row.name for row in shift.classes] == ["cat", "dog", "owl"]
    owl = shift.classes[2]
    assert (owl.source_share, owl.target_share, owl.distance, owl.mmd) == (0.0, 0.0, None, None)
    assert "| owl | 0.0% (0) | 0.0% (0) | +0.0% |  |  |  |  |" in str(shift)


def test_unlabelled_rows_do_not_count():
    shift = class_shift(SOURCE, TARGET, [0, 0, 1, -100], target_labels=[0, 0, -100, 1])
    assert [(row.source_rows, row.target_rows) for row in shift.classes] == [(2, 2), (1, 1)]
    assert shift.classes[1].distance == 2.0


def test_a_class_of_one_domain_has_no_distance():
    shift = class_shift(SOURCE, TARGET, LABELS, target_labels=[2, 2, 2, 2])
    assert [row.distance for row in shift.classes] == [None, None, None]
    assert shift.total_variation == 1.0


def test_a_shift_of_one_class_is_found_and_constant_features_do_no_harm():
    generator = np.random.default_rng(0)
    source, labels = generator.normal(size=(120, 3)), np.arange(120) % 2
    target = generator.normal(size=(120, 3)) + 1.5 * labels[:, None]
    first, second = class_shift(source, target, labels, target_labels=labels).classes
    assert second.p_value == 1 / 200 and first.p_value > 0.01
    assert second.relative > 2 * first.relative
    flat = class_shift(np.ones((4, 2)), np.ones((4, 2)), LABELS, target_labels=LABELS)
    assert flat.spread == 0 and flat.classes[0].relative is None and flat.classes[0].p_value == 1.0


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"width 2, the target of width 1.*same taps"):
        class_shift(SOURCE, TARGET[:, :1], LABELS, target_labels=LABELS)
    with pytest.raises(ValueError, match=r"source are of the task `regression`.*one class number"):
        class_shift(SOURCE, TARGET, [0.5, 0.1, 0.2, 0.3], target_labels=LABELS)
    with pytest.raises(ValueError, match=r"4 rows of features and 3 labels"):
        class_shift(SOURCE, TARGET, LABELS, target_labels=[0, 1, 0])
    with pytest.raises(ValueError, match=r"1 rows of the target hold numbers that are not finite"):
        class_shift(SOURCE, np.where(TARGET > 9, np.inf, TARGET), LABELS, target_labels=LABELS)
