"""Sentences on how a model was transferred."""

from __future__ import annotations

from hf_transfer import ExponentialMovingAverage, GradualUnfreezing
from hf_transfer.model_card.strategy import freezing_of, method_callbacks, strategy, trained_parameters
from tests import models
from tests.model_card.runs import trained


def test_everything_trains_unless_something_says_otherwise(tmp_path):
    made = trained(tmp_path)
    assert strategy(made, made.model, "x")[1].startswith("All ") and "It starts from `x`." in strategy(
        made, made.model, "x"
    )


def test_parameters_frozen_by_hand_are_told(tmp_path):
    model = models.tiny_bert()
    model.bert.requires_grad_(False)  # pyright: ignore[reportCallIssue]
    made = trained(tmp_path, model)
    assert (
        strategy(made, model, None)[1].startswith("51 of ") and "others were frozen" in strategy(made, model, None)[1]
    )


def test_callbacks_of_the_trainer_and_helpers_are_no_methods(tmp_path):
    average = ExponentialMovingAverage(0.9)
    made = trained(tmp_path, callbacks=[average, GradualUnfreezing(stages=2)])
    callbacks = made.callback_handler.callbacks
    assert method_callbacks(callbacks) == [average] and isinstance(freezing_of(callbacks), GradualUnfreezing)
    assert any(said.startswith("Exponential moving average") for said in strategy(made, made.model, None))


def test_schedule_trains_what_any_phase_trains():
    model = models.tiny_bert()
    assert trained_parameters(model, GradualUnfreezing(stages=2)) == sum(p.numel() for p in model.parameters())
