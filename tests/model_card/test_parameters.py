"""What is counted as the model."""

from __future__ import annotations

from peft import LoraConfig, get_peft_model
from torch import nn

from hf_transfer import DomainAdversarial, attach
from hf_transfer.model_card.parameters import count
from tests import models


def test_objectives_are_no_part_of_the_model():
    model = models.tiny_bert()
    alone = count(model)
    attach(model, [DomainAdversarial(hidden_size=4)])
    assert count(model) == alone == count(model, trained=True)


def test_copies_of_peft_count_once():
    base: nn.Module = models.tiny_bert()
    alone, head = count(base), 16 * 3 + 3
    config = LoraConfig(r=2, target_modules=["query"], modules_to_save=["classifier"])
    adapted = get_peft_model(base, config)  # pyright: ignore[reportArgumentType]
    added = 3 * 2 * (16 + 16)  # blocks x rank x (in + out)
    assert count(adapted) == alone + added and count(adapted, trained=True) == head + added
