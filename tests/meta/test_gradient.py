"""The gradient of the start, micro-batch by micro-batch and rank by rank."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hf_transfer.meta.gradient import MetaGradient, average_gradients
from hf_transfer.meta.learner import EpisodeShape, Learner
from hf_transfer.meta.selection import select
from tests.meta.rows import batch_of, model_of, rows


SHAPE = EpisodeShape(n_way=3, k_shot=1, queries=2)


def gradient_of(vectorize: bool):
    model = model_of().eval()
    names = select(model, "all").trained
    learner = Learner(model, names, SHAPE, steps=2, vectorize=vectorize)
    numbers = [0, 6, 12, 1, 2, 7, 8, 13, 14, 30, 24, 18, 31, 32, 25, 26, 19, 20]
    episodes = learner.split(batch_of(rows(), numbers))
    return MetaGradient(learner, names, reptile=False, rate=0.2), episodes


@pytest.mark.parametrize("vectorize", [True, False])
def test_it_is_that_of_the_mean_query_loss_and_adds_up(vectorize):
    found, episodes = gradient_of(vectorize)
    model = found.learner.model
    logits, _ = found.learner.query_logits(episodes, 0.2)
    asked = SHAPE.labels(torch.device("cpu"))[1].repeat(2)
    loss = F.cross_entropy(logits.flatten(0, 1), asked)
    expected = torch.autograd.grad(loss, list(model.parameters()))
    for times in (0.5, 1.0):  # two micro-batches of the same rows
        assert found.add(episodes, 0.5).item() == pytest.approx(loss.item(), rel=1e-5)
        for parameter, gradient in zip(model.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, times * gradient, rtol=1e-3, atol=1e-5)
    right = (logits.flatten(0, 1).argmax(-1) == asked).float().mean()
    assert found.drain_accuracy().item() == pytest.approx(right.item())
    assert found.drain_accuracy() is None


def test_the_mean_over_ranks_counts_a_missing_gradient_as_zero():
    class Two:
        def reduce(self, tensor, reduction):
            assert reduction == "mean"
            return (tensor + torch.ones_like(tensor)) / 2  # the other rank has ones

    first, second, frozen = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1, 2)), nn.Parameter(torch.zeros(1))
    frozen.requires_grad_(False)
    first.grad = torch.tensor([3.0, 5.0])
    average_gradients([first, second, frozen], Two())
    assert first.grad.tolist() == [2, 3] and second.grad.tolist() == [[0.5, 0.5]] and frozen.grad is None
