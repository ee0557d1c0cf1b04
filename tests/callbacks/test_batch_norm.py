"""`FreezeBatchNorm`: statistics stay, scale and shift train, evaluation is what was trained."""

from __future__ import annotations

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_transfer import TransferTrainer
from hf_transfer.callbacks import FreezeBatchNorm, GradualUnfreezing
from hf_transfer.callbacks.batch_norm import norms_of
from tests.invariants.run import rows
from tests.models import batch_for, tiny_bert, tiny_resnet


class Crash(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        raise KeyboardInterrupt


class TrainLoss(TrainerCallback):
    """The model's loss on a batch in training and in evaluation mode, at the second step."""

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == 1:
            batch = batch_for(model)
            batch.pop("domain")
            with torch.no_grad():
                self.losses = [model.train(mode)(**batch).loss.item() for mode in (True, False)]
            model.train()


def trainer(folder, model, *callbacks):
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        max_steps=3,
        learning_rate=0.05,
        report_to="none",
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        save_strategy="no",
    )
    return Trainer(model, args, train_dataset=rows(12, 0, True, True), callbacks=list(callbacks))


def statistics(model) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.named_buffers()}


def test_statistics_stay_while_scale_and_shift_train(tmp_path):
    model = tiny_resnet()
    norms = norms_of(model)
    before, scale = statistics(model), norms[0].weight.detach().clone()
    trainer(tmp_path, model, FreezeBatchNorm()).train()
    assert all(torch.equal(value, before[key]) for key, value in statistics(model).items())
    assert not torch.equal(norms[0].weight, scale)


def test_without_it_they_move(tmp_path):
    model = tiny_resnet()
    before = statistics(model)
    trainer(tmp_path, model).train()
    assert not all(torch.equal(value, before[key]) for key, value in statistics(model).items())


def test_what_is_trained_is_what_is_evaluated(tmp_path):
    """The tiny ResNet has no dropout: with statistics at rest, both modes are the same function."""
    watch = TrainLoss()
    trainer(tmp_path, tiny_resnet(), FreezeBatchNorm(), watch).train()
    assert watch.losses[0] == watch.losses[1]
    trainer(tmp_path, tiny_resnet(), watch).train()
    assert watch.losses[0] != watch.losses[1]


def test_model_is_left_as_it_was_found(tmp_path):
    model = tiny_resnet()
    hooks = len(model._forward_pre_hooks)
    trainer(tmp_path, model, FreezeBatchNorm()).train()
    assert len(model._forward_pre_hooks) == hooks
    assert all(norm.training == model.training for norm in norms_of(model))


def test_a_crashed_run_leaves_nothing_in_the_next(tmp_path):
    model = tiny_resnet()
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, model, FreezeBatchNorm(), Crash()).train()
    assert len(model._forward_pre_hooks) == 1
    trainer(tmp_path, model, FreezeBatchNorm()).train()  # another callback than the one that crashed
    assert len(model._forward_pre_hooks) == 0


def test_a_crashed_run_of_ours_leaves_nothing(tmp_path):
    model = tiny_resnet()
    args = trainer(tmp_path, model).args
    crashing = TransferTrainer(
        model, args, train_dataset=rows(12, 0, True, True), callbacks=[FreezeBatchNorm(), Crash()]
    )
    with pytest.raises(KeyboardInterrupt):
        crashing.train()
    assert len(model._forward_pre_hooks) == 0
    before = statistics(model)
    model.train()(pixel_values=batch_for(model)["pixel_values"])
    assert not all(torch.equal(value, before[key]) for key, value in statistics(model).items())


def test_beside_an_unfreezing_schedule(tmp_path):
    model = tiny_resnet()
    before = statistics(model)
    trainer(tmp_path, model, GradualUnfreezing(stages=2), FreezeBatchNorm()).train()
    assert all(torch.equal(value, before[key]) for key, value in statistics(model).items())


def test_a_model_without_statistics_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no layer with running statistics.*nothing to keep still.*Leave"):
        trainer(tmp_path, tiny_bert(), FreezeBatchNorm())


def test_it_prints():
    assert str(FreezeBatchNorm()) == "FreezeBatchNorm"
