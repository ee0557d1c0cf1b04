"""What `PushingTrainer` relies on in its parent; its pushes are tested in `tests.test_push_to_hub`."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import transformers
from transformers import Trainer

from hf_transfer import TransferTrainer
from hf_transfer.hub.trainer import PushingTrainer


OVERRIDES = [
    name for name, value in vars(PushingTrainer).items() if inspect.isfunction(value) and hasattr(Trainer, name)
]


@pytest.mark.parametrize("name", OVERRIDES)
def test_overrides_keep_the_parents_signature(name):
    ours, theirs = inspect.signature(getattr(PushingTrainer, name)), inspect.signature(getattr(Trainer, name))
    assert [(p.name, p.kind, p.default) for p in ours.parameters.values()] == [
        (p.name, p.kind, p.default) for p in theirs.parameters.values()
    ]
    assert name in ("init_hf_repo", "push_to_hub", "_push_from_checkpoint") or f"super().{name}(" in inspect.getsource(
        getattr(PushingTrainer, name)
    )


def test_every_push_of_the_parent_goes_through_ours():
    for name in ("push_to_hub", "_push_from_checkpoint", "init_hf_repo", "_finish_current_push", "_save"):
        assert getattr(TransferTrainer, name) is getattr(PushingTrainer, name)
    assert inspect.getsource(Trainer).count(".upload_folder(") == 3  # in the two that ours take the place of


def test_nothing_reads_the_pickle_of_the_arguments():
    """It is left out of checkpoints too: were it read to resume, that would break."""
    package = Path(transformers.__file__).parent
    names = ("trainer.py", "trainer_utils.py", "trainer_callback.py", "training_args.py", "trainer_pt_utils.py")
    lines = [line for name in names for line in (package / name).read_text().splitlines()]
    found = [line for line in lines if "TRAINING_ARGS_NAME" in line]
    assert all("torch.save(" in line or line.startswith("TRAINING_ARGS_NAME =") for line in found) and len(found) == 3
