from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_transfer import anatomy
from hf_transfer.functional.model_selection import INTERPOLATION
from hf_transfer.modes import undisturbed
from hf_transfer.series_models import named_output
from hf_transfer.validators.reading import Reader
from tests.models import TINY, batch_for, lora, tiny_bert, tiny_resnet, tiny_token_bert, tiny_vit
from tests.test_series_models import CLASSIFIERS, rows_for
from tests.validators.rows import rows_of


def read(model, dataset, **options):
    reading = {name: options.pop(name) for name in ("labelled", "everything", "mix") if name in options}
    with undisturbed(model), Reader(model, **options) as reader:
        return reader.read(dataset, **reading)


@torch.no_grad()
def seen_by_head(model, batch):
    """Input and output of the head of each row by itself, and the logits."""
    kept = []
    hook = model.get_submodule(anatomy(model).head).register_forward_hook(lambda _, given, out: kept.append(given[0]))
    model.eval()
    logits = []
    for row in range(len(batch["labels"])):
        inputs = {name: value[row : row + 1] for name, value in batch.items() if name not in ("domain", "labels")}
        if "attention_mask" in inputs:
            real = int(inputs["attention_mask"].sum())
            inputs = {name: value[:, :real] for name, value in inputs.items()}
        logits.append(model(**inputs).logits[0])
    hook.remove()
    return [part[0] for part in kept], logits


@pytest.mark.parametrize("name", TINY)
def test_features_and_logits_are_those_of_each_row_alone(name):
    model = TINY[name]()
    rows = 7
    batch = batch_for(model, rows)
    entered, logits = seen_by_head(model, batch)
    found = read(model.train(), rows_of(model, rows), batch_size=3)
    order = np.random.default_rng(0).permutation(rows)
    close = {"rtol": 1e-3, "atol": 1e-4}
    if logits[0].dim() == 1:
        np.testing.assert_allclose(found.logits, torch.stack(logits).numpy()[order], **close)
    else:
        np.testing.assert_allclose(found.logits, np.concatenate([logits[row].numpy() for row in order]), **close)
    # decoders pool behind the head, at the last token
    own = [row[-1] if row.dim() > logits[0].dim() else row for row in entered]
    own = [own[row].numpy().reshape(-1, own[row].shape[-1]) for row in order]
    np.testing.assert_allclose(found.features, np.concatenate(own), **close)
    assert found.labels is None and found.features.dtype == found.logits.dtype == np.float32


def test_models_under_peft_are_read_through_their_adapters():
    model = lora(tiny_bert(), ["query"], "classifier", init_lora_weights=False)
    batch = batch_for(model, 5)
    _, logits = seen_by_head(model, batch)
    found = read(model, rows_of(model, 5))
    order = np.random.default_rng(0).permutation(5)
    np.testing.assert_allclose(found.logits, torch.stack(logits).numpy()[order], rtol=1e-4, atol=1e-5)


def test_labels_stay_with_their_rows():
    model = tiny_bert()
    found, plain = read(model, rows_of(model, 9), labelled=True), read(model, rows_of(model, 9))
    np.testing.assert_array_equal(found.logits, plain.logits)  # whose order the test above knows
    order = np.random.default_rng(0).permutation(9)
    assert found.labels.tolist() == batch_for(model, 9)["labels"].numpy()[order].tolist()


def test_rows_without_a_label_are_left_out():
    model = tiny_bert()
    found = read(model, rows_of(model, 5, labels=[2, -100, 1, None, 0]), labelled=True)
    assert sorted(found.labels.tolist()) == [0, 1, 2] and len(found.features) == len(found.logits) == 3
    with pytest.raises(ValueError, match="None of the rows that were read has a label.*raise `max_rows`"):
        read(model, rows_of(model, 3, labels=[-100] * 3), labelled=True)


def test_tokens_are_rows_and_padding_is_none():
    model = tiny_token_bert()
    batch = batch_for(model, 6)
    labels = batch["labels"].tolist()
    labels[0][2] = -100
    found = read(model, rows_of(model, 6, labels=labels), labelled=True)
    real = [row[:4] if number % 2 else row for number, row in enumerate(labels)]
    order = np.random.default_rng(0).permutation(6)
    wanted = [label for number in order for label in real[number] if label != -100]
    assert found.labels.tolist() == wanted and len(found.features) == len(wanted) == 29
    unlabelled = read(model, rows_of(model, 6, labels=False))
    assert len(unlabelled.logits) == 30 and unlabelled.labels is None


