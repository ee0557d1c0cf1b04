"""What a checkpoint holds besides the stock Trainer's; refusals on resume are in test_trainer.py."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForImageClassification, Trainer

from hf_transfer import L2SP, DomainAdversarial, Objective, TransferTrainer, attach
from hf_transfer.checkpoint import (
    OBJECTIVES_NAME,
    STATISTICS_NAME,
    load_objectives,
    load_renamed_weights,
    load_statistics,
    save_objectives,
    save_statistics,
)
from hf_transfer.objective import Objectives
from tests import models
from tests.test_trainer import arguments, labelled, weights


class Plain(Objective):
    """Has no state."""

    def forward(self, batch):
        return batch.features.sum() * 0


def objectives(*terms: Objective) -> Objectives:
    return attach(models.tiny_bert(), terms).objectives


def tiny(name: str) -> Any:
    return models.TINY[name]()


def state(of: Objectives) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in of.state_dict().items()}


def test_state_comes_back_bit_for_bit(tmp_path):
    first, second = (objectives(DomainAdversarial(hidden_size=4)) for _ in range(2))
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.normal_()
    before = state(second)
    save_objectives(first, tmp_path)
    load_objectives(second, tmp_path)
    assert state(second).keys() == state(first).keys()
    assert all(torch.equal(value, state(second)[key]) for key, value in state(first).items())
    assert not all(torch.equal(value, state(second)[key]) for key, value in before.items())


def test_other_types_of_numbers_are_kept(tmp_path):
    first = objectives(DomainAdversarial(hidden_size=4)).to(torch.bfloat16)
    save_objectives(first, tmp_path)
    saved = load_file(tmp_path / OBJECTIVES_NAME)
    floats = [value.dtype for key, value in saved.items() if first.state_dict()[key].is_floating_point()]
    assert floats and set(floats) == {torch.bfloat16}


def test_transposed_tensors_are_saved_as_they_are(tmp_path):
    class Transposed(Plain):
        def build(self, spec):
            self.register_buffer("table", torch.arange(6.0).reshape(2, 3).T)
            return self

    save_objectives(objectives(Transposed()), tmp_path)
    assert load_file(tmp_path / OBJECTIVES_NAME)["transposed.table"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_objectives_without_state_write_no_file_and_read_none(tmp_path):
    save_objectives(objectives(Plain()), tmp_path)
    save_objectives(Objectives(), tmp_path)
    assert not list(tmp_path.iterdir())
    load_objectives(objectives(Plain()), tmp_path)
    load_objectives(Objectives(), tmp_path)


@pytest.mark.parametrize("where", ["hf_transfer.checkpoint.save_file", "hf_transfer.files.os.replace"])
def test_a_failing_save_leaves_the_old_file(tmp_path, monkeypatch, where):
    old = objectives(DomainAdversarial(hidden_size=4))
    save_objectives(old, tmp_path)
    new = objectives(DomainAdversarial(hidden_size=4))
    with torch.no_grad():
        next(new.parameters()).add_(1)

    def fail(tensors, path, *rest):
        if isinstance(tensors, dict):
            path.write_bytes(b"half of a fi")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(where, fail)
        with pytest.raises(OSError, match="No space left"):
            save_objectives(new, tmp_path)
    read = objectives(DomainAdversarial(hidden_size=4))
    load_objectives(read, tmp_path)
    assert all(torch.equal(value, state(read)[key]) for key, value in state(old).items())
    save_objectives(new, tmp_path)  # what the failure left behind is no hindrance
    assert [path.name for path in tmp_path.iterdir()] == [OBJECTIVES_NAME]


def test_the_file_is_new_or_old_but_never_half(tmp_path, monkeypatch):
    """The name appears by a rename only."""
    written = []
    monkeypatch.setattr(
        "hf_transfer.checkpoint.save_file", lambda tensors, path: (written.append(path), save_file(tensors, path))
    )
    save_objectives(objectives(DomainAdversarial(hidden_size=4)), tmp_path)
    assert [path.name for path in written] != [OBJECTIVES_NAME] and (tmp_path / OBJECTIVES_NAME).is_file()
    assert written[0].parent == tmp_path  # on the same file system, where a rename is atomic


def test_a_missing_file_names_the_objectives(tmp_path):
    with pytest.raises(ValueError, match="has no objectives.safetensors: it was written without domain_adversarial,"):
        load_objectives(objectives(DomainAdversarial(hidden_size=4)), tmp_path)


@pytest.mark.parametrize(
    ("saved", "expected"),
    [
        (DomainAdversarial(hidden_size=4), DomainAdversarial(hidden_size=5)),
        (DomainAdversarial(hidden_size=4), DomainAdversarial(hidden_size=4, num_domains=3)),
    ],
    ids=["width", "domains"],
)
def test_other_shapes_are_refused_and_nothing_is_loaded(tmp_path, saved, expected):
    save_objectives(objectives(saved), tmp_path)
    mine = objectives(expected)
    before = state(mine)
    with pytest.raises(ValueError, match="they differ in domain_adversarial.discriminator.*half-restored"):
        load_objectives(mine, tmp_path)
    assert all(torch.equal(value, state(mine)[key]) for key, value in before.items())


def test_the_state_of_one_more_objective_is_refused(tmp_path):
    class Other(DomainAdversarial):
        pass

    save_objectives(objectives(DomainAdversarial(hidden_size=4), Other(hidden_size=4)), tmp_path)
    with pytest.raises(ValueError, match="they differ in other.discriminator"):
        load_objectives(objectives(DomainAdversarial(hidden_size=4)), tmp_path)


# --- weights whose names on disk are not those of the module


def test_upstream_still_leaves_renamed_weights_as_they_are(tmp_path):
    """The reason for `load_renamed_weights`; when this fails, transformers#43701 is mended and it can go."""
    saved, other = tiny("vit"), tiny("vit")
    saved.save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert names - saved.state_dict().keys()
    Trainer(other, arguments(tmp_path))._load_from_checkpoint(str(tmp_path))
    same = [torch.equal(value, weights(saved)[key]) for key, value in weights(other).items() if ".layers." in key]
    assert same and not all(same)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "vit", "resnet", "wav2vec2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_every_weight_of_a_checkpoint_is_loaded(tmp_path, name, dtype):
    saved, other = (tiny(name).to(dtype) for _ in range(2))
    for model in (saved, other):
        attach(model, [L2SP()])
    with torch.no_grad():
        for parameter in saved.parameters():
            parameter.normal_()
    saved.save_pretrained(tmp_path)
    trainer = TransferTrainer(other, arguments(tmp_path))
    trainer._load_from_checkpoint(str(tmp_path))
    loaded = weights(other)
    assert all(value.dtype == dtype for value in loaded.values() if value.is_floating_point())
    for key, value in weights(saved).items():
        assert torch.equal(value, loaded[key]), key


