"""The rise of the loss without a channel: the shortcut against whole forwards with a hook, and the rows it reads."""

from __future__ import annotations

import sys

import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import nn
from torch.nn import functional as F
from transformers import AlbertConfig, AlbertForSequenceClassification

from hf_transfer.objectives.regularization.channel_attention import TargetHead, _spread, loss_increases
from hf_transfer.source import Source
from tests.models import TINY, VOCABULARY, batch_for, tiny_bert, tiny_resnet


CPU = torch.device("cpu")


def tiny_albert(**options) -> nn.Module:
    """One layer, run three times."""
    config = AlbertConfig(
        vocab_size=VOCABULARY,
        embedding_size=8,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        num_labels=3,
        **options,
    )
    return AlbertForSequenceClassification(config)


def by_hand(source, block, batches):
    """The same without a shortcut: whole forwards, the last output of the block cut by a hook."""
    outputs = []
    for batch in batches:
        inputs = {name: value for name, value in batch.items() if name not in ("labels", "domain")}
        outputs.append((inputs, batch["labels"], source(inputs).features))
    rows = [(f.reshape(-1, f.shape[-1]), y.reshape(-1)) for _, y, f in outputs]
    features, labels = (torch.cat(parts) for parts in zip(*rows, strict=True))
    mean, deviation = features.mean(0), features.std(0, correction=0)
    deviation[deviation == 0] = 1
    model = LogisticRegression(max_iter=300).fit(((features - mean) / deviation).double().numpy(), labels.numpy())

    def loss(features, labels):
        scaled = ((features.reshape(-1, features.shape[-1]) - mean) / deviation).double().numpy()
        chosen = model.predict_proba(scaled)[range(labels.numel()), labels.reshape(-1).numpy()]
        return -torch.as_tensor(chosen).log().sum()

    module = source.model.get_submodule(block)
    calls = []
    hook = module.register_forward_hook(lambda module, args, output: calls.append(output))
    source(outputs[0][0])
    hook.remove()
    first = calls[0][0] if isinstance(calls[0], tuple) else calls[0]
    axis = 1 if first.dim() == 4 else -1
    rises = []
    for channel in range(first.shape[axis]):
        total = 0.0
        for inputs, labels, features in outputs:
            count = 0

            def cut(module, args, output, channel=channel):
                nonlocal count
                count += 1
                if count == len(calls):
                    maps = (output[0] if isinstance(output, tuple) else output).clone()
                    maps.select(axis, channel).zero_()
                    return (maps, *output[1:]) if isinstance(output, tuple) else maps

            hook = module.register_forward_hook(cut)
            total += loss(source(inputs).features, labels) - loss(features, labels)
            hook.remove()
        rises.append(total / labels_of(batches))
    return torch.stack(rises)


def labels_of(batches):
    return sum(batch["labels"].numel() for batch in batches)


@pytest.mark.parametrize("kind", [*TINY, "albert"])
def test_replaying_the_blocks_before_is_the_whole_forward(kind):
    source = Source((tiny_albert if kind == "albert" else TINY[kind])())
    batches = [batch_for(source.model, 6, seed=seed) for seed in range(2)]
    blocks = source.anatomy.blocks
    found = loss_increases(source, blocks, batches, rows=100, device=CPU)
    assert len(found) == len(blocks)
    for block, rises in zip(blocks, found, strict=True):
        torch.testing.assert_close(rises.double(), by_hand(source, block, batches), rtol=2e-3, atol=2e-5)
        assert rises.any()


@pytest.mark.parametrize("rows", [1, 5, 64])
def test_how_many_copies_go_in_a_forward_changes_nothing(rows, monkeypatch):
    source = Source(tiny_resnet())
    batches = [batch_for(source.model, rows)]
    first = loss_increases(source, source.anatomy.blocks[-1:], batches, rows=100, device=CPU)
    monkeypatch.setattr("hf_transfer.objectives.regularization.channel_attention._FORWARD_ROWS", 1)
    second = loss_increases(source, source.anatomy.blocks[-1:], batches, rows=100, device=CPU)
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-5)


