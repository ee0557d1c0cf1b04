"""The base of all weightings: equal weights, and the words that name the others."""

from __future__ import annotations

import inspect

import pytest
import torch

from hf_transfer.objectives.multitask import weightings
from hf_transfer.objectives.multitask.weighting import TaskWeighting, check_positive
from hf_transfer.objectives.multitask.weightings import WEIGHTINGS, task_weighting
from tests.objectives.task_rows import EVERY


LOSSES = torch.tensor([1.5, 2.0, 0.25, 4.0], dtype=torch.float64)


def test_equal_weights_are_the_losses_and_their_gradient():
    weighting, losses = TaskWeighting().build(EVERY), LOSSES.clone().requires_grad_()
    weighted = weighting(losses, torch.ones(4, dtype=torch.bool))
    assert torch.equal(weighted, losses) and weighted.dtype == torch.float64
    weighted.sum().backward()
    assert losses.grad.tolist() == [1] * 4
    weighting.begin_step()
    assert weighting.weights.tolist() == [1] * 4


def test_weights_may_be_written_before_the_backward():
    weighting, losses = TaskWeighting().build(EVERY), LOSSES.clone().requires_grad_()
    weighted = weighting(losses, torch.ones(4, dtype=torch.bool))
    weighting.weights.fill_(9.0)
    weighted.sum().backward()
    assert losses.grad.tolist() == [1] * 4


@pytest.mark.parametrize("word", WEIGHTINGS)
def test_every_weighting(word):
    weighting = task_weighting(word).build(EVERY)
    assert type(weighting)(**weighting.config()).config() == weighting.config()
    assert set(weighting.config()) == set(inspect.signature(type(weighting).__init__).parameters) - {"self"} - {
        "args",
        "kwargs",
    }
    assert task_weighting(weighting) is weighting
    assert weighting.weights.tolist() == [1] * 4
    # at the start all tasks count alike, but for the factor of a regression in the paper of uncertainty weighting
    weighted = weighting(LOSSES, torch.ones(4, dtype=torch.bool), LOSSES)
    if word != "uncertainty":
        torch.testing.assert_close(weighted, LOSSES)
        assert weighting.weights.sum().item() == pytest.approx(4)
    assert weighted.sum() > 0
    for name, value in weighting.config().items():
        assert f"{name}={value}" in repr(weighting)


@pytest.mark.parametrize("word", WEIGHTINGS)
def test_every_weighting_is_documented(word):
    documentation = inspect.getdoc(WEIGHTINGS[word])
    assert "Example:" in documentation and "Shape:" in documentation
    if word != "equal":
        for section in ("Args:", "Degenerate batches:", "Deviations from the paper:", "Raises:", "Relations:"):
            assert section in documentation, section
        assert "https://huggingface.co/papers/" in documentation
        assert WEIGHTINGS[word].__name__ in weightings.__all__


@pytest.mark.parametrize("word", WEIGHTINGS)
def test_a_state_goes_on_where_it_was(word):
    """What a checkpoint holds is all there is: the restored weighting moves as the one that was saved."""
    present = torch.tensor([True, True, False, True])

    def steps(weighting, start: int, end: int) -> None:
        for number in range(start, end):
            weighting.begin_step()
            with torch.no_grad():
                for parameter in weighting.parameters():
                    parameter.add_(torch.tensor([0.1, 0.0, -0.1, 0.02]))
            weighting((LOSSES / (number + 1)).float(), present, (LOSSES + number).float())

    straight = WEIGHTINGS[word]().build(EVERY)
    steps(straight, 0, 25)
    fresh = WEIGHTINGS[word]().build(EVERY)
    fresh.load_state_dict(straight.state_dict())
    steps(straight, 25, 50)
    steps(fresh, 25, 50)
    assert torch.equal(straight.weights, fresh.weights)
    assert all(torch.equal(value, fresh.state_dict()[key]) for key, value in straight.state_dict().items())
    assert (straight.weights.tolist() == [1] * 4) == (word == "equal")


@pytest.mark.parametrize("value", [0, -1.0, float("nan")])
def test_options_above_zero(value):
    with pytest.raises(ValueError, match=f"`rate={value}` of TaskWeighting is not above zero.*Give a positive number"):
        check_positive(TaskWeighting(), rate=value)


@pytest.mark.parametrize(
    ("word", "options", "message"),
    [
        ("uncertainty", {"speed": 0.0}, "`speed=0.0` of UncertaintyWeighting"),
        ("dwa", {"temperature": -1.0}, "`temperature=-1.0` of DynamicWeightAverage"),
        ("dwa", {"window": 0}, "`window=0` of DynamicWeightAverage"),
        ("gradnorm", {"rate": 0.0}, "`rate=0.0` of GradientNormalization"),
        ("gradnorm", {"alpha": -0.5}, "`alpha=-0.5` is negative: tasks that lag behind.*default 1.5"),
        ("random", {"seed": -1}, "`seed=-1` is negative.*Pass 0 or a positive"),
        ("tchebycheff", {"smoothing": 0.0}, "`smoothing=0.0` of SmoothTchebycheff"),
        ("famo", {"rate": 0.0}, "`rate=0.0` of FastAdaptiveWeighting"),
        ("famo", {"decay": -0.1}, "`decay=-0.1` is negative.*driven apart.*default 1e-3"),
    ],
)
def test_refuses(word, options, message):
    with pytest.raises(ValueError, match=message):
        WEIGHTINGS[word](**options)
