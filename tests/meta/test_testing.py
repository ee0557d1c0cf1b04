"""`meta_test` against `SGD` on copies, on the episodes of everybody."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hf_transfer import meta_test
from hf_transfer.few_shot import Episodes
from hf_transfer.meta.results import MetaTestResults
from hf_transfer.meta.testing import class_column
from tests.meta.rows import batch_of, model_of, rows, state_of


SIZES = {"n_way": 3, "k_shot": 2, "queries": 3}


class Plain(torch.utils.data.Dataset):
    """The same rows as a torch data set."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, row):
        return self.data[row]


@pytest.mark.parametrize(("kind", "parameters"), [("vit", "head"), ("vit", "all"), ("bert", "head"), ("bert", "all")])
def test_each_episode_is_sgd_on_a_copy(kind, parameters):
    model, data = model_of(kind), rows(kind, seed=3, noise=1.5)
    before, training = state_of(model), model.training
    found = meta_test(model, data, episodes=6, seed=5, parameters=parameters, inner_steps=3, inner_lr=0.5, **SIZES)
    drawn = Episodes(data, seed=5, **SIZES).draw(range(6))
    for number in range(6):
        mine = copy.deepcopy(model).eval()
        mine.requires_grad_(parameters == "all")
        mine.classifier.requires_grad_(True)
        optimizer = torch.optim.SGD([p for p in mine.parameters() if p.requires_grad], lr=0.5)
        for _ in range(3):
            optimizer.zero_grad()
            logits = mine(**batch_of(data, drawn.support[number].tolist())).logits
            F.cross_entropy(logits, torch.as_tensor(drawn.support_labels)).backward()
            optimizer.step()
        logits, asked = (
            mine(**batch_of(data, drawn.query[number].tolist())).logits,
            torch.as_tensor(drawn.query_labels),
        )
        assert found.accuracies[number] == pytest.approx((logits.argmax(-1) == asked).float().mean().item())
        assert found.losses[number] == pytest.approx(F.cross_entropy(logits, asked).item(), rel=1e-3)
    assert len(set(found.losses)) == 6
    after = state_of(model)
    assert model.training is training and all(torch.equal(value, after[name]) for name, value in before.items())


def test_ranks_share_the_episodes():
    model, data = model_of(), rows()
    whole = meta_test(model, data, episodes=7, **SIZES)
    parts = [meta_test(model, data, episodes=7, rank=rank, ranks=2, **SIZES) for rank in (0, 1)]
    np.testing.assert_allclose(parts[0].accuracies + parts[1].accuracies, whole.accuracies)
    assert not parts[0].accuracies[1::2].any() and not parts[1].accuracies[::2].any()


def test_four_at_once_are_one_by_one():
    model, data = model_of(), rows()
    found = [meta_test(model, data, episodes=6, parameters="all", vectorize=v, **SIZES) for v in (False, True)]
    np.testing.assert_allclose(found[0].losses, found[1].losses, rtol=1e-4)


def test_rates_by_name_take_the_place_of_the_rate():
    model, data = model_of(), rows()
    plain = meta_test(model, data, episodes=4, inner_lr=0.3, **SIZES)
    rates = {
        name: torch.full_like(model.get_parameter(name), 0.3) for name in ("classifier.weight", "classifier.bias")
    }
    np.testing.assert_allclose(
        meta_test(model, data, episodes=4, rates=rates, **SIZES).losses, plain.losses, rtol=1e-6
    )


def test_torch_datasets_and_those_of_datasets_are_alike():
    model, data = model_of(), rows()
    first, second = (meta_test(model, one, episodes=3, **SIZES) for one in (data, Plain(data.with_format("torch"))))
    np.testing.assert_allclose(first.losses, second.losses, rtol=1e-6)
    assert class_column(data) is data and class_column(Plain(data))[:2] == [0, 0]


def test_results():
    results = MetaTestResults(np.array([0.2, 0.4, 0.6]), np.array([1.0, 2.0, 3.0]), 0.5)
    low, high = results.interval
    assert results.mean == pytest.approx(0.4) and high - 0.4 == pytest.approx(4.302653 * 0.2 / 3**0.5, rel=1e-5)
    assert results.metrics() == pytest.approx(
        {"accuracy": 0.4, "accuracy_low": low, "accuracy_high": high, "loss": 2.0, "episodes": 3}
    )
    assert "95% interval" in str(results) and "interval" not in str(MetaTestResults(np.ones(1), np.ones(1), 0.0))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_way": 4}, r"has 3 outputs and an episode 4 classes: .* `give_episode_head\(model, 4\)`"),
        ({"episodes": 0}, "`episodes=0`: .* Pass 600"),
        ({"k_shot": 9}, "takes 12 rows of a class"),
    ],
)
def test_what_cannot_be_is_refused(options, match):
    with pytest.raises(ValueError, match=match):
        meta_test(model_of(), rows(), **{**SIZES, **options})
    with pytest.raises(ValueError, match="is no data set of rows with `labels`: .* Pass a `datasets.Dataset`"):
        class_column(Plain([{"pixel_values": 0}]))
