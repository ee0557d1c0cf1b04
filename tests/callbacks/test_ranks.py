from __future__ import annotations

import json

import pytest
import torch
from transformers import TrainingArguments

from tests.callbacks import ranks
from tests.callbacks.harness import changed, copy_of, seeded
from tests.launching import launch
from tests.models import tiny_vit


# The second name is that of transformers before 5.23.
CHECKPOINTING = (
    "activation_checkpointing" if hasattr(TrainingArguments, "activation_checkpointing") else "gradient_checkpointing"
)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {CHECKPOINTING: True, "ddp_find_unused_parameters": True}])
def test_two_ranks_thaw_as_one(options, tmp_path):
    ranks.trainer(str(tmp_path / "one.pt"))
    done = launch("tests.callbacks.ranks", "trainer", tmp_path / "two.pt", json.dumps(options), ranks=2)
    assert done.returncode == 0, done.stderr
    one, two = (torch.load(tmp_path / name) for name in ("one.pt", "two.pt"))
    assert changed(copy_of(seeded(tiny_vit)), one) >= {"vit.embeddings.cls_token", "classifier.weight"}
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.slow
def test_parameters_sharded_by_fsdp2_thaw_as_whole_ones(tmp_path):
    ranks.fsdp2(str(tmp_path / "one.pt"))
    done = launch("tests.callbacks.ranks", "fsdp2", tmp_path / "two.pt", ranks=2)
    assert done.returncode == 0, done.stderr
    one, two = (torch.load(tmp_path / name) for name in ("one.pt", "two.pt"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6, msg=name)