def test_names_that_fit_are_not_read_twice(tmp_path, monkeypatch):
    model = tiny("bert")
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(type(model), "from_pretrained", lambda *_, **__: pytest.fail("read again"))
    load_renamed_weights(model, tmp_path)


def test_what_is_no_checkpoint_of_a_whole_model_is_left_alone(tmp_path):
    model = models.tiny_vit()
    before = weights(model)
    load_renamed_weights(model, tmp_path)  # an adapter's: no model.safetensors
    load_renamed_weights(nn.Linear(2, 2), tmp_path)
    assert all(torch.equal(value, before[key]) for key, value in weights(model).items())


def test_the_best_vit_comes_back_whole(tmp_path):
    args = arguments(
        tmp_path,
        **{"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 1, "eval_steps": 1, "max_steps": 3},
        **{"load_best_model_at_end": True, "greater_is_better": True, "learning_rate": 0.01},
    )
    trainer = TransferTrainer(models.tiny_vit(), args, train_dataset=labelled(True), eval_dataset=labelled(True))
    trainer.train()
    assert trainer.state.best_model_checkpoint is not None
    best = AutoModelForImageClassification.from_pretrained(trainer.state.best_model_checkpoint)
    assert all(
        torch.equal(value, weights(best)[key]) for key, value in weights(cast(nn.Module, trainer.model)).items()
    )


def test_statistics_of_a_model_under_adapters_come_back(tmp_path):
    first, second = (models.lora(models.tiny_resnet(), ["convolution"], "classifier.1") for _ in range(2))
    first.train()(pixel_values=torch.randn(4, 3, 16, 16))
    save_statistics(first, tmp_path)
    load_statistics(second, tmp_path)
    before, after = dict(first.named_buffers()), dict(second.named_buffers())
    moved = [name for name in before if name.endswith("running_mean")]
    assert moved and all(before[name].any() for name in moved)
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("make", [models.tiny_resnet, lambda: models.lora(models.tiny_bert(), ["query"])])
def test_statistics_are_no_file_where_there_are_none_or_the_checkpoint_has_them(tmp_path, make):
    save_statistics(make(), tmp_path)
    assert not (tmp_path / STATISTICS_NAME).exists()
    load_statistics(make(), tmp_path)


def test_a_checkpoint_of_adapters_without_statistics_is_taken(tmp_path):
    model = models.lora(models.tiny_resnet(), ["convolution"], "classifier.1")
    load_statistics(model, tmp_path)
