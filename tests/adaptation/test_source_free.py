"""SHOT: what moves and what may not, labels that cannot leak, and that it helps."""

from __future__ import annotations

import logging

import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from hf_transfer import adapt_source_free
from hf_transfer.functional.entropy import information_maximization
from hf_transfer.functional.pseudo_labels import centroid_pseudo_labels
from tests.adaptation.shifted import accuracy, cut, flags, images, state, trained
from tests.models import batch_for, lora, tiny_bert, tiny_resnet, tiny_token_bert, tiny_vit


def mild(count=150, seed=3):
    """Half of the way to the shifted domain."""
    source, target = images(count, seed=seed), images(count, seed=seed, shifted=True)
    return {**source, "pixel_values": 0.45 * source["pixel_values"] + 0.55 * target["pixel_values"]}


def test_it_helps_on_a_shifted_domain():
    model, target = trained(), mild()
    before = accuracy(model, target)
    report = adapt_source_free(model, cut(target, 50), epochs=10, learning_rate=0.01)
    assert before < 0.8 and accuracy(model, target) > 0.9
    assert report.rows == 150 and report.steps == 30 and not report.collapsed
    assert report.entropy[-1] < report.entropy[0] and len(report.entropy) == 11
    assert sum(report.shares_after) == pytest.approx(1) and report.relabelled[0] > report.relabelled[-1]


def test_the_head_stays_bit_for_bit_and_the_rest_moves():
    model = trained()
    before, modes = state(model), flags(model)
    adapt_source_free(model, cut(mild(), 50), epochs=1, learning_rate=0.01)
    after = state(model)
    for key in before:
        assert torch.equal(before[key], after[key]) == key.startswith("classifier"), key
    assert flags(model) == modes and all(p.grad is None for p in model.parameters())


def test_one_step_against_the_formula():
    target = mild(40)
    adapted, naive = trained(), trained()
    pixels = target["pixel_values"]
    with torch.no_grad():
        features = naive.layers[1](naive.layers[0](naive.first(pixels))).mean((2, 3))
        labels = centroid_pseudo_labels(features, naive.classifier(features))
    sgd = torch.optim.SGD(naive.parameters(), lr=0.1)
    logits = naive.train()(pixel_values=pixels)["logits"]
    p = logits.softmax(-1)
    entropy = -(p * p.log()).sum(-1).mean()
    varied = -(p.mean(0) * p.mean(0).log()).sum()
    loss = entropy - varied + 0.3 * -logits.log_softmax(-1)[torch.arange(40), labels].mean()
    torch.testing.assert_close(
        entropy - varied, information_maximization(logits) - torch.tensor(3.0).log(), rtol=1e-4, atol=1e-5
    )
    loss.backward()
    sgd.step()
    adapt_source_free(adapted, [target], epochs=1, optimizer=lambda found: torch.optim.SGD(found, lr=0.1))
    for key in ("first.weight", "layers.0.conv.weight", "layers.1.norm.bias"):
        torch.testing.assert_close(dict(adapted.named_parameters())[key], dict(naive.named_parameters())[key])


def test_labels_in_the_data_change_nothing_bit_for_bit():
    target, results = mild(30), []
    seen = []

    def collate(rows):
        seen.extend(name for row in rows for name in row)
        return {"pixel_values": torch.stack([row["pixel_values"] for row in rows])}

    for labels in (target["labels"], torch.zeros(30, dtype=torch.long), None):
        columns = {"pixel_values": target["pixel_values"].tolist()}
        if labels is not None:
            columns.update(dict.fromkeys(("label", "labels", "label_ids"), labels.tolist()))
        model = trained()
        rows = Dataset.from_dict(columns).with_format("torch")
        adapt_source_free(model, rows, collator=collate, batch_size=10, epochs=2, learning_rate=0.01)
        results.append(state(model))
    assert set(seen) == {"pixel_values"}
    assert all(torch.equal(results[0][key], other[key]) for other in results[1:] for key in other)


def test_random_numbers_of_the_caller_go_on():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    adapt_source_free(trained(), [mild(20)], epochs=1)
    assert torch.equal(torch.rand(3), expected)


def test_a_shuffling_loader_does_not_mix_up_the_pseudo_labels():
    target = mild(30)
    rows = Dataset.from_dict({"pixel_values": target["pixel_values"].tolist()}).with_format("torch")
    first, second = trained(), trained()
    adapt_source_free(first, DataLoader(rows, batch_size=10, shuffle=True), epochs=2)
    adapt_source_free(second, rows, batch_size=10, epochs=2)
    assert all(torch.equal(value, state(second)[key]) for key, value in state(first).items())


@pytest.mark.parametrize("make", [tiny_bert, tiny_vit, tiny_resnet, tiny_token_bert])
def test_models_of_transformers(make):
    model = make()
    batches = [batch_for(model, 5, seed=seed) for seed in range(3)]
    report = adapt_source_free(model, batches, epochs=1)
    assert report.steps == 3
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches) if make is tiny_token_bert else 15
    assert report.rows == tokens


def test_under_lora_only_the_adapters_move():
    model = lora(tiny_bert(), ["query", "value"], "classifier")
    before = state(model)
    adapt_source_free(model, [batch_for(model, 6)], epochs=2, learning_rate=0.01)
    moved = {key for key, value in state(model).items() if not torch.equal(value, before[key])}
    assert moved and all("lora_" in key for key in moved)


def test_single_rows_are_not_trained_on():
    report = adapt_source_free(trained(), cut(mild(11), 5), epochs=1)
    assert (report.rows, report.steps) == (11, 2)


def test_a_collapse_is_told(caplog):
    model = trained()
    with caplog.at_level(logging.WARNING, logger="hf_transfer"):
        report = adapt_source_free(
            model, cut(images(60, seed=3), 20), epochs=8, diversity_weight=0, pseudo_label_weight=0,
            optimizer=lambda found: torch.optim.SGD(found, lr=30.0),
        )  # fmt: skip
    assert report.collapsed == (max(report.shares_after) >= 0.95 and max(report.shares_before) < 0.85)
    assert report.collapsed == ("has collapsed" in caplog.text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "`epochs=0`.*nothing would be learned"),
        ({"pseudo_label_weight": -1.0}, "`pseudo_label_weight=-1.0`.*weights of zero or more"),
    ],
)
def test_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        adapt_source_free(trained(), [mild(8)], **options)


def test_refused():
    with pytest.raises(ValueError, match="adapt_source_free on a model with a regression.*`adapt_batch_norm`"):
        adapt_source_free(tiny_bert(num_labels=1), [])
    with pytest.raises(ValueError, match="on a model with several labels a row"):
        adapt_source_free(tiny_bert(problem_type="multi_label_classification"), [])
    with pytest.raises(TypeError, match="which can be read once.*several times"):
        adapt_source_free(trained(), iter([mild(8)]))
    frozen = trained()
    for parameter in (*frozen.first.parameters(), *frozen.layers.parameters()):
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="Nothing of Tiny trains but its head.*`is_trainable=True`"):
        adapt_source_free(frozen, [mild(8)])
    assert len(frozen.classifier._forward_pre_hooks) == 0