def test_the_source_is_left_as_it_was():
    source = Source(tiny_bert())
    batch = batch_for(source.model)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    before = source(inputs).logits
    loss_increases(source, source.anatomy.blocks, [batch], rows=4, device=CPU)
    assert torch.equal(source(inputs).logits, before)
    assert not any("forward" in vars(module) for module in source.model.modules())


def test_a_channel_the_task_hangs_on_stands_out():
    source = Source(tiny_resnet())
    block = source.anatomy.blocks[-1]
    batches = [batch_for(source.model, 16, seed=seed) for seed in range(2)]
    for batch in batches:  # the label is what channel 3 says
        inputs = {"pixel_values": batch["pixel_values"]}
        channel = source(inputs, hidden_states=[block]).hidden_states[block][:, 3].mean((1, 2))
        batch["labels"] = (channel > channel.median()).long()
    (rises,) = loss_increases(source, [block], batches, rows=100, device=CPU)
    assert rises.argmax() == 3


def test_unlabelled_rows_are_left_out():
    source = Source(tiny_bert())
    batch = batch_for(source.model, 8)
    half = {name: value[:4] for name, value in batch.items()}
    masked = {**batch, "labels": torch.cat([batch["labels"][:4], torch.full((4,), -100)])}
    found = [loss_increases(source, source.anatomy.blocks[:1], [b], rows=9, device=CPU)[0] for b in (half, masked)]
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-6)
    with pytest.raises(ValueError, match="no labelled row.*cannot be measured.*attention=False"):
        loss_increases(
            source,
            source.anatomy.blocks[:1],
            [{**batch, "labels": masked["labels"][4:].repeat(2)}],
            rows=9,
            device=CPU,
        )


def test_rows_are_spread_over_the_classes():
    source = Source(tiny_bert())
    batches = []
    for number in range(10):  # sorted by class, as folders of images are
        batch = batch_for(source.model, 6, seed=number)
        batches.append({**batch, "labels": torch.full((6,), number // 4)})
    chosen = list(_spread(source.model, batches, 10, CPU))
    labels = torch.cat([labels for _, labels in chosen])
    assert len(labels) == 10 and torch.bincount(labels).tolist() == [4, 4, 2]
    assert all(len(inputs["input_ids"]) == len(labels) for inputs, labels in chosen)
    assert set(chosen[0][0]) == {"input_ids", "attention_mask"}
    everything = list(_spread(source.model, batches, 1000, CPU))
    assert torch.equal(everything[3][0]["input_ids"], batches[3]["input_ids"])


@pytest.mark.parametrize("classes", [2, 3])
def test_target_head_is_a_logistic_regression(classes):
    features, labels = torch.randn(40, 6), torch.arange(40) % classes * 2  # not all class numbers occur
    head = TargetHead(features, labels)
    scaled = (features - features.mean(0)) / features.std(0, correction=0)
    model = LogisticRegression(max_iter=300).fit(scaled.double().numpy(), labels.numpy())
    expected = -torch.as_tensor(model.predict_proba(scaled.double().numpy())).log()[range(40), labels // 2]
    torch.testing.assert_close(head.losses(features, labels).double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(30,), (30, 4)])
def test_target_head_of_numbers_is_a_ridge_regression(shape):
    features, labels = torch.randn(30, 5), torch.randn(shape)
    head = TargetHead(features, labels)
    scaled = ((features - features.mean(0)) / features.std(0, correction=0)).double().numpy()
    predicted = torch.as_tensor(Ridge().fit(scaled, labels.numpy()).predict(scaled)).reshape(30, -1)
    expected = F.mse_loss(predicted, labels.double().reshape(30, -1), reduction="none").mean(1)
    torch.testing.assert_close(head.losses(features, labels).double(), expected, rtol=1e-4, atol=1e-5)


def test_one_class_has_no_loss_to_rise():
    features = torch.randn(5, 3)
    assert not TargetHead(features, torch.ones(5, dtype=torch.long)).losses(features, torch.ones(5).long()).any()


def test_constant_features_do_no_harm():
    features = torch.cat([torch.randn(8, 1), torch.ones(8, 1)], 1)
    assert TargetHead(features, torch.arange(8) % 2).losses(features, torch.arange(8) % 2).isfinite().all()


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(ImportError, match="with scikit-learn.*not installed.*attention=False"):
        TargetHead(torch.randn(4, 2), torch.arange(4) % 2)
