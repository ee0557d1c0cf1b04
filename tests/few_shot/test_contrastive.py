"""Contrastive fine-tuning: what it leaves behind, from what it learns, and what it refuses before it begins."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    TrainerCallback,
    ViTImageProcessorPil,
)

from hf_transfer import contrastive_fine_tune, fit_head
from hf_transfer.data.preparation import collator_for, prepare
from hf_transfer.few_shot import contrastive
from tests.few_shot.models import NAMES, images, texts, tokenizer
from tests.models import lora, tiny_bert, tiny_token_bert, tiny_vit
from tests.objectives.few_shot_runs import STILL, arguments


def accuracy(model: nn.Module, data) -> float:
    batch = tokenizer()(data["text"][:], padding=True, return_tensors="pt")
    with torch.no_grad():
        return (model(**batch).logits.argmax(-1) == torch.tensor(data["label"][:])).double().mean().item()


def seeded(make, **options):
    torch.manual_seed(0)
    return make(**options)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    model = seeded(tiny_bert, **STILL).eval()
    probe = contrastive_fine_tune(model, tokenizer(), texts(8), epochs=2, learning_rate=1e-2)
    folder = tmp_path_factory.mktemp("tuned")
    model.save_pretrained(folder)
    return model, probe, folder


def test_the_result_classifies_texts_it_has_not_seen(tuned):
    model, probe, _ = tuned
    frozen = seeded(tiny_bert, **STILL).eval()
    rows = DataLoader(cast(Any, prepare(texts(8), tokenizer())), 8, collate_fn=collator_for(tokenizer()))
    fit_head(frozen, rows)
    unseen = texts(20, seed=9)
    assert accuracy(model, unseen) > max(0.85, accuracy(frozen, unseen))
    assert probe.rows == 24 and probe.kind == "logistic" and probe.label_names == tuple(NAMES)


def test_the_result_is_an_ordinary_model_as_it_was_given(tuned):
    model, _, folder = tuned
    assert not model.training and not hasattr(model, "transfer_objectives")
    assert model.config.id2label == dict(enumerate(NAMES))
    again = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    batch = tokenizer()(["the apple", "a saw"], return_tensors="pt")
    assert torch.equal(again(**batch).logits, model(**batch).logits)
    assert type(again) is type(model) and again.config.label2id["bird"] == 2


def test_the_head_is_the_regression(tuned):
    model, probe, _ = tuned
    weight, bias = probe.linear()
    np.testing.assert_allclose(model.classifier.weight.detach().numpy(), weight, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.classifier.bias.detach().numpy(), bias, rtol=1e-4, atol=1e-5)


def test_is_a_function_of_the_seed():
    def run(seed):
        model = seeded(tiny_bert)
        contrastive_fine_tune(model, tokenizer(), texts(2), pairs_per_row=2, seed=seed, batch_size=16)
        return model.state_dict()

    one, two, other = run(0), run(0), run(1)
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    assert any(not torch.equal(value, other[key]) for key, value in one.items())


def test_prepared_rows_with_further_columns_under_lora(tmp_path):
    model = lora(seeded(tiny_bert), ["query", "value"], "classifier")
    data = prepare(texts(3), tokenizer()).add_column("note", ["x"] * 9)
    frozen = {key: value.clone() for key, value in model.named_parameters() if not value.requires_grad}
    args = arguments(tmp_path, per_device_train_batch_size=6)
    probe = contrastive_fine_tune(model, tokenizer(), data, args=args)
    now = dict(model.named_parameters())
    assert frozen and all(torch.equal(value, now[key]) for key, value in frozen.items())
    assert any(now[key].any() for key in now if "lora_B" in key)
    head = model.get_base_model().classifier.modules_to_save["default"].weight
    np.testing.assert_allclose(head.detach().numpy(), probe.linear()[0], rtol=1e-4, atol=1e-5)


def test_images_with_augmentation():
    seen = []

    def augment(pixels):
        seen.append(len(pixels))
        return pixels.flip(-1)

    model = seeded(tiny_vit)
    processor = ViTImageProcessorPil(size={"height": 8, "width": 8})
    probe = contrastive_fine_tune(model, processor, images(3), pairs_per_row=2, augment=augment)
    assert probe.rows == 9 and model.config.id2label[0] == "red" and sum(seen) > 9


def test_rows_without_a_label_are_left_out():
    data = texts(3)
    labels = data["label"][:]
    data = data.remove_columns("label").add_column("label", [-100 if row == 0 else y for row, y in enumerate(labels)])
    assert contrastive_fine_tune(seeded(tiny_bert), tokenizer(), data, pairs_per_row=2).rows == 8


def test_what_fails_in_training_leaves_the_model_without_objectives():
    class Broken(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            raise KeyboardInterrupt

    model = seeded(tiny_bert).eval()
    with pytest.raises(KeyboardInterrupt):
        contrastive_fine_tune(model, tokenizer(), texts(2), callbacks=[Broken()])
    assert not hasattr(model, "transfer_objectives") and not model.training


def never(*args, **kwargs):
    raise AssertionError("it trained")


@pytest.mark.parametrize(
    ("make", "data", "options", "message"),
    [
        (
            tiny_bert,
            texts(2, names=NAMES[:2]),
            {},
            "have 2 classes, the head.* has 3 outputs.*num_labels=2",
        ),
        (lambda: tiny_bert(num_labels=2), texts(2), {}, "have 3 classes, the head of the model has 2 outputs"),
        (tiny_token_bert, texts(2), {}, "PairSimilarity on a token classifier"),
        (tiny_bert, texts(1), {}, "one row of each class among 3"),
        (tiny_bert, texts(2), {"batch_size": 7}, "Batches of 7 rows tear pairs apart"),
        (tiny_bert, texts(2), {"pairs_per_row": 0}, "`pairs_per_row=0`"),
        (lambda: lora(tiny_bert(), ["query"]), texts(2), {}, "not in `modules_to_save`"),
        (tiny_bert, texts(2).remove_columns("label").add_column("label", ["a", "b"] * 3), {}, "labels.*are names"),
    ],
)
def test_refuses_before_training(monkeypatch, make, data, options, message):
    monkeypatch.setattr("transformers.Trainer.training_step", never)
    with pytest.raises(ValueError, match=message):
        contrastive_fine_tune(seeded(make), tokenizer(), data, **options)


def test_without_scikit_learn_nothing_is_trained(monkeypatch):
    monkeypatch.setattr(contrastive, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"scikit-learn, which is not installed.*hf-transfer-learning\[recipes\]"):
        contrastive_fine_tune(seeded(tiny_bert), tokenizer(), texts(2))