def test_labels_that_do_not_fit_the_tokens_are_refused():
    model = tiny_token_bert()
    with pytest.raises(ValueError, match="labels of the rows do not fit their tokens.*as long as `input_ids`"):
        read(model, rows_of(model, 3, labels=[0, 1, 2]), labelled=True)


def test_no_more_rows_are_read_than_wanted():
    model = tiny_bert()
    rows = rows_of(model, 20)
    few, all_of_them = read(model, rows, max_rows=6), read(model, rows, max_rows=6, everything=True)
    assert len(few.logits) == 6 and len(all_of_them.logits) == 20
    np.testing.assert_allclose(few.logits, all_of_them.logits[:6], rtol=1e-5, atol=1e-6)
    other = read(model, rows, max_rows=6, seed=1)
    assert not np.allclose(few.logits, other.logits)
    tokens = tiny_token_bert()
    found = read(tokens, rows_of(tokens, 20), max_rows=6, labelled=True)
    assert len(found.logits) == len(found.features) == len(found.labels) == 6


def test_a_reading_leaves_modes_generators_gradients_and_hooks():
    model = tiny_resnet().train()
    model.resnet.encoder.eval()
    modes = [module.training for module in model.modules()]
    hooks = [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()]
    buffers = {name: value.clone() for name, value in model.state_dict().items()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    read(model, rows_of(model), mix=True)
    assert modes == [module.training for module in model.modules()]
    assert hooks == [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()]
    assert all(torch.equal(value, buffers[name]) for name, value in model.state_dict().items())
    assert torch.equal(states[0], torch.get_rng_state()) and states[1] == random.getstate()
    assert states[2] == np.random.get_state()[1].tolist()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_everything_is_restored_after_an_error():
    model = tiny_bert().train()
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="stop"), undisturbed(model):
        torch.rand(1), random.random(), np.random.rand()
        assert not model.training and not torch.is_grad_enabled()
        raise RuntimeError("stop")
    assert model.training and torch.equal(state, torch.get_rng_state()) and torch.is_grad_enabled()


def test_a_model_that_was_read_still_trains():
    model = tiny_bert()
    read(model, rows_of(model))
    batch = {name: value for name, value in batch_for(model).items() if name != "domain"}
    model.train()(**batch).loss.backward()
    assert model.classifier.weight.grad.abs().sum() > 0


def test_only_images_are_mixed_as_inputs():
    text, images = tiny_bert(), tiny_vit()
    assert read(text, rows_of(text), mix=True).mixed_agreement is None
    assert read(images, rows_of(images)).mixed_agreement is None
    assert 0 <= read(images, rows_of(images), mix=True).mixed_agreement <= 1


@torch.no_grad()
def test_mixed_images_are_what_the_model_is_asked():
    """Two images: one mixture of the same class or two of different ones, worked out here."""
    model = tiny_vit().eval()
    with torch.no_grad():
        model.classifier.weight.mul_(50)
    pixels = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    classes = model(pixel_values=pixels).logits.argmax(-1)
    mixed = INTERPOLATION * pixels + (1 - INTERPOLATION) * pixels.flip(0)
    agreed = (model(pixel_values=mixed).logits.argmax(-1) == classes).float().mean().item()
    found = read(model, Dataset.from_dict({"pixel_values": pixels.tolist()}), mix=True)
    assert found.mixed_agreement == pytest.approx(agreed / 2)


@pytest.mark.parametrize("make", CLASSIFIERS)
def test_a_classifier_of_series(make):
    """What it returns has another name than `logits`."""
    model = make().eval()
    batch = rows_for(model, rows=6)
    values, order = batch["past_values"], np.random.default_rng(0).permutation(6)
    rows = Dataset.from_dict({"past_values": values.tolist(), "labels": batch["target_values"].tolist()})
    found = read(model, rows, batch_size=4, labelled=True)
    with torch.no_grad():
        output = model(past_values=values)
    np.testing.assert_allclose(found.logits, output[named_output(output)].numpy()[order], atol=1e-5)
    assert found.labels is not None and found.labels.tolist() == (order % 3).tolist()
