"""TENT: only scales and shifts move, the entropy of the very batch falls, and all is put back."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn
from transformers.utils import logging as transformers_logging

from hf_transfer import DomainAdversarial, adapt_at_test_time, attach
from hf_transfer.adaptation.at_test_time import TestTimeEntropy, norm_parameters
from tests.adaptation.shifted import Tiny, accuracy, cut, flags, images, state, trained
from tests.models import batch_for, lora, tiny_bert, tiny_llama, tiny_resnet, tiny_token_bert, tiny_vit


def entropy(logits: torch.Tensor) -> float:
    p = logits.double().softmax(-1)
    return -(p * p.log()).sum(-1).mean().item()


MODELS = {"bert": tiny_bert, "llama": tiny_llama, "vit": tiny_vit, "resnet": tiny_resnet, "tokens": tiny_token_bert}


@pytest.mark.parametrize("kind", MODELS)
def test_only_scales_and_shifts_move_and_the_entropy_of_the_batch_falls(kind):
    torch.manual_seed(0)
    model = MODELS[kind]().train()
    before, modes = state(model), flags(model)
    batch = batch_for(model, 6)
    batch.pop("domain")
    norms = {id(p) for m in model.modules() if "Norm" in type(m).__name__ for p in m.parameters(recurse=False)}
    with TestTimeEntropy(model, learning_rate=1e-3) as adapting:
        mask = batch["attention_mask"].bool() if kind == "tokens" else slice(None)
        values = [entropy(adapting(**batch).logits[mask]) for _ in range(4)]
    assert values == sorted(values, reverse=True) and values[-1] < values[0]
    for key, value in state(model).items():
        if not torch.equal(value, before[key]):
            assert id(dict(model.named_parameters())[key]) in norms, key
    assert flags(model) == modes and all(p.grad is None for p in model.parameters())


def test_one_step_against_the_formula():
    model, naive, target = trained(), trained(), images(20, seed=4, shifted=True)
    adapt_at_test_time(model, [target], optimizer=lambda found: torch.optim.SGD(found, lr=0.1))
    p = naive.train()(pixel_values=target["pixel_values"])["logits"].softmax(-1)
    (-(p * p.log()).sum(-1).mean()).backward()
    for ours, theirs in ((model.first, naive.first), (model.layers[1].norm, naive.layers[1].norm)):
        torch.testing.assert_close(ours.weight, theirs.weight - 0.1 * theirs.weight.grad, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.bias, theirs.bias - 0.1 * theirs.bias.grad, rtol=1e-4, atol=1e-4)


def test_predictions_are_those_of_batch_statistics_and_help():
    model, target = trained(), images(300, seed=5, shifted=True)
    before = accuracy(model, target)
    found = adapt_at_test_time(model, cut(target, 50))
    after = (found.logits.argmax(-1) == target["labels"]).float().mean().item()
    assert before < 0.75 and after > 0.9 and len(found.entropy) == 6 and not found.collapsed


def test_running_statistics_and_counters_stay():
    model = trained()
    before = {key: value.clone() for key, value in model.named_buffers()}
    momenta = [m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    adapt_at_test_time(model, cut(images(shifted=True), 32))
    assert all(torch.equal(value, before[key]) for key, value in model.named_buffers())
    assert [m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)] == momenta


def test_labels_change_nothing_bit_for_bit():
    target, results = images(40, shifted=True), []
    for labels in (target["labels"], torch.zeros(40, dtype=torch.long), None):
        model = trained()
        batch = {"pixel_values": target["pixel_values"], **({} if labels is None else {"labels": labels})}
        found = adapt_at_test_time(model, [batch, batch])
        results.append({**state(model), "logits": found.logits})
        with TestTimeEntropy(model) as adapting:
            assert adapting(**batch)["loss"] is None
    assert all(torch.equal(results[0][key], other[key]) for other in results[1:] for key in other)


def test_episodes_forget():
    model, batches = trained(), cut(images(60, shifted=True), 20)
    with TestTimeEntropy(model, learning_rate=0.05, steps=2, episodic=True) as adapting:
        first = [adapting(**batch)["logits"] for batch in batches]
        again = [adapting(**batch)["logits"] for batch in reversed(batches)]
    assert all(torch.equal(a, b) for a, b in zip(first, reversed(again), strict=True))
    with TestTimeEntropy(trained(), learning_rate=0.05, steps=2) as adapting:
        online = [adapting(**batch)["logits"] for batch in batches]
    assert torch.equal(online[0], first[0]) and not torch.equal(online[1], first[1])


def test_reset_goes_back_to_the_start():
    model, batch = trained(), images(20, shifted=True)
    before = state(model)
    with TestTimeEntropy(model, learning_rate=0.05) as adapting:
        first = adapting(**batch)["logits"]
        adapting(**batch)
        adapting.reset()
        assert all(torch.equal(value, before[key]) for key, value in state(model).items())
        assert torch.equal(adapting(**batch)["logits"], first)


def test_a_single_row_is_predicted_without_learning(caplog):
    transformers_logging.warning_once.cache_clear()
    model, batch = trained(), images(1)
    expected, before = model(pixel_values=batch["pixel_values"])["logits"], state(model)
    with caplog.at_level(logging.WARNING, logger="hf_transfer"), TestTimeEntropy(model) as adapting:
        assert torch.equal(adapting(**batch)["logits"], expected)
    assert all(torch.equal(value, before[key]) for key, value in state(model).items())
    assert "batch of one row" in caplog.text and "Collect more rows" in caplog.text


def test_inside_no_grad_and_under_lora():
    model = lora(tiny_bert(), ["query"], "classifier").eval()
    batch = batch_for(model)
    batch.pop("domain")
    modes = flags(model)
    with torch.no_grad(), TestTimeEntropy(model) as adapting:
        output = adapting(**batch)
    assert not output.logits.requires_grad and flags(model) == modes


def test_objectives_of_the_model_are_left_alone():
    model = tiny_bert()
    attach(model, [DomainAdversarial(hidden_size=8)])
    own = {id(p) for p in model.transfer_objectives.parameters()}
    assert not own & {id(p) for p in norm_parameters(model)}


def test_a_collapse_is_told(caplog):
    model, target = trained(), images(60)
    with caplog.at_level(logging.WARNING, logger="hf_transfer"):
        adapting = TestTimeEntropy(model)
        adapting(**target)
        with torch.no_grad():
            model.layers[1].norm.weight.zero_()
        adapting(**target)
        assert adapting.close() and not adapting.close()
    assert "TestTimeEntropy has collapsed" in caplog.text and "`reset()`" in caplog.text


def test_refused():
    with pytest.raises(ValueError, match="TestTimeEntropy on a model with a regression"):
        adapt_at_test_time(tiny_bert(num_labels=1), [batch_for(tiny_bert())])
    with pytest.raises(ValueError, match="`steps=0`.*at least one"):
        TestTimeEntropy(trained(), steps=0)
    bare = Tiny()
    bare.first = nn.Identity()
    for block in bare.layers:
        block.norm = nn.BatchNorm2d(8, affine=False)
    with pytest.raises(ValueError, match="no normalisation layer with a scale or shift.*`adapt_source_free`"):
        TestTimeEntropy(bare)
    adapting = TestTimeEntropy(trained())
    adapting.close()
    with pytest.raises(RuntimeError, match="is closed.*Make another"):
        adapting(**images(4))
