"""What objectives on the `domain` column share, and what they ask of a model."""

from __future__ import annotations

import pytest
import torch

from hf_transfer import ModelSpec, TransferBatch
from hf_transfer.objectives.domain_adaptation.checks import require_classes
from hf_transfer.objectives.domain_adaptation.discriminator import mlp
from hf_transfer.objectives.domain_adaptation.domain_objective import DomainObjective
from tests.models import tiny_bert


class Spread(DomainObjective):
    def forward(self, batch: TransferBatch) -> torch.Tensor:
        return batch.features.sum() * self.check_domain(batch.domain).float().mean()


def test_a_single_domain_is_refused():
    with pytest.raises(ValueError, match="`num_domains=1`: with one domain there is nothing to compare.*2 or more"):
        Spread(num_domains=1)


@pytest.mark.parametrize(("domain", "seen"), [([0, 2], "from 0 to 2"), ([-1, 0], "from -1 to 0")])
def test_domains_out_of_range_are_refused_once_per_attachment(domain, seen):
    objective = Spread().build(ModelSpec(feature_dim=2, num_labels=2))
    batch = TransferBatch(features=torch.ones(2, 2), domain=torch.tensor(domain))
    with pytest.raises(ValueError, match=f"{seen}, but Spread compares 2 domains.*`Spread\\(num_domains="):
        objective(batch)
    objective(TransferBatch(features=torch.ones(2, 2), domain=torch.tensor([0, 1])))
    objective(batch)  # looked at once: reading values back waits for the device
    objective.build(ModelSpec(feature_dim=2, num_labels=2))
    with pytest.raises(ValueError, match="compares 2 domains"):
        objective(batch)


def test_classes_are_required():
    for options, message in [
        ({"num_labels": 1}, "Spread on a regression.*Leave it out"),
        ({"num_labels": 3, "problem_type": "regression"}, "Spread on a regression"),
        ({"num_labels": 3, "problem_type": "multi_label_classification"}, "several labels a row.*Leave it out"),
    ]:
        spec = ModelSpec(feature_dim=2, num_labels=options["num_labels"], model=tiny_bert(**options))
        with pytest.raises(ValueError, match=message):
            require_classes(Spread(), spec)
    require_classes(Spread(), ModelSpec(feature_dim=2, num_labels=3))


def test_the_discriminator_has_no_statistics_over_rows():
    network = mlp(4, 8, 3).train()
    rows = torch.randn(5, 4)
    torch.testing.assert_close(network(rows), torch.cat([network(row[None]) for row in rows]))
    assert network(rows).shape == (5, 3)
