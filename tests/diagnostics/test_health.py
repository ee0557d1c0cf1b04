from __future__ import annotations

import math

import numpy as np
import pytest

from hf_transfer.diagnostics.health import (
    class_signs,
    discriminator_warnings,
    domain_signs,
    finite_warnings,
    prediction_warnings,
)
from hf_transfer.diagnostics.model_rows import ModelRows


def rows(logits, labels=None, features=None):
    logits = np.asarray(logits, np.float64)
    labels = np.full(len(logits), -100) if labels is None else np.asarray(labels)
    return ModelRows(np.zeros((len(logits), 2), np.float32) if features is None else features, logits, labels)


HEALTHY = {
    "target_entropy": 0.8,
    "source_entropy": 0.5,
    "target_largest_share": 0.5,
    "source_largest_share": 0.4,
    "target_largest_class": 1.0,
    "source_accuracy": 0.9,
}


def warned(*history, rows=200, progress=0.5, classes=3):
    return set(prediction_warnings(history, classes=classes, rows=rows, progress=progress))


def test_signs_of_predictions_by_hand():
    source = rows([[0.0, 0.0], [math.log(3), 0.0]], labels=[0, 1])
    target = rows([[5000.0, -5000.0], [0.0, 1e4], [0.0, 1e4]])
    signs, histogram = class_signs(source, target)
    quarter = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert signs["source_entropy"] == pytest.approx((math.log(2) + quarter) / 2)
    assert signs["target_entropy"] == 0.0
    assert signs["source_accuracy"] == 0.5
    assert (signs["source_largest_share"], signs["target_largest_share"]) == (1.0, pytest.approx(2 / 3))
    assert signs["target_largest_class"] == 1.0 and histogram.tolist() == [1, 2]


def test_without_source_labels_there_is_no_accuracy():
    assert "source_accuracy" not in class_signs(rows([[0.0, 1.0]]), rows([[0.0, 1.0]]))[0]


def test_signs_of_the_domains_are_of_the_features():
    generator = np.random.default_rng(0)
    near, far = (generator.normal(size=(30, 3)).astype(np.float32) + shift for shift in (0, 9))
    signs = domain_signs(
        rows(np.zeros((30, 2)), features=near), rows(np.zeros((30, 2)), features=far), permutations=19, seed=0
    )
    assert signs["proxy_a_distance"] == 2.0 and signs["mmd_p_value"] == 0.05 and signs["mmd"] > 0.1


def test_a_healthy_history_warns_of_nothing():
    assert warned(HEALTHY) == warned(HEALTHY, HEALTHY) == warned() == set()
    assert warned({"proxy_a_distance": 1.0}) == set()  # a regression


def test_collapse_to_one_class():
    collapsed = {**HEALTHY, "target_largest_share": 0.97}
    assert warned(HEALTHY, collapsed) == {"one_class"}
    message = prediction_warnings([collapsed], classes=3, rows=9, progress=0.2)["one_class"]
    assert "97% of the target rows are predicted as class 1" in message and "InformationMaximization" in message
    both = {**collapsed, "source_largest_share": 1.0}
    assert warned(HEALTHY, both, progress=0.1) == {"one_class"}  # it could tell several before
    assert warned(both, progress=0.1) == set()  # a head that has hardly begun
    assert warned(both, progress=0.6) == {"one_class"}
    assert warned(collapsed, progress=0.0) == set()


def test_collapse_of_the_entropy():
    sure = {**HEALTHY, "target_entropy": 0.01, "source_entropy": 0.02}
    assert warned(HEALTHY, sure) == set()  # sure and right
    assert "entropy_collapse" in warned(HEALTHY, {**sure, "source_accuracy": 0.7})
    # it rose first: below the first evaluation it never was
    assert warned({**HEALTHY, "source_accuracy": 0.6}, HEALTHY, {**sure, "source_accuracy": 0.7}) == {
        "entropy_collapse"
    }
    below = {**HEALTHY, "target_entropy": 0.05}
    assert warned(below) == {"entropy_collapse"}
    message = prediction_warnings([below], classes=3, rows=9, progress=0.5)["entropy_collapse"]
    assert "far below the 0.500 of the source" in message


