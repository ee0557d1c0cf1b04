"""What holds for every objective. They are found through `objectives.__all__`: a new one is covered at once."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from hf_transfer import DomainAdversarial, ModelSpec, TransferBatch, attach, objectives
from hf_transfer.functional import adversarial
from hf_transfer.objective import TaskTerm
from tests.models import batch_for, lora, tiny_bert, tiny_resnet, tiny_token_bert, tiny_vit
from tests.objectives.cases import CASES


NAMES = objectives.__all__
MODELS = {
    "text": tiny_bert,
    "vision": partial(tiny_vit, hidden_dropout_prob=0.1),
    "batch norm": tiny_resnet,
    "tokens": tiny_token_bert,
}
EVERY_KIND = [(name, kind) for name in NAMES for kind in MODELS if kind not in CASES[name].refused]
every_objective = pytest.mark.parametrize("name", NAMES)
every_objective_and_kind = pytest.mark.parametrize(("name", "kind"), EVERY_KIND)


def those(condition) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", [name for name in NAMES if condition(name)])


def home(name: str):
    """The first kind of model that an objective takes."""
    return MODELS[next(kind for kind in MODELS if kind not in CASES[name].refused)]


def attached(name: str, make_model=None, wrap=lambda model: model):
    torch.manual_seed(0)
    model = wrap((make_model or home(name))()).train()
    attachment = attach(model, [CASES[name].make(model)])
    (objective,) = attachment.objectives.values()
    if objective.learns_from_data:
        objective.fit(model, [batch_for(model, 12), batch_for(model, 12, seed=1)])
    return model, attachment, objective


def batch_of(model: nn.Module, rows: int = 4, *, labelled: bool = True) -> dict[str, torch.Tensor]:
    """A batch for an attached model, half of it without labels where its objective has a target side."""
    (objective,) = model.transfer_objectives.values()
    batch = batch_for(model, rows, labelled=labelled)
    if getattr(CASES.get(type(objective).__name__), "target_side", False):
        batch["labels"][batch["domain"] == 1] = -100
    return batch


def term_of(attachment) -> torch.Tensor:
    (objective,) = attachment.objectives.values()
    return attachment.terms["task" if isinstance(objective, TaskTerm) else objective.name]


def perturb(model: nn.Module) -> None:
    """Move the weights off their starting point, as a step of training would."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if not key.startswith("transfer_objectives"):
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def watched(model: nn.Module, objective, **batch) -> tuple[TransferBatch, torch.Tensor]:
    """What the objective sees in a forward, and the term it returns, with its graph."""
    seen = []
    # a change of the task loss is asked for its rows, not called
    method = "adjust" if isinstance(objective, TaskTerm) else "forward"
    original = getattr(objective, method)

    def spy(*args):
        seen.append(args[-1])
        return original(*args)

    setattr(objective, method, spy)
    model(**{**batch_of(model), **batch})
    delattr(objective, method)
    state = torch.get_rng_state()
    term = objective(seen[0])
    torch.set_rng_state(state)
    return seen[0], term


def test_every_objective_has_a_case():
    assert set(CASES) == set(NAMES)


@every_objective_and_kind
def test_is_finite_and_positive_for_every_kind_of_model(name, kind):
    model, attachment, _ = attached(name, MODELS[kind])
    perturb(model)
    loss = model(**batch_of(model)).loss
    assert torch.isfinite(loss)
    term = term_of(attachment)
    assert term.dim() == 0 and term.dtype == torch.float32
    if CASES[name].negative:
        term = -term
    if CASES[name].signed:
        term = term.abs()
    assert term == 0 if kind in CASES[name].idle else term > 0


@pytest.mark.parametrize(("name", "kind"), [(n, k) for n in NAMES for k in CASES[n].refused])
def test_is_refused_with_a_reason(name, kind):
    with pytest.raises(ValueError, match=CASES[name].refused[kind]):
        model, _, _ = attached(name, MODELS[kind])
        model(**batch_for(model))


@every_objective
def test_total_is_task_plus_weighted_term(name):
    model, attachment, objective = attached(name)
    perturb(model)
    torch.manual_seed(5)
    total = model(**batch_of(model)).loss.item()
    added = 0.0
    if not isinstance(objective, TaskTerm):
        added = float(objective.weight_at(1.0)) * term_of(attachment).item()
    assert total == pytest.approx(attachment.terms["task"].item() + added, rel=1e-6)


@every_objective
def test_logits_keep_their_rows(name):
    model, _, _ = attached(name)
    assert len(model(**batch_of(model, 5)).logits) == 5


@every_objective
def test_meets_its_target_exactly(name):
    model, _, objective = attached(name)
    batch, _ = watched(model, objective)
    case = CASES[name]
    assert objective(case.solved(objective, batch)).item() == pytest.approx(case.solved_value, abs=1e-6)


