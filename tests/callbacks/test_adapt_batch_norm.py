"""`AdaptBatchNorm`: what a run ends with, what evaluations see, and what checkpoints and training keep."""

from __future__ import annotations

import threading

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_transfer import AdaptBatchNorm, FreezeBatchNorm, adapt_batch_norm
from hf_transfer.callbacks.adapt_batch_norm import release
from tests.adaptation.shifted import cut, images, trained
from tests.invariants.run import rows
from tests.models import batch_for, tiny_bert, tiny_resnet


TARGET = [batch_for(tiny_resnet(), 6, seed=seed) for seed in (7, 8)]


def model() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return tiny_resnet()


def trainer(folder, model, *callbacks, steps=4, **options):
    args = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=4, max_steps=steps, learning_rate=0.05, report_to="none",
        use_cpu=True, dataloader_pin_memory=False, disable_tqdm=True, **{"save_strategy": "no", **options},
    )  # fmt: skip
    data = rows(12, 0, True, True)
    evaluation = {"source": data, "target": rows(6, 1, True, True)}
    return Trainer(model, args, train_dataset=data, eval_dataset=evaluation, callbacks=list(callbacks))


def statistics(model) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.named_buffers() if "running" in key}


def same(first, second) -> bool:
    return all(torch.equal(value, second[key]) for key, value in first.items())


class Watch(TrainerCallback):
    """The statistics that each evaluation and each step of the training ends with."""

    def __init__(self):
        self.evaluated, self.trained = [], []

    def on_prediction_step(self, args, state, control, model=None, **kwargs):
        self.evaluated.append((state.global_step, statistics(model)))

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        model.register_forward_hook(lambda m, i, o: self.trained.append(statistics(m)) if m.training else None)


def test_a_run_ends_with_the_statistics_of_the_target(tmp_path):
    adapted, plain = model(), model()
    trainer(tmp_path, adapted, AdaptBatchNorm(TARGET)).train()
    trainer(tmp_path, plain).train()
    assert not same(statistics(adapted), statistics(plain))
    adapt_batch_norm(plain, TARGET)
    assert same(statistics(adapted), statistics(plain))
    assert all(torch.equal(p, q) for p, q in zip(adapted.parameters(), plain.parameters(), strict=True))


def test_evaluations_of_the_run_see_them_and_training_does_not(tmp_path):
    options = {"eval_strategy": "steps", "eval_steps": 2}
    adapted, plain = Watch(), Watch()
    first, second = model(), model()
    trainer(tmp_path, first, AdaptBatchNorm(TARGET, evaluations=True), adapted, **options).train()
    trainer(tmp_path, second, plain, **options).train()
    # in each of two evaluations two batches of the first data set and one of the second
    assert [step for step, _ in adapted.evaluated] == [2, 2, 2, 4, 4, 4]
    for (step, ours), (_, theirs) in zip(adapted.evaluated, plain.evaluated, strict=True):
        assert not same(ours, theirs), step
    assert same(adapted.evaluated[0][1], adapted.evaluated[2][1])
    assert not same(adapted.evaluated[2][1], adapted.evaluated[3][1])
    assert len(adapted.trained) == 4
    assert all(same(ours, theirs) for ours, theirs in zip(adapted.trained, plain.trained, strict=True))
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))
    assert not first._forward_pre_hooks


def test_checkpoints_keep_what_training_goes_on_from(tmp_path):
    from safetensors.torch import load_file

    options = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    trainer(tmp_path / "adapted", model(), AdaptBatchNorm(TARGET, evaluations=True), **options).train()
    trainer(tmp_path / "plain", model(), **options).train()
    files = [load_file(tmp_path / run / "checkpoint-2" / "model.safetensors") for run in ("adapted", "plain")]
    assert same(*files)
    straight, resumed = model(), model()
    run = trainer(tmp_path / "adapted", resumed, AdaptBatchNorm(TARGET, evaluations=True), **options)
    run.train(resume_from_checkpoint=str(tmp_path / "adapted" / "checkpoint-2"))
    trainer(tmp_path / "plain", straight, AdaptBatchNorm(TARGET), **options).train()
    assert same(straight.state_dict(), resumed.state_dict())


def test_at_the_end_of_an_epoch(tmp_path):
    watch = Watch()
    run = trainer(tmp_path, model(), AdaptBatchNorm(TARGET, evaluations=True), watch, eval_strategy="epoch", steps=3)
    run.train()
    expected = model()
    trainer(tmp_path, expected, AdaptBatchNorm(TARGET), steps=3).train()
    assert same(watch.evaluated[0][1], statistics(expected))


def test_beside_frozen_statistics(tmp_path):
    network = model()
    trainer(tmp_path, network, FreezeBatchNorm(), AdaptBatchNorm(TARGET, evaluations=True)).train()
    first = next(module for module in network.modules() if getattr(module, "running_mean", None) is not None)
    assert first.running_mean.any() and not first.running_mean.eq(0).all()


class Crash(TrainerCallback):
    def on_prediction_step(self, args, state, control, **kwargs):
        raise KeyboardInterrupt


def test_a_crash_in_an_evaluation_is_cleaned_up(tmp_path):
    crashed, plain = model(), model()
    options = {"eval_strategy": "steps", "eval_steps": 2}
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, crashed, AdaptBatchNorm(TARGET, evaluations=True), Crash(), **options).train()
    trainer(tmp_path, plain, steps=2, lr_scheduler_type="constant").train()
    assert not same(statistics(crashed), statistics(plain))
    release(crashed)
    release(crashed)
    assert not crashed._forward_pre_hooks
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, plain := model(), Crash(), **options).train()
    assert same(statistics(crashed), statistics(plain))


def test_ranks_put_their_statistics_together(monkeypatch):
    """Two ranks as threads that meet in `all_gather`: each reads half of the batches, both end with the whole."""
    local, meeting, given = threading.local(), threading.Barrier(2), {}

    def all_gather(into, mine):
        given[local.rank] = mine
        meeting.wait()
        for rank, place in enumerate(into):
            place.copy_(given[rank])
        meeting.wait()

    fakes = {"is_initialized": lambda: True, "get_world_size": lambda: 2, "get_rank": lambda: local.rank}
    for name, fake in {**fakes, "all_gather": all_gather}.items():
        monkeypatch.setattr(torch.distributed, name, fake)
    target = cut(images(40, shifted=True), 8)
    whole, ranks = trained(), [trained(), trained()]
    adapt_batch_norm(whole, target)

    def work(rank):
        local.rank = rank
        adapt_batch_norm(ranks[rank], target, share_ranks=True)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert same(statistics(ranks[0]), statistics(ranks[1]))
    for key, value in statistics(whole).items():
        torch.testing.assert_close(statistics(ranks[0])[key], value, rtol=1e-5, atol=1e-6)


def test_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match="no batch normalisation with running statistics.*nothing to adapt"):
        trainer(tmp_path, tiny_bert(), AdaptBatchNorm(TARGET))
    with pytest.raises(TypeError, match="AdaptBatchNorm got a list_iterator, which can be read once.*`DataLoader`"):
        AdaptBatchNorm(iter(TARGET))


def test_it_prints():
    assert str(AdaptBatchNorm(TARGET)) == "AdaptBatchNorm(evaluations=False)"
