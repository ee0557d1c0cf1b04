from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Image
from torch import nn
from torch.utils.data import DataLoader
from transformers import BertModel

from hf_transfer.batch import TransferBatch
from hf_transfer.compare.cells import CellKey
from hf_transfer.compare.problem import shared_rows
from hf_transfer.compare.problem.pixel_cache import with_augmentation
from hf_transfer.compare.problem.pretrained import Pretrained
from hf_transfer.compare.problem.problem import Problem
from hf_transfer.compare.problem.setup import Setup
from hf_transfer.data.preparation import prepare
from hf_transfer.recipe_arguments import DataArguments
from hf_transfer.trainer import TransferTrainer
from tests.compare.tiny_problems import (
    image_data,
    image_processor,
    loop,
    regression_data,
    text_data,
    token_data,
    tokenizer,
)
from tests.models import bert_config, lora, tiny_bert, tiny_llama, tiny_resnet, tiny_token_bert, tiny_vit


def problem_of(model, processor, data, tmp_path, **options) -> Problem:
    base = Pretrained("m", None, data, model=model, processor=processor)
    return Problem(data, [base], **{"folds": 4, "cache_dir": tmp_path / "features", **options})


@pytest.fixture
def text(tmp_path) -> Problem:
    return problem_of(tiny_bert(num_labels=5), tokenizer(), text_data(), tmp_path)


@pytest.fixture
def pictures(tmp_path) -> Problem:
    return problem_of(tiny_resnet(), image_processor(), image_data(validation=8), tmp_path)


def run(problem: Problem, tmp_path, seed=0, share=1.0, full=False, **options) -> Setup:
    return problem.setup(CellKey("m", "full", seed, share), loop(tmp_path, **options), full=full)


# --- the loop


def test_the_loop_neither_validates_nor_saves_nor_pushes(text, tmp_path):
    given = loop(tmp_path, push_to_hub=False, metric_for_best_model="accuracy")
    before = dict(vars(given))
    own = text.setup(CellKey("m", "full", 3), given).args
    assert own.output_dir == str(tmp_path / "cells/m/full/seed_3") and own.seed == 3
    assert own.eval_strategy == "no" and own.save_strategy == "no" and not own.load_best_model_at_end
    assert not own.push_to_hub and own.resume_from_checkpoint is None
    assert vars(given) == before and not (tmp_path / "cells").exists()


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_all_runs_have_the_same_steps_whatever_their_share(text, tmp_path, share):
    # 20 rows, a quarter of which validates: 15 rows, in batches of 4
    assert run(text, tmp_path, share=share, num_train_epochs=3).args.max_steps == 12  # 11.25, rounded up
    assert run(text, tmp_path, share=share, gradient_accumulation_steps=2).args.max_steps == 2
    assert run(text, tmp_path, share=share, max_steps=7).args.max_steps == 7
    assert run(text, tmp_path, full=True, num_train_epochs=3).args.max_steps == 15


def test_batch_norm_is_spared_a_batch_of_one_row(tmp_path):
    convolutional = problem_of(tiny_resnet(), image_processor(), image_data(21, validation=4), tmp_path)
    assert run(convolutional, tmp_path).args.dataloader_drop_last
    assert not run(convolutional, tmp_path, per_device_train_batch_size=6).args.dataloader_drop_last
    without = problem_of(tiny_vit(), image_processor(), image_data(21, validation=4), tmp_path)
    assert not run(without, tmp_path).args.dataloader_drop_last


def test_a_trainer_takes_it_as_it_is(pictures, tmp_path):
    setup = run(pictures, tmp_path)
    trainer = TransferTrainer(
        setup.fresh(),
        setup.args,
        train_dataset=setup.train,
        data_collator=setup.collate,  # pyright: ignore
    )
    trainer.train()
    assert trainer.state.global_step == setup.args.max_steps == 5
    assert setup.predict(trainer.model, "test").shape == (6, 2)
    assert not list(tmp_path.glob("cells/**/checkpoint*"))


