"""What holds for every objective. They are found through `objectives.__all__`: a new one is covered at once."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from hf_transfer import DomainAdversarial, ModelSpec, TransferBatch, attach, objectives
from hf_transfer.functional import adversarial
from tests.models import batch_for, lora, tiny_bert, tiny_resnet, tiny_token_bert, tiny_vit
from tests.objectives.cases import CASES


NAMES = objectives.__all__
MODELS = {"text": tiny_bert, "vision": tiny_vit, "batch norm": tiny_resnet, "tokens": tiny_token_bert}
every_objective = pytest.mark.parametrize("name", NAMES)
every_term_on_features = pytest.mark.parametrize("name", [name for name in NAMES if CASES[name].reads_features])
every_term_on_weights = pytest.mark.parametrize("name", [name for name in NAMES if not CASES[name].reads_features])


def attached(name: str, make_model=tiny_bert):
    torch.manual_seed(0)
    model = make_model().train()
    attachment = attach(model, [CASES[name].make()])
    (objective,) = attachment.objectives.values()
    return model, attachment, objective


def term_of(attachment) -> torch.Tensor:
    (key,) = attachment.objectives
    return attachment.terms[key]


def perturb(model: nn.Module) -> None:
    """Move the weights off their starting point, as a step of training would."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if not key.startswith("transfer_objectives"):
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def test_every_objective_has_a_case():
    assert set(CASES) == set(NAMES)


@every_objective
@pytest.mark.parametrize("kind", MODELS)
def test_is_finite_and_positive_for_every_kind_of_model(name, kind):
    model, attachment, _ = attached(name, MODELS[kind])
    perturb(model)
    loss = model(**batch_for(model)).loss
    assert torch.isfinite(loss)
    term = term_of(attachment)
    assert term.dim() == 0 and term.dtype == torch.float32 and term > 0


@every_objective
def test_total_is_task_plus_weighted_term(name):
    model, attachment, objective = attached(name)
    perturb(model)
    torch.manual_seed(5)
    total = model(**batch_for(model)).loss.item()
    weight = float(objective.weight_at(1.0))
    assert total == pytest.approx(attachment.terms["task"].item() + weight * term_of(attachment).item(), rel=1e-6)


@every_objective
def test_meets_its_target_exactly(name):
    model, attachment, objective = attached(name)
    features = torch.randn(2, 16).repeat_interleave(2, 0)
    batch = TransferBatch(features=features, domain=torch.tensor([0, 1, 0, 1]), model=model)
    case = CASES[name]
    assert objective(case.solved(objective, batch)).item() == pytest.approx(case.solved_value, abs=1e-7)


def ascent_of(objective, case) -> float:
    """Change of the term, to first order, along the step that gradient descent on the loss takes in the features."""
    torch.manual_seed(0)
    features = torch.randn(6, 16, requires_grad=True)
    batch = TransferBatch(features=features, domain=torch.tensor([0, 1] * 3), progress=1.0)
    (gradient,) = torch.autograd.grad(objective(batch), features)
    assert gradient.abs().sum() > 0, "no gradient reaches the features"
    with torch.no_grad():
        step = 1e-4 * gradient / gradient.norm()
        ahead, behind = (objective(TransferBatch(features=features + s * step, domain=batch.domain)) for s in (-1, 1))
    return (ahead - behind).item()


@every_term_on_features
def test_gradient_reaches_the_features_with_the_right_sign(name):
    case = CASES[name]
    torch.manual_seed(0)
    objective = case.make().build(ModelSpec(feature_dim=16, num_labels=3))
    change = ascent_of(objective, case)
    assert change > 0 if case.ascends else change < 0


@every_term_on_weights
def test_term_on_weights_moves_them_towards_its_target(name):
    model, _, objective = attached(name)
    perturb(model)
    batch = TransferBatch(features=torch.zeros(2, 16), model=model)
    before = objective(batch)
    before.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    assert objective(batch) < before


@every_objective
def test_own_parameters_move_and_gradients_are_cleared(name):
    model, attachment, objective = attached(name)
    own = dict(objective.named_parameters())
    assert all(any(p is q for q in model.parameters()) for p in own.values()), "not in the model's parameters"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {key: parameter.detach().clone() for key, parameter in own.items()}
    model(**batch_for(model)).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    for key, parameter in own.items():
        assert not torch.equal(parameter, before[key]), key
        assert parameter.grad is None


