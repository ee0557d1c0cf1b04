"""The base class of all objectives and their container."""

from __future__ import annotations

import pytest
import torch

from hf_transfer import L2SP, DomainAdversarial, Objective, TransferBatch
from hf_transfer.objective import Objectives
from hf_transfer.schedules import linear


class FeatureNorm(Objective):
    """The mean feature norm.

    Paper: Nobody, "Nothing", 1999, https://example.org
    """

    def __init__(self, *, power: int = 2, weight=1.0):
        super().__init__(weight=weight)
        self.power = power

    def forward(self, batch):
        return batch.features.norm(dim=-1).pow(self.power).mean()


@pytest.mark.parametrize(
    ("objective", "name"),
    [(FeatureNorm(), "feature_norm"), (L2SP(), "l2sp"), (DomainAdversarial(), "domain_adversarial")],
)
def test_name_is_the_class_in_snake_case(objective, name):
    assert objective.name == name


def test_config_is_what_the_constructor_takes():
    assert FeatureNorm(power=3, weight=0.5).config() == {"power": 3, "weight": 0.5}


def test_paper_is_read_off_the_docstring():
    assert FeatureNorm().paper == 'Nobody, "Nothing", 1999, https://example.org'


def test_weight_is_a_number_or_a_schedule():
    assert FeatureNorm(weight=0.5).weight_at(0.9) == 0.5
    assert FeatureNorm(weight=linear(0.0, 2.0)).weight_at(0.25) == 0.5


def test_negative_weight_is_refused():
    with pytest.raises(ValueError, match="`weight=-1` is negative.*make FeatureNorm worse.*zero or a positive"):
        FeatureNorm(weight=-1)


def test_forward_must_be_written():
    with pytest.raises(NotImplementedError, match="Objective must define `forward"):
        Objective()(TransferBatch(features=torch.zeros(1, 1)))


def test_objectives_of_one_class_get_names_of_their_own():
    objectives = Objectives([FeatureNorm(), FeatureNorm(), FeatureNorm()])
    assert list(objectives) == ["feature_norm", "feature_norm_2", "feature_norm_3"]


def test_formula_shows_weights_and_schedules():
    objectives = Objectives([FeatureNorm(), FeatureNorm(weight=linear()), L2SP(weight=0.5)])
    assert str(objectives) == "loss = task + feature_norm + linear(start=0.0, end=1.0) * feature_norm_2 + 0.5 * l2sp"


def test_columns_of_all_objectives():
    assert Objectives([FeatureNorm()]).columns() == set()
    assert Objectives([FeatureNorm(), DomainAdversarial()]).columns() == {"domain"}


def test_repr_shows_the_hyper_parameters():
    assert repr(FeatureNorm(power=3)) == "FeatureNorm(power=3, weight=1.0)"