# --- rows


def test_folds_cut_the_training_rows(text, tmp_path):
    setup = run(text, tmp_path, seed=1)
    train, held = setup.ids("train"), setup.ids("validation")
    assert sorted([*train, *held]) == list(range(20)) and len(held) == 5
    labels = np.array(text.data.train["label"])
    assert (setup.train_labels == labels[train]).all() and (setup.labels("validation") == labels[held]).all()
    assert setup.train["labels"][:] == labels[train].tolist()
    assert setup.validation is not None and len(setup.validation) == 5
    assert setup.test is not None and setup.ids("test").tolist() == list(range(6))
    assert setup.target is None and setup.teacher is None


def test_the_winner_trains_on_all_rows(text, tmp_path):
    setup = run(text, tmp_path, full=True)
    assert len(setup.train) == 20 and setup.validation is None and setup.test is not None
    with pytest.raises(ValueError, match=r"no `validation` rows.*nothing can be scored.*Look whether"):
        setup.features("validation")


def test_smaller_shares_are_part_of_larger_ones(text, tmp_path):
    parts = [run(text, tmp_path, seed=2, share=share) for share in (0.1, 0.25, 0.5, 1.0)]
    for smaller, larger in zip(parts, parts[1:], strict=False):
        assert set(smaller.ids("train")) < set(larger.ids("train"))
        assert (smaller.ids("validation") == larger.ids("validation")).all()
    assert set(parts[0].train_labels.tolist()) == {0, 1} and len(parts[0].train) == 2


def test_images_are_decoded_once(pictures, tmp_path, monkeypatch):
    setups = [run(pictures, tmp_path, seed=seed) for seed in (0, 1)]
    lazy = prepare(pictures.data.train, image_processor())
    monkeypatch.setattr(Image, "decode_example", lambda *_: pytest.fail("an image was decoded again"))
    for setup in setups:
        batch = next(iter(DataLoader(setup.train, 4, collate_fn=setup.collate)))  # pyright: ignore
        assert batch["pixel_values"].shape == (4, 3, 8, 8) and batch["pixel_values"].is_contiguous()
    monkeypatch.undo()
    for row in (0, 7, 19):
        kept, decoded = setups[0].train[row], lazy[row]
        assert torch.equal(kept["pixel_values"], decoded["pixel_values"]) and kept["labels"] == decoded["labels"]


def test_only_training_rows_are_augmented(tmp_path):
    data, processor = image_data(validation=4), image_processor()
    problem = problem_of(tiny_resnet(), processor, data, tmp_path, data_args=DataArguments(augmentation="light"))
    setup = run(problem, tmp_path)
    plain = prepare(data.train, processor)
    assert not torch.equal(setup.train[0]["pixel_values"], setup.train[0]["pixel_values"])
    model = setup.fresh()
    assert (setup.predict(model, "train") == setup.predict(model, "train")).all()
    assert setup.validation is not None
    assert torch.equal(setup.validation[0]["pixel_values"], prepare(data.eval, processor)[0]["pixel_values"])  # pyright: ignore
    assert with_augmentation(plain, None) is plain


# --- predictions


def naive(model, setup: Setup, split) -> list[torch.Tensor]:
    """Row by row, without padding."""
    rows: Any = {"train": setup.train, "validation": setup.validation, "test": setup.test}[split]
    found = []
    with torch.no_grad():
        for row in rows:
            inputs = {name: torch.as_tensor(row[name])[None] for name in row if name != "labels"}
            found.append(model.eval()(**inputs).logits[0])
    return found