def ascent_of(model, objective) -> float:
    """Change of the term, to first order, along the step that gradient descent on the loss takes in the features."""
    perturb(model)
    batch, _ = watched(model, objective)
    head = model.get_submodule(model.transfer_objectives.attachment.anatomy.head)

    def term(features: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)  # an objective that draws numbers draws the same ones at each point
        return objective(replace(batch, features=features, logits=head(features)))

    features = batch.features.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(term(features), features)
    assert gradient.abs().sum() > 0, "no gradient reaches the features"
    with torch.no_grad():
        step = 1e-4 * gradient / gradient.norm()
        measure = getattr(CASES.get(type(objective).__name__), "measure", None) or term
        ahead, behind = (measure(features + sign * step) for sign in (-1, 1))
    return (ahead - behind).item()


@those(lambda name: CASES[name].reads_features)
def test_gradient_reaches_the_features_with_the_right_sign(name):
    model, _, objective = attached(name)
    change = ascent_of(model, objective)
    assert change > 0 if CASES[name].ascends else change < 0


@those(lambda name: not CASES[name].reads_features)
def test_term_on_weights_moves_them_towards_its_target(name):
    model, _, objective = attached(name)
    perturb(model)
    torch.manual_seed(0)
    _, before = watched(model, objective)
    before.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad
    torch.manual_seed(0)
    _, after = watched(model, objective)
    assert after < before


@every_objective
def test_own_parameters_move_and_gradients_are_cleared(name):
    model, attachment, objective = attached(name)
    perturb(model)
    own = dict(objective.named_parameters())
    assert all(any(p is q for q in model.parameters()) for p in own.values()), "not in the model's parameters"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {key: parameter.detach().clone() for key, parameter in own.items()}
    model(**batch_of(model)).loss.backward()
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
    batch = {key: x.bfloat16() if x.is_floating_point() else x for key, x in batch_of(model).items()}
    model(**batch).loss.backward()
    assert torch.isfinite(term_of(attachment)) and term_of(attachment).dtype == torch.float32


@those(lambda name: "domain" in getattr(objectives, name).columns)
@pytest.mark.parametrize("domain", [0, 1])
def test_one_domain_gives_an_exact_zero_with_a_graph(name, domain):
    model, attachment, objective = attached(name)
    batch = {**batch_of(model), "domain": torch.full((4,), domain)}
    loss = model(**batch).loss
    assert term_of(attachment).item() == 0
    loss.backward()
    for key, parameter in objective.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), key


@every_objective_and_kind
def test_unlabelled_batch_gives_a_task_loss_of_exact_zero(name, kind):
    model, attachment, objective = attached(name, MODELS[kind])
    loss = model(**batch_of(model, labelled=False)).loss
    assert attachment.terms["task"].item() == 0
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    # every rank must run the same backward, whatever its rows
    assert all(p.grad is not None for p in objective.parameters() if p.requires_grad)


@every_objective
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows(name, rows):
    model, _, _ = attached(name)
    loss = model(**batch_of(model, rows)).loss
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


@those(lambda name: getattr(objectives, name).learns_from_data)
def test_training_unfitted_is_an_error(name):
    model = home(name)().train()
    attach(model, [CASES[name].make(model)])
    with pytest.raises(RuntimeError, match=r"fit\("):
        model(**batch_of(model))


@every_objective_and_kind
def test_evaluation_is_bit_identical_to_the_bare_model(name, kind):
    torch.manual_seed(0)
    model = MODELS[kind]().eval()
    batch = batch_for(model)
    domain = batch.pop("domain")
    bare = model(**batch)
    with attach(model, [CASES[name].make(model)]) as attachment:
        inside = model(**batch, domain=domain)
        assert attachment.terms == {}
    assert torch.equal(bare.loss, inside.loss) and torch.equal(bare.logits, inside.logits)
    assert list(bare) == list(inside)


@every_objective
def test_under_lora(name):
    targets = ["query", "value"] if home(name) is tiny_bert else ["q_proj", "v_proj"]
    model, attachment, _ = attached(name, wrap=lambda model: lora(model, targets, head="classifier"))
    first = model(**batch_of(model)).loss
    first.backward()
    assert first.isfinite() and term_of(attachment).isfinite()
    own = [p for p in attachment.objectives.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in own)


@every_objective
def test_describes_itself(name):
    objective = CASES[name].make(home(name)())
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
    model = tiny_bert().train()
    objective = fault(hidden_size=8)
    attach(model, [objective])
    with pytest.raises(AssertionError):
        assert ascent_of(model, objective) > 0


def test_constant_discriminator_sits_at_chance_for_any_features():
    """What makes the fault above so hard to see: the loss looks healthy."""
    objective = ConstantDiscriminator(hidden_size=8).build(ModelSpec(feature_dim=16, num_labels=3))
    batch = TransferBatch(features=torch.randn(4, 16), domain=torch.tensor([0, 1, 0, 1]))
    assert objective(batch).item() == pytest.approx(math.log(2), rel=1e-6)