@every_objective
def test_takes_bfloat16_features(name):
    model, attachment, _ = attached(name)
    model.to(torch.bfloat16)
    attachment.objectives.float()
    model(**batch_for(model)).loss.backward()
    assert torch.isfinite(term_of(attachment)) and term_of(attachment).dtype == torch.float32


@every_term_on_features
@pytest.mark.parametrize("domain", [0, 1])
def test_one_domain_gives_an_exact_zero_with_a_graph(name, domain):
    model, attachment, objective = attached(name)
    batch = {**batch_for(model), "domain": torch.full((4,), domain)}
    loss = model(**batch).loss
    assert term_of(attachment).item() == 0
    loss.backward()
    for key, parameter in objective.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), key


@every_objective
@pytest.mark.parametrize("kind", MODELS)
def test_unlabelled_batch_gives_a_task_loss_of_exact_zero(name, kind):
    model, attachment, _ = attached(name, MODELS[kind])
    loss = model(**batch_for(model, labelled=False)).loss
    assert attachment.terms["task"].item() == 0
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@every_objective
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows(name, rows):
    model, _, _ = attached(name)
    loss = model(**batch_for(model, rows)).loss
    loss.backward()
    assert loss.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@every_objective
def test_state_round_trip(name):
    _, _, trained = attached(name)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(1)
    _, _, fresh = attached(name)
    fresh.load_state_dict(trained.state_dict())
    assert all(torch.equal(fresh.state_dict()[key], value) for key, value in trained.state_dict().items())


@every_objective
@pytest.mark.parametrize("kind", MODELS)
def test_evaluation_is_bit_identical_to_the_bare_model(name, kind):
    torch.manual_seed(0)
    model = MODELS[kind]().eval()
    batch = batch_for(model)
    domain = batch.pop("domain")
    bare = model(**batch)
    with attach(model, [CASES[name].make()]) as attachment:
        inside = model(**batch, domain=domain)
        assert attachment.terms == {}
    assert torch.equal(bare.loss, inside.loss) and torch.equal(bare.logits, inside.logits)
    assert list(bare) == list(inside)


@every_objective
def test_under_lora(name):
    torch.manual_seed(0)
    model = lora(tiny_bert(), ["query", "value"], head="classifier").train()
    attachment = attach(model, [CASES[name].make()])
    batch = batch_for(model)
    first = model(**batch).loss
    first.backward()
    assert first.isfinite() and term_of(attachment).isfinite()
    own = [p for p in attachment.objectives.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in own)


@every_objective
def test_describes_itself(name):
    objective = CASES[name].make()
    assert type(objective)(**objective.config()).config() == objective.config()
    assert "https://" in objective.paper
    for section in ("Args:", "Shape:", "Degenerate batches:", "Deviations", "Raises:", "Relations:", "Example:"):
        assert section in type(objective).__doc__, section


# The two faults every "loss goes down" test of the field lets through. Planted here, they must be caught above.


class ConstantDiscriminator(DomainAdversarial):
    """Softmax over one logit: always 1, whatever the features."""

    def build(self, spec):
        super().build(spec)
        self.discriminator.append(nn.Linear(self.num_domains, 1)).append(nn.Softmax(-1)).append(_Repeat())
        return self


class _Repeat(nn.Module):
    def forward(self, x):
        return x.expand(-1, 2)


class WithoutReversal(DomainAdversarial):
    """The discriminator's gradient reaches the features as it is: the domains are driven apart."""

    def forward(self, batch):
        logits = self.discriminator(batch.example_features)
        return adversarial.domain_cross_entropy(logits, batch.domain)


@pytest.mark.parametrize("fault", [ConstantDiscriminator, WithoutReversal])
def test_planted_faults_are_caught(fault):
    torch.manual_seed(0)
    objective = fault(hidden_size=8).build(ModelSpec(feature_dim=16, num_labels=3))
    with pytest.raises(AssertionError):
        assert ascent_of(objective, CASES["DomainAdversarial"]) > 0


def test_constant_discriminator_sits_at_chance_for_any_features():
    """What makes the fault above so hard to see: the loss looks healthy."""
    objective = ConstantDiscriminator(hidden_size=8).build(ModelSpec(feature_dim=16, num_labels=3))
    batch = TransferBatch(features=torch.randn(4, 16), domain=torch.tensor([0, 1, 0, 1]))
    assert objective(batch).item() == pytest.approx(math.log(2), rel=1e-6)