@pytest.mark.parametrize("kind", ["bert", "llama", "left", "resnet", "lora"])
def test_predictions_are_those_of_single_rows_in_their_order(tmp_path, kind):
    side = {"padding_side": "left"} if kind == "left" else {}
    data = image_data() if kind == "resnet" else text_data(pairs=kind == "bert")
    processor = image_processor() if kind == "resnet" else tokenizer(**side)
    made = {"resnet": tiny_resnet, "llama": tiny_llama, "left": tiny_llama}.get(kind, tiny_bert)
    problem = problem_of(made(), processor, data, tmp_path)
    setup = run(problem, tmp_path, per_device_eval_batch_size=3)
    model = setup.fresh()
    if kind == "lora":
        model = lora(model, ["query"], "classifier")
    for split in ("train", "validation", "test"):
        logits = setup.predict(model, split)
        assert logits.dtype == np.float32
        torch.testing.assert_close(torch.tensor(logits), torch.stack(naive(model, setup, split)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("side", ["right", "left"])
def test_predictions_of_tokens_stand_where_their_labels_do(tmp_path, side):
    problem = problem_of(tiny_token_bert(), tokenizer(padding_side=side), token_data(), tmp_path)
    setup = run(problem, tmp_path, per_device_eval_batch_size=3)
    model: Any = setup.fresh()
    model.bert.embeddings.position_embeddings.weight.data.zero_()  # which would see the padding on the left
    logits, labels = setup.predict(model, "validation"), setup.labels("validation")
    assert logits.shape == (*labels.shape, 3) and setup.validation is not None
    for row, single, own in zip(setup.validation, naive(model, setup, "validation"), range(len(labels)), strict=True):
        length = len(row["input_ids"])  # pyright: ignore
        np.testing.assert_allclose(logits[own, :length], single, atol=1e-5)
        assert labels[own, :length].tolist() == row["labels"]  # pyright: ignore
        assert (labels[own, length:] == -100).all() and (logits[own, length:] == 0).all()
    assert len({len(row["input_ids"]) for row in setup.validation}) > 1  # pyright: ignore


def test_a_regression_has_real_labels(tmp_path):
    problem = problem_of(tiny_bert(num_labels=1), tokenizer(), regression_data(), tmp_path)
    setup = run(problem, tmp_path)
    assert setup.train_labels.dtype.kind == "f" and setup.predict(setup.fresh(), "test").shape == (5, 1)
    assert setup.probe().kind == "ridge" and problem.metric == "mse" and problem.regression


def test_looking_disturbs_nothing(pictures, tmp_path):
    setup = run(pictures, tmp_path)
    model = nn.Sequential(setup.fresh(), nn.Dropout())[0]
    model.train()
    next(model.children()).eval()
    modes = [module.training for module in model.modules()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    expected = torch.rand(1).item(), np.random.rand(), random.random()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    setup.predict(model, "validation"), setup.features("train"), setup.probe(), setup.fresh(), setup.scratch()
    run(pictures, tmp_path, seed=9).labels("train")
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == expected
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(buffers[name], buffer) for name, buffer in model.named_buffers())
    assert all(parameter.grad is None for parameter in model.parameters())


# --- features and probes


def test_features_are_read_once_and_selected(text, tmp_path, monkeypatch):
    calls, extract = [], shared_rows.extract_features
    monkeypatch.setattr(shared_rows, "extract_features", lambda *a, **k: calls.append(len(a[1])) or extract(*a, **k))
    setups = [run(text, tmp_path, seed=seed, share=share) for seed in (0, 1) for share in (0.5, 1.0)]
    for setup in setups:
        for split in ("train", "validation", "test"):
            rows = setup.features(split)
            assert rows["labels"][:] == setup.labels(split).tolist() and len(rows) == len(setup.ids(split))
    assert calls == [20, 6]  # all training rows, and the test rows


def test_the_probe_is_the_head_of_the_fresh_model(text, tmp_path):
    setup = run(text, tmp_path)
    probe = setup.probe()
    assert setup.probe() is probe and probe.rows == 15 and probe.task == "single_label"
    assert run(text, tmp_path).probe() is probe and run(text, tmp_path, seed=1).probe() is not probe
    logits = setup.predict(probe.fold_into(setup.fresh()), "validation")
    np.testing.assert_allclose(logits, probe.logits(setup.features("validation")), rtol=1e-2, atol=1e-3)


def test_features_follow_the_seed_where_the_neck_is_new(tmp_path):
    model = BertModel(bert_config(), add_pooling_layer=False)
    folder = tmp_path / "base"
    model.save_pretrained(folder), tokenizer().save_pretrained(folder)
    data = text_data(validation=6)
    problem = Problem(data, [Pretrained("m", folder, data)], cache_dir=tmp_path / "features")
    first, second = run(problem, tmp_path, seed=0), run(problem, tmp_path, seed=1)
    assert first.features("test")[0]["features"] != second.features("test")[0]["features"]
    for setup in (first, second):  # what the probe was fitted to is what the model computes
        probe = setup.probe()
        logits = setup.predict(probe.fold_into(setup.fresh()), "test")
        np.testing.assert_allclose(logits, probe.logits(setup.features("test")), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("rows", [2, 3, 4, 5])
def test_a_probe_of_very_few_rows(tmp_path, rows):
    problem = problem_of(tiny_bert(), tokenizer(), text_data(rows, validation=4), tmp_path)
    setup = run(problem, tmp_path, share=0.5)
    probe = setup.probe()
    assert probe.rows == len(setup.train) >= 2
    assert np.isfinite(setup.predict(probe.fold_into(setup.fresh()), "test")).all()


def test_a_probe_of_tokens_and_of_a_head_without_bias(tmp_path):
    tokens = run(problem_of(tiny_token_bert(), tokenizer(), token_data(), tmp_path), tmp_path)
    assert tokens.probe().task == "token" and tokens.probe().classes == 3
    decoder = run(problem_of(tiny_llama(), tokenizer(), text_data(), tmp_path), tmp_path)
    logits = decoder.predict(decoder.probe().fold_into(decoder.fresh()), "test")
    np.testing.assert_allclose(logits, decoder.probe().logits(decoder.features("test")), rtol=1e-2, atol=1e-3)


# --- teacher


def test_every_run_meets_the_teacher_anew(tmp_path):
    problem = problem_of(tiny_bert(), tokenizer(), text_data(), tmp_path, teacher=tiny_bert(num_labels=2))
    first, second = (run(problem, tmp_path, seed=seed) for seed in (0, 1))
    assert first.teacher is not None and second.teacher is not None
    assert first.teacher is first.teacher and first.teacher is not second.teacher
    assert first.teacher.source is second.teacher.source and first.taught is first.train


def test_a_teacher_with_another_tokenizer_reads_its_own_tokens(tmp_path):
    folder = tmp_path / "teacher"
    tiny_bert(num_labels=2).save_pretrained(folder)  # pyright: ignore
    other = tokenizer()
    other.add_tokens(["extra"])
    other.save_pretrained(folder)
    problem = problem_of(tiny_bert(), tokenizer(), text_data(), tmp_path, teacher=str(folder))
    setup = run(problem, tmp_path)
    assert "teacher_input_ids" not in setup.train.column_names
    assert "teacher_input_ids" in setup.taught.column_names and len(setup.taught) == len(setup.train)
    assert setup.taught["input_ids"][:] == setup.train["input_ids"][:]
    batch = setup.collate([setup.taught[row] for row in range(3)])
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    columns = {name: value for name, value in batch.items() if name.startswith("teacher_")}
    assert setup.teacher is not None
    said = setup.teacher(TransferBatch(features=torch.zeros(3, 4), inputs=inputs, columns=columns))
    assert said.logits.shape == (3, 2)
    assert set(setup.collate([setup.train[0]])) == {"input_ids", "token_type_ids", "attention_mask", "labels"}
