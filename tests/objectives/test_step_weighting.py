"""What the weightings that look back take note of, and when they act on it; each against a loop over the steps."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer.objectives.multitask.step_weighting import StepWeighting
from hf_transfer.objectives.multitask.weightings import (
    DynamicWeightAverage,
    FastAdaptiveWeighting,
    GradientNormalization,
    RandomWeighting,
    SmoothTchebycheff,
)
from tests.functional.test_task_weighting import naive_gradnorm, naive_softmax
from tests.objectives.task_rows import ROWS_TASKS as TASKS


class Noting(StepWeighting):
    """Keeps what it is told."""

    def update(self, losses, before, norms, observed):
        self.told = losses.clone(), before.clone(), norms.clone(), observed.clone()


def seen(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


ALL = torch.tensor([True, True, True])


def run(weighting, steps, present=ALL, norms=None):
    """Some steps of one micro-batch each; the weights after each."""
    weighting = weighting.build(TASKS).double()
    found = []
    for number, losses in enumerate(steps):
        weighting(seen(*losses), present, None if norms is None else seen(*norms[number]))
        weighting.begin_step()
        found.append(weighting.weights.tolist())
    return found


def test_a_step_is_the_mean_over_its_micro_batches():
    weighting = Noting(window=2).build(TASKS).double()
    weighting(seen(1, 2, 3), ALL, seen(3, 1, 1))
    weighting(seen(3, 9, 5), torch.tensor([True, False, True]), seen(4, 9, 1))
    assert torch.equal(weighting.weights, torch.ones(3))  # nothing moves within a step
    weighting.begin_step()
    losses, before, norms, observed = weighting.told
    assert losses.tolist() == [2, 2, 4] and before.tolist() == [0, 0, 0] and observed.all()
    assert norms.tolist() == pytest.approx([math.sqrt(12.5), 1, 1])
    weighting.begin_step()
    assert not weighting.told[-1].any() and weighting.mean.tolist() == [2, 2, 4]  # an empty step says nothing


def test_means_and_references():
    weighting = Noting(window=2).build(TASKS).double()
    for losses in ([4, 8, 1], [2, 8, 1], [1, 8, 1]):
        weighting(seen(*losses), torch.tensor([True, True, False]))
        weighting.begin_step()
    assert weighting.mean.tolist() == [2, 8, 0]  # (3 + 1) / 2
    assert weighting.reference.tolist() == [3, 8, 0]
    assert weighting.seen.tolist() == [3, 3, 0]


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_not_finite_is_left_out(wrong):
    weighting = Noting().build(TASKS).double()
    weighting(seen(1, wrong, 3), ALL)
    weighting(seen(1, 5, 3), ALL)
    weighting.begin_step()
    assert weighting.told[0].tolist() == [1, 5, 3] and all(value.isfinite().all() for value in weighting.told)


def test_a_class_must_say_how_it_weighs():
    with pytest.raises(NotImplementedError, match="StepWeighting must define `update`"):
        StepWeighting().build(TASKS).begin_step()


FALLING = [[3.0 / (t + 1), 2.0 - 0.1 * t, 0.7 + 0.02 * t] for t in range(9)]


def test_dynamic_weight_average_compares_periods():
    found = run(DynamicWeightAverage(window=2, temperature=0.5), FALLING)
    assert found[0] == found[1] == found[2] == [1] * 3  # two periods must be over
    for end in (3, 5, 7):
        periods = [[(FALLING[t][k] + FALLING[t + 1][k]) / 2 for k in range(3)] for t in (end - 3, end - 1)]
        ratios = [last / before / 0.5 for before, last in zip(*periods, strict=True)]
        expected = [3 * share for share in naive_softmax(ratios)]
        assert found[end] == pytest.approx(expected) and found[min(end + 1, 8)] == found[end]
    assert found[-1][2] > found[-1][1] > found[-1][0]


def test_gradient_normalization_follows_the_paper():
    norms = [[4.0, 1.0 + t, 0.3] for t in range(9)]
    found = run(GradientNormalization(alpha=0.5, rate=0.1, window=1), FALLING, norms=norms)
    weights = [1.0, 1.0, 1.0]
    for losses, measured, ours in zip(FALLING, norms, found, strict=True):
        progress = [losses[k] / FALLING[0][k] for k in range(3)]  # with a window of 1: the loss itself and the first
        weights = naive_gradnorm(weights, measured, progress, 0.5, 0.1)
        assert ours == pytest.approx(weights)


def test_smooth_tchebycheff_follows_the_relative_losses():
    found = run(SmoothTchebycheff(smoothing=0.3, window=1), FALLING)
    for losses, ours in zip(FALLING, found, strict=True):
        shares = [math.exp(losses[k] / FALLING[0][k] / 0.3) / FALLING[0][k] for k in range(3)]
        assert ours == pytest.approx([3 * share / sum(shares) for share in shares])
    assert found[-1][2] / found[0][2] > found[-1][0] / found[0][0]


def test_famo_follows_the_paper_with_the_change_from_step_to_step():
    found = run(FastAdaptiveWeighting(rate=0.1, decay=0.01, window=1), FALLING)
    logits = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    adam = torch.optim.Adam([logits], lr=0.1, weight_decay=0.01)  # as in the authors' experiments
    for number, losses in enumerate(FALLING):
        if number:
            shares = torch.softmax(logits, 0)
            change = torch.tensor([math.log(a / b) for a, b in zip(FALLING[number - 1], losses, strict=True)])
            (logits.grad,) = torch.autograd.grad((shares * change).sum(), logits)
            adam.step()
        inverse = [share / loss for share, loss in zip(naive_softmax(logits.tolist()), losses, strict=True)]
        assert found[number] == pytest.approx([3 * value / sum(inverse) for value in inverse])
    assert logits[2] > logits[1] > logits[0]  # the less it improved, the more it counts


def test_famo_is_not_taken_over_by_a_task_that_is_solved():
    found = run(FastAdaptiveWeighting(window=1), [[1.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    ratio = found[-1][0] / found[-1][1]
    assert 900 < ratio < 1100 and all(math.isfinite(weight) for weight in found[-1])


def test_famo_of_a_task_that_was_never_there():
    found = run(FastAdaptiveWeighting(window=1), FALLING, present=torch.tensor([True, False, True]))
    assert all(weights[1] == 1 and sum(weights) == pytest.approx(3) for weights in found)


def test_random_weights_are_drawn_for_each_step_and_alike_everywhere():
    first, second, other = (RandomWeighting(seed=seed).build(TASKS) for seed in (0, 0, 1))
    drawn = []
    for _ in range(400):
        before = torch.get_rng_state()
        for weighting in (first, second, other):
            weighting.begin_step()
        assert torch.equal(before, torch.get_rng_state())
        assert torch.equal(first.weights, second.weights) and not torch.equal(first.weights, other.weights)
        drawn.append(first.weights.clone())
    drawn = torch.stack(drawn)
    torch.testing.assert_close(drawn.sum(1), torch.full((400,), 3.0))
    assert drawn.mean(0).tolist() == pytest.approx([1, 1, 1], abs=0.12)
    logs = (drawn / 3).log()
    # differences of two standard normal numbers
    assert (logs[:, 0] - logs[:, 1]).std().item() == pytest.approx(math.sqrt(2), rel=0.1)
