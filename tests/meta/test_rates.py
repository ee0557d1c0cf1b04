"""The learned rates of Meta-SGD travel as an objective and add nothing to a loss."""

from __future__ import annotations

import torch

from hf_transfer import attach
from hf_transfer.meta.rates import InnerRates
from tests import models


def test_one_for_every_number_and_no_term():
    model = models.tiny_bert()
    names = ("classifier.weight", "classifier.bias")
    rates = InnerRates(names=names, start=0.3)
    batch = models.batch_for(model)
    batch.pop("domain")
    torch.manual_seed(0)
    plain = model(**batch).loss
    with attach(model, [rates]) as attachment:
        torch.manual_seed(0)
        assert torch.equal(model(**batch).loss, plain) and attachment.terms["inner_rates"] == 0
        for name, value in rates.by_name().items():
            assert value.shape == model.get_parameter(name).shape and value.eq(0.3).all() and value.requires_grad
        assert {name for name, _ in model.named_parameters() if "inner_rates" in name} == {
            f"transfer_objectives.inner_rates.rates.{number}" for number in (0, 1)
        }