def test_negative_transfer():
    assert warned(HEALTHY, {**HEALTHY, "source_accuracy": 0.7}) == {"negative_transfer"}
    # within the noise of an accuracy on so many rows
    assert warned(HEALTHY, {**HEALTHY, "source_accuracy": 0.87}) == set()
    assert warned(HEALTHY, {**HEALTHY, "source_accuracy": 0.7}, rows=10) == set()
    perfect = {**HEALTHY, "source_accuracy": 1.0}
    assert warned(perfect, {**perfect, "source_accuracy": 15 / 16}, rows=16) == set()
    unlabelled = {name: value for name, value in HEALTHY.items() if name != "source_accuracy"}
    assert warned(unlabelled, unlabelled) == set()


def logged(*accuracies, name="domain_adversarial", every=10):
    return [{"loss": 1.0, f"{name}_accuracy": a, "step": every * n} for n, a in enumerate(accuracies, 1)]


def told(history, *, step, max_steps=200, domains=2, logs=5, distance=None):
    return discriminator_warnings(
        history, {"domain_adversarial": domains}, max_steps=max_steps, step=step, logs=logs, distance=distance
    )


def test_a_discriminator_at_chance_from_the_start():
    history = logged(0.5, 0.48, 0.52, 0.5, 0.51)
    found = told(history, step=50)
    assert set(found) == {"domain_adversarial_at_chance"}
    assert "right for 50% from the start, chance with 2 domains" in found["domain_adversarial_at_chance"]
    assert "Raise `objective_lr`" in found["domain_adversarial_at_chance"]
    assert "hold nothing of the domain" in told(history, step=50, distance=0.1)["domain_adversarial_at_chance"]
    assert "objective_lr" in told(history, step=50, distance=1.5)["domain_adversarial_at_chance"]
    assert told(history[:4], step=40) == {}  # too few logs
    assert told(history, step=50, max_steps=1000) == {}  # it has just begun
    assert told(logged(0.33, 0.34, 0.3, 0.35, 0.33), step=50, domains=3)
    assert told(logged(0.5, 0.5, 0.5, 0.5, 0.5), step=50, domains=3) == {}


def test_a_discriminator_that_is_confused_later_is_healthy():
    assert told(logged(0.6, 0.8, 0.9, 0.8, 0.7, 0.55, 0.5, 0.5, 0.5, 0.5), step=100) == {}
    # the first five logs are at chance, the first tenth of the run is not
    assert told(logged(*[0.5] * 5, *[0.9] * 15), step=200, max_steps=2000) == {}


def test_a_discriminator_that_always_wins():
    history = logged(0.7, 0.99, 1.0, 1.0, 1.0, 1.0)
    found = told(history, step=60)
    assert set(found) == {"domain_adversarial_always_right"}
    assert "adam_beta1=0.5" in found["domain_adversarial_always_right"]
    assert told(history, step=49) == {}  # the reversal is weak yet
    assert told(logged(1.0, 1.0, 1.0, 1.0, 1.0, 0.9), step=60) == {}
    assert told(logged(0.7, float("nan"), 1.0, 1.0, 1.0), step=60) == {}  # four that count


def test_other_accuracies_are_not_looked_at():
    assert told(logged(0.5, 0.5, 0.5, 0.5, 0.5, name="eval"), step=50) == {}


def test_numbers_that_are_not_finite():
    assert finite_warnings({"loss": 1.0, "step": 3, "note": "nan"}) == {}
    message = finite_warnings({"loss_b": float("inf"), "grad_norm": float("nan"), "loss": 0.0})["not_finite"]
    assert message.startswith("`grad_norm`, `loss_b` is not finite") and "max_grad_norm" in message
