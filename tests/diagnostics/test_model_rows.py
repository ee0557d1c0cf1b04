from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from transformers import default_data_collator

from hf_transfer.attach import attach
from hf_transfer.diagnostics.model_rows import is_label, read_model
from hf_transfer.modes import undisturbed
from hf_transfer.objectives import DomainAdversarial
from tests.models import TINY, batch_for, lora, tiny_bert, tiny_token_bert


def dataset(model, rows=6):
    batch = batch_for(model, rows)
    return [{name: value[row] for name, value in batch.items()} for row in range(rows)]


def read(model, data, **options):
    settings = {"batch_size": 4, "labelled": True, **options}
    with undisturbed(model, 0):
        return read_model(model, data, range(len(data)), default_data_collator, **settings)


@pytest.mark.parametrize("kind", ["bert", "llama", "resnet", "wav2vec2"])
def test_logits_and_features_are_those_of_the_model(kind):
    model = TINY[kind]()
    data = dataset(model)
    found = read(model.train(), data)
    batch = {name: value for name, value in batch_for(model, 6).items() if name not in ("domain", "labels")}
    with torch.no_grad():
        logits = model.eval()(**batch).logits
    np.testing.assert_allclose(found.logits, logits, atol=1e-5)
    head = model.score if kind == "llama" else model.classifier
    linear = head[-1] if isinstance(head, torch.nn.Sequential) else head
    with torch.no_grad():
        np.testing.assert_allclose(linear(torch.from_numpy(found.features)), logits, atol=1e-5)
    assert found.labels.tolist() == [int(row["labels"]) for row in data]


def test_tokens_count_where_they_are_real():
    model = tiny_token_bert()
    data = dataset(model)
    found = read(model, data)
    mask = torch.stack([row["attention_mask"] for row in data]).bool()
    assert found.features.shape == (6, 16) and len(found.logits) == len(found.labels) == int(mask.sum())
    assert found.labels.tolist() == torch.stack([row["labels"] for row in data])[mask].tolist()
    with torch.no_grad():
        model.eval()
        hidden = model.bert(data[1]["input_ids"][None], data[1]["attention_mask"][None]).last_hidden_state[0]
    np.testing.assert_allclose(found.features[1], hidden[:4].mean(0), atol=1e-5)


def test_target_labels_are_dropped_before_the_collator():
    model = tiny_bert()
    seen = []

    def collate(rows):
        seen.extend(name for row in rows for name in row)
        return default_data_collator(rows)

    data = [{**row, "label_ids": 1, "gold": 2} for row in dataset(model)]
    with undisturbed(model, 0):
        found = read_model(model, data, range(6), collate, batch_size=6, labelled=False, label_names=["gold"])
    assert set(seen) == {"input_ids", "attention_mask"}
    assert (found.labels == -100).all()
    assert is_label("labels") and is_label("gold", ["gold"]) and not is_label("input_ids")


def test_raw_rows_reach_a_collator_that_makes_the_inputs():
    model = tiny_bert()
    data = [{"text": "a" * n, "label": n % 3} for n in range(1, 7)]

    def collate(rows):
        assert "label" not in rows[0]
        return {"input_ids": torch.tensor([[len(row["text"]), 1] for row in rows])}

    with undisturbed(model, 0):
        found = read_model(model, data, range(6), collate, batch_size=3, labelled=False)
    assert found.logits.shape == (6, 3)


def test_models_under_lora_and_with_objectives_are_read():
    model = lora(tiny_bert(), ["query"], "classifier")
    with attach(model, [DomainAdversarial(hidden_size=4)]):
        found = read(model, dataset(model))
    assert found.features.shape == (6, 16)


def test_nothing_is_left_behind():
    model = tiny_bert().train()
    model.bert.encoder.eval()  # a frozen part
    modes = [module.training for module in model.modules()]
    hooks = [len(module._forward_pre_hooks) for module in model.modules()]
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)

    class Noisy(list):
        def __getitem__(self, index):
            torch.rand(3), np.random.rand(3), random.random()
            return super().__getitem__(index)

    read(model, Noisy(dataset(model)))
    assert (torch.rand(1), np.random.rand(), random.random()) == expected
    assert [module.training for module in model.modules()] == modes
    assert [len(module._forward_pre_hooks) for module in model.modules()] == hooks
    assert all(parameter.grad is None for parameter in model.parameters()) and torch.is_grad_enabled()
    with pytest.raises(KeyError), undisturbed(model, 0):
        assert not model.training
        raise KeyError
    assert [module.training for module in model.modules()] == modes


def test_random_transforms_are_the_same_each_time():
    model = tiny_bert()

    class Drawn:
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return {"input_ids": torch.randint(1, 50, (5,)), "labels": 0}

    np.testing.assert_array_equal(read(model, Drawn()).logits, read(model, Drawn()).logits)


def test_a_collator_that_doubles_the_batch_is_refused():
    model = tiny_bert()
    with pytest.raises(ValueError, match=r"made 8 rows of 4.*data_collator="), undisturbed(model, 0):
        read_model(
            model,
            dataset(model, 4),
            range(4),
            lambda rows: default_data_collator([*rows, *rows]),
            batch_size=4,
            labelled=True,
        )
    assert not model.classifier._forward_pre_hooks
