"""
Every objective with an adversary plays its game: the adversary gets ahead, the features undo it, by the strength.

The faults that the field's libraries were found with are planted, and must be noticed by the same assertions.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from importlib import import_module

import pytest
import torch
from torch import Tensor, nn

from hf_transfer import (
    ConditionalAdversarial,
    DomainAdversarial,
    MarginDisparity,
    MaximumClassifierDiscrepancy,
    ModelSpec,
    Objective,
    TransferBatch,
    WassersteinDistance,
)
from hf_transfer.schedules import linear


@dataclass(frozen=True)
class Game:
    """
    Args:
        kind: the class.
        lead: the diagnostic that says how far the adversary is ahead.
        won: its value when the adversary has won on domains that are far apart, at least.
        adversary: the attribute that holds the adversary.
        verdict: the function of the module that names the domains for the adversary.
    """

    kind: type[Objective]
    lead: str
    won: float
    adversary: str
    verdict: str


GAMES = {
    "DANN": Game(DomainAdversarial, "accuracy", 0.99, "discriminator", "domain_cross_entropy"),
    "CDAN": Game(ConditionalAdversarial, "accuracy", 0.99, "discriminator", "domain_cross_entropy"),
    "MDD": Game(MarginDisparity, "disparity", 0.9, "classifier", "margin_disparity"),
    "WDGRL": Game(WassersteinDistance, "distance", 2.5, "critic", "wasserstein_dual"),
    "MCD": Game(MaximumClassifierDiscrepancy, "discrepancy", 0.3, "second", "classifier_discrepancy"),
}
every_game = pytest.mark.parametrize("game", GAMES.values(), ids=GAMES)


def built(game: Game, **options) -> Objective:
    torch.manual_seed(0)
    objective = game.kind(**{"hidden_size": 32, "strength": 1.0, **options})
    return objective.build(ModelSpec(feature_dim=3, num_labels=3)).double()


def apart(distance: float = 3.0) -> TransferBatch:
    """Ten rows of a source and fourteen of a target `distance` away; the model tells three classes across that."""
    generator = torch.Generator().manual_seed(0)
    domain = torch.tensor([0] * 10 + [1] * 14)
    features = 0.3 * torch.randn(24, 3, dtype=torch.float64, generator=generator)
    features[:, 0] += distance * domain
    # a third of the rows each, on a line that the domain says nothing about
    classes = torch.arange(24) % 3
    features[:, 1] += classes - 1
    logits = 4 * torch.nn.functional.one_hot(classes, 3).double()
    labels = torch.where(domain == 0, classes, -100)
    return TransferBatch(features=features, logits=logits, labels=labels, domain=domain)


def train(objective: Objective, batch: TransferBatch) -> None:
    """The adversary alone: the features stay as they are."""
    own = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    assert own, "no parameter of its own learns"
    optimizer = torch.optim.Adam(own, lr=0.02)
    for _ in range(25):
        optimizer.zero_grad()
        objective(batch).backward()
        optimizer.step()


def lead(game: Game, objective: Objective, batch: TransferBatch) -> float:
    with torch.no_grad():
        objective(batch)
    return objective.diagnostics[game.lead].item()


def pull(objective: Objective, batch: TransferBatch) -> Tensor:
    """The gradient into the features."""
    features = batch.features.clone().requires_grad_()
    torch.manual_seed(0)
    (gradient,) = torch.autograd.grad(objective(replace(batch, features=features)), features)
    return gradient


def play(game: Game, objective: Objective) -> None:
    """The game as the paper has it; an assertion fails where a player does not do its part."""
    batch = apart()
    train(objective, batch)
    ahead = lead(game, objective, batch)
    assert ahead >= game.won, f"the adversary gets no further than {ahead}"
    target, moved = batch.domain == 1, batch.features
    for _ in range(20):
        # Descent, of the target rows alone: the source rows of MCD follow their labels. Each by the same length,
        # because a discriminator that has won leaves gradients of very different sizes.
        gradient = pull(objective, replace(batch, features=moved))
        step = 0.2 * gradient / gradient.norm(dim=1, keepdim=True).clamp(min=1e-12)
        moved = torch.where(target.unsqueeze(1), moved - step, moved)
    after = lead(game, objective, replace(batch, features=moved))
    assert after < ahead - 0.1, f"the features do not undo the lead of the adversary: {ahead} to {after}"


@every_game
def test_plays_its_game(game):
    play(game, built(game))


class _Constant(nn.Module):
    """A softmax over one output: the same whatever comes in."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.network(inputs)
        return outputs[..., :1].softmax(-1).expand_as(outputs)


def constant_adversary(game, monkeypatch):
    objective = built(game)
    setattr(objective, game.adversary, _Constant(getattr(objective, game.adversary)))
    if game.lead == "discrepancy":
        objective.first = objective.second
    if game.lead == "distance":
        objective._layers = lambda number: [(torch.zeros(1, 3, dtype=torch.float64), None)]
    return objective


def without_reversal(game, monkeypatch):
    module = import_module(game.kind.__module__)
    monkeypatch.setattr(module, "before_adversary", lambda features, *_: 1 * features)
    return built(game)


