"""Objectives side by side: each term is what it is alone, and the total is their weighted sum."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from hf_transfer import attach, objectives
from hf_transfer.objective import TaskTerm
from tests.models import batch_for, tiny_bert, tiny_resnet
from tests.objectives.cases import CASES


# Classes that change the inputs or replace the task loss change what all others see; they have tests of their own.
PLAIN = [
    name
    for name in objectives.__all__
    if not issubclass(getattr(objectives, name), TaskTerm)
    and getattr(objectives, name).transform is objectives.L2SP.transform
    and not getattr(objectives, name).learns_from_data
    and not CASES[name].make(tiny_bert()).replaces_task_loss
]
KINDS = {kind: [name for name in PLAIN if kind not in CASES[name].refused] for kind in ("text", "batch norm")}
# A sample: every objective meets about six others, another six for each kind of model.
PAIRS = {
    kind: [pair for pair in combinations(names, 2) if sum(map(PLAIN.index, pair)) % 6 == start]
    for start, (kind, names) in enumerate(KINDS.items())
}
MODELS = {
    "text": lambda: tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
    "batch norm": tiny_resnet,
}


def made(name: str, model):
    # what an objective draws when it is built must not depend on its neighbours
    torch.manual_seed(sum(map(ord, name)))
    return CASES[name].make(model)


def terms_of(names, kind: str) -> tuple[dict[str, float], float]:
    torch.manual_seed(0)
    model = MODELS[kind]().train()
    built = [made(name, model) for name in names]
    with attach(model, built) as attachment:
        for name, objective in zip(names, attachment.objectives.values(), strict=True):
            generator = torch.Generator().manual_seed(sum(map(ord, name)))
            for parameter in objective.parameters():
                with torch.no_grad():
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        batch = batch_for(model)
        torch.manual_seed(1)
        total = model(**batch).loss
        total.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        weights = {name: float(o.weight_at(1.0)) for name, o in attachment.objectives.items()}
        expected = attachment.terms["task"] + sum(weights[n] * attachment.terms[n] for n in weights)
        torch.testing.assert_close(total.detach(), expected, rtol=1e-5, atol=1e-6)
        return {name: term.item() for name, term in attachment.terms.items()}, total.item()


@pytest.fixture(scope="module")
def alone():
    return {(name, kind): terms_of([name], kind)[0] for kind, names in KINDS.items() for name in names}


@pytest.mark.parametrize("kind", MODELS)
def test_every_pair_keeps_its_terms(alone, kind):
    assert len(KINDS[kind]) > 12
    assert set(KINDS[kind]) == {name for pair in PAIRS[kind] for name in pair}
    for names in PAIRS[kind]:
        together, _ = terms_of(names, kind)
        for name in names:
            for key, value in alone[name, kind].items():
                assert together[key] == pytest.approx(value, rel=1e-4, abs=1e-6), (names, key)
