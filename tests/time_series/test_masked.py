"""Pretraining by masked patches: the loss and its trainer."""

from __future__ import annotations

import pytest
import torch

from hf_transfer.time_series.masked import MaskedTrainer, ObservedLoss
from hf_transfer.time_series.models import observed_mask_name, pretraining_model
from hf_transfer.time_series.sources import SourceWindows
from tests.time_series.tiny_forecasters import NO_DROPOUT, SIZES, L, arguments, windows


KINDS = ("patchtst", "patchtsmixer")


def masked_model(kind="patchtst", *, channels=1, mask_ratio=0.5):
    torch.manual_seed(0)
    own = {**SIZES[kind], **NO_DROPOUT[kind], "patch_length": 4}
    return pretraining_model(kind, channels=channels, context_length=L, mask_ratio=mask_ratio, overrides=own)


def one_channel(**options):
    return windows(60, 1, **options)


def rebuilt(output):
    return output.prediction_output if "prediction_output" in output else output.prediction_outputs


@pytest.mark.parametrize("kind", KINDS)
def test_with_everything_observed_it_is_the_loss_of_the_model(kind):
    model, past = masked_model(kind, channels=3), torch.randn(5, L, 3)
    torch.manual_seed(1)
    stock = model(past_values=past).loss
    own = ObservedLoss(model)
    for mask in ({}, {observed_mask_name(model): torch.ones(5, L, 3, dtype=torch.bool)}):
        torch.manual_seed(1)
        torch.testing.assert_close(model(past_values=past, **mask).loss, stock, rtol=1e-5, atol=1e-7)
    own.remove()
    torch.manual_seed(1)
    assert torch.equal(model(past_values=past).loss, stock)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_mean_over_values_that_were_masked_and_observed(kind):
    model, past = masked_model(kind, channels=2), torch.randn(3, L, 2)
    observed = torch.rand(3, L, 2) > 0.3
    seen = []
    hook = model.model.register_forward_hook(lambda module, args, output: seen.append(output))
    ObservedLoss(model)
    output = model(past_values=past, **{observed_mask_name(model): observed})
    hook.remove()
    inner, total, count = seen[0], 0.0, 0
    for row in range(3):
        for channel in range(2):
            for patch in range(4):
                for place in range(4):
                    if inner.mask[row, channel, patch] and observed[row, 4 * patch + place, channel]:
                        at = (row, channel, patch, place)
                        total += (inner.patch_input[at] - rebuilt(output)[at]).item() ** 2
                        count += 1
    assert 0 < count < inner.mask.sum() * 4
    assert output.loss.item() == pytest.approx(total / count, rel=1e-5)


def test_nothing_observed_gives_an_exact_zero_with_a_graph():
    model = masked_model()
    ObservedLoss(model)
    loss = model(past_values=torch.randn(2, L, 1), past_observed_mask=torch.zeros(2, L, 1, dtype=torch.bool)).loss
    loss.backward()
    assert loss.item() == 0.0
    assert all(not one.grad.any() for one in model.parameters() if one.grad is not None)


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_in_a_hole_is_not_rebuilt(tmp_path, kind):
    """A step on windows whose holes were filled otherwise moves the head alike, up to what the encoder sees."""
    model = masked_model(kind)
    ObservedLoss(model)
    past = torch.randn(1, L, 1)
    hole = torch.ones(1, L, 1, dtype=torch.bool)
    hole[:, 4:8] = False  # one whole patch
    losses = []
    for filled in (0.0, 50.0):
        past[:, 4:8] = filled
        torch.manual_seed(3)  # the same mask; with it on that patch the encoder does not see the filling
        losses.append(model(past_values=past, **{observed_mask_name(model): hole}))
    torch.manual_seed(3)
    hidden = model.model(past_values=past, **{observed_mask_name(model): hole}).mask[0, 0, 1]
    if not hidden:
        pytest.skip("the seed shows the patch")
    assert torch.equal(losses[0].loss, losses[1].loss)


@pytest.mark.parametrize("kind", KINDS)
def test_evaluations_mask_alike_and_leave_the_training_its_random_numbers(tmp_path, kind):
    data = SourceWindows([one_channel(missing=0.1), one_channel(seed=1)])

    def run(folder, **options):
        trainer = MaskedTrainer(
            masked_model(kind), arguments(tmp_path / folder, max_steps=3, **options), train_dataset=data,
            eval_dataset=data,
        )  # fmt: skip
        trainer.train()
        return trainer

    often = run("often", eval_strategy="steps", eval_steps=1)
    never = run("never")
    for (name, one), (_, other) in zip(
        often.model.state_dict().items(), never.model.state_dict().items(), strict=True
    ):
        assert torch.equal(one, other), name
    assert often.evaluate()["eval_loss"] == often.evaluate()["eval_loss"] > 0


def test_a_resumed_run_is_the_straight_one_bit_for_bit(tmp_path):
    data = SourceWindows([one_channel(missing=0.1), one_channel(seed=1)], "sqrt")

    def run(folder, resume=None):
        options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "eval_strategy": "steps"}
        args = arguments(tmp_path / folder, eval_steps=1, **options)
        trainer = MaskedTrainer(masked_model(), args, train_dataset=data, eval_dataset=data)
        trainer.train(resume_from_checkpoint=resume)
        return trainer.model.state_dict()

    straight = run("straight")
    resumed = run("resumed", str(tmp_path / "straight" / "checkpoint-2"))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in straight.items())