def one_label_for_both_domains(game, monkeypatch):
    module = import_module(game.kind.__module__)
    original = getattr(module, game.verdict)

    def blind(first, second, *others):
        if game.lead == "accuracy":
            return torch.nn.functional.cross_entropy(first, torch.zeros_like(second))
        if game.lead == "disparity":  # the target counts as source
            return original(first, second, others[0] | others[1], others[0] | others[1], 1e9) / 1e9
        if game.lead == "distance":
            return 0 * original(first, second, *others)
        return original(first, first, *others)

    monkeypatch.setattr(module, game.verdict, blind)
    return built(game)


def adversary_that_is_not_trained(game, monkeypatch):
    return built(game).requires_grad_(False)


FAULTS = [constant_adversary, without_reversal, one_label_for_both_domains, adversary_that_is_not_trained]


@every_game
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_noticed(game, fault, monkeypatch):
    objective = fault(game, monkeypatch)
    with pytest.raises(AssertionError, match="adversary gets no further|features do not undo|no parameter of its own"):
        play(game, objective)


@every_game
@pytest.mark.parametrize("factor", [0.0, 0.3])
def test_strength_scales_the_reversed_gradient_only(game, factor):
    """A schedule at `factor`, and every parameter of the adversary has the gradient it has at full strength."""
    full, weak = built(game), built(game, strength=linear())
    batch = apart(1.0)
    gradients = []
    for objective, progress in ((full, 1.0), (weak, factor)):
        features = batch.features.clone().requires_grad_()
        torch.manual_seed(0)
        objective(replace(batch, features=features, progress=torch.tensor(progress))).backward()
        gradients.append(features.grad)
    target = batch.domain == 1
    torch.testing.assert_close(gradients[1][target], factor * gradients[0][target], rtol=1e-6, atol=1e-12)
    assert gradients[0][target].abs().sum() > 0
    for ours, theirs in zip(weak.parameters(), full.parameters(), strict=True):
        assert ours.grad.abs().sum() > 0
        torch.testing.assert_close(ours.grad, theirs.grad)


@every_game
def test_logits_get_no_gradient(game):
    """Predictions are conditions and pseudo-labels: the head is no player."""
    batch = apart()
    logits = batch.logits.clone().requires_grad_()
    features = batch.features.clone().requires_grad_()
    term = built(game)(replace(batch, features=features, logits=logits))
    (gradient,) = torch.autograd.grad(term, logits, allow_unused=True)
    assert gradient is None or not gradient.any()


def degenerate(number: int) -> TransferBatch:
    draw = random.Random(number)
    rows = draw.choice([1, 2, 3, 5])
    generator = torch.Generator().manual_seed(number)
    features = draw.choice([1.0, 1e-8, 1e4, 0.0]) * torch.randn(rows, 3, generator=generator)
    if draw.random() < 0.3:
        features = features[:1].repeat(rows, 1)  # constant, identical domains
    logits = draw.choice([1.0, 0.0, 1e4]) * torch.randn(rows, 3, generator=generator)
    domain = torch.tensor([draw.choice([0, 1]) for _ in range(rows)])
    labels = torch.tensor([draw.choice([0, 2, -100, -100]) for _ in range(rows)])
    return TransferBatch(
        features=features.requires_grad_(), logits=logits, labels=labels, domain=domain, progress=draw.random()
    )


@every_game
def test_degenerate_batches_are_finite_and_run_the_whole_backward(game):
    """A thousand of them over the family; a parameter left out of the backward would stop the other ranks."""
    objective = built(game, hidden_size=4).float()
    for number in range(200):
        batch = degenerate(number)
        objective.zero_grad()
        term = objective(batch)
        term.backward()
        assert term.dtype == torch.float32 and term.isfinite(), number
        assert batch.features.grad.isfinite().all(), number
        assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.parameters()), number
        assert all(value.isfinite() for value in objective.diagnostics.values()), number


@every_game
def test_one_side_alone_says_nothing(game):
    """No domain to tell from another, no target, or no label to hold the classifiers: an exact zero with a graph."""
    whole = apart()
    side = (whole.domain == 1).nonzero().squeeze()
    batch = TransferBatch(
        features=whole.features[side].requires_grad_(),
        logits=whole.logits[side],
        labels=whole.labels[side],
        domain=whole.domain[side],
    )
    objective = built(game)
    term = objective(batch)
    term.backward()
    assert term.item() == 0 and not batch.features.grad.any()
    assert all(p.grad is not None and not p.grad.any() for p in objective.parameters())


# torch 2.13 makes an instance of the class that it warns of itself
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@every_game
def test_compiles_in_one_graph(game):
    objective, batch = built(game), apart()
    if hasattr(objective, "check_domain"):
        objective.check_domain(batch.domain)

    def term(features: Tensor, progress: Tensor) -> Tensor:
        return objective(replace(batch, features=features, progress=progress))

    # `fullgraph` is an error at anything that would read a value back
    compiled = torch.compile(term, fullgraph=True, backend="eager")
    values = []
    for function in (term, compiled):
        torch.manual_seed(0)
        values.append(function(batch.features.clone().requires_grad_(), torch.tensor(0.5)))
    torch.testing.assert_close(*values)


@every_game
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 0}, "`hidden_size=0` leaves the adversary of .* without hidden units.*positive width"),
        ({"strength": -0.5}, "`strength=-0.5` is negative: the gradient would be reversed twice.*zero or a positive"),
    ],
)
def test_constructor_refuses(game, options, message):
    with pytest.raises(ValueError, match=message):
        game.kind(**options)
