from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn

from hf_transfer import DomainAdversarial, attach, validate_without_labels
from hf_transfer.functional import model_selection as formulas
from hf_transfer.validators.validation import Validation
from tests.models import TINY, batch_for, lora, tiny_bert, tiny_vit
from tests.validators.rows import rows_of


NAMES = ["iwv", "dev", "entropy", "information_maximization", "snd", "reverse", "mixval"]
ORACLE = ["oracle_accuracy", "oracle_macro_f1"]


def validate(model, *, labels=True, **options):
    return validate_without_labels(
        model,
        rows_of(model, 16, seed=1),
        rows_of(model, 20, seed=2, labels=labels),
        **{"train_source": rows_of(model, 24, seed=3), **options},
    )


@pytest.mark.parametrize("name", TINY)
def test_every_kind_of_classifier_gets_every_score(name):
    model = TINY[name]()
    found = validate(model, oracle=rows_of(model, 8, seed=4))
    assert list(found) == NAMES + ORACLE
    assert all(isinstance(value, float) and math.isfinite(value) for value in found.values())


@torch.no_grad()
def test_scores_are_the_formulas_of_what_the_model_says():
    model = tiny_bert().eval()
    batch = batch_for(model, 20, seed=2)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.numpy()
    found = validate(model, oracle=rows_of(model, 20, seed=2))
    for name, formula in [
        ("entropy", formulas.negative_entropy),
        ("information_maximization", formulas.information_maximization),
        ("snd", formulas.soft_neighborhood_density),
    ]:
        assert found[name] == pytest.approx(formula(logits), rel=1e-3, abs=1e-6)
    assert found["oracle_accuracy"] == np.mean(logits.argmax(1) == batch["labels"].numpy())


def test_the_oracle_is_there_only_if_given_and_reads_all_of_its_rows():
    model = tiny_bert()
    assert list(validate(model)) == NAMES
    oracle = rows_of(model, 30, seed=5, labels=[0, 1, 2] * 10)
    accuracy = validate(model, oracle=oracle, max_rows=5, validators=["snd"])["oracle_accuracy"]
    assert accuracy == pytest.approx(validate(model, oracle=oracle, validators=["snd"])["oracle_accuracy"])


def test_labels_of_the_target_change_no_bit_of_any_score():
    """Permuted, corrupted, of another type or none at all."""
    model = tiny_bert()
    expected = validate(model)
    for labels in (list(range(20)), [-100] * 20, [None] * 20, ["x"] * 20, [[1.5]] * 20, False):
        assert validate(model, labels=labels) == expected


def test_labels_of_the_source_training_rows_are_not_read():
    model = tiny_bert()
    assert validate(model, train_source=rows_of(model, 24, seed=3, labels=False)) == validate(model)


def test_labels_of_tokens_of_the_target_change_no_bit():
    model = TINY["token_bert"]()
    labels = [[-100] * 6] * 20
    assert validate(model, labels=labels) == validate(model, labels=True)


def test_a_transform_that_smuggles_labels_in_is_no_help():
    """The model's forward takes labels, and the transform makes some from another column."""
    model = tiny_vit()
    pixels = batch_for(model, 20, seed=2)["pixel_values"].tolist()

    def transform(batch):
        return {"pixel_values": [torch.tensor(row) for row in batch["pixels"]], "labels": batch["answer"]}

    found = []
    for answers in ([0] * 20, [1, 2] * 10):
        rows = Dataset.from_dict({"pixels": pixels, "answer": answers}).with_transform(transform)
        found.append(validate_without_labels(model, None, rows))
    assert found[0] == found[1]


def test_scores_are_the_same_again_and_leave_the_model_alone():
    model = tiny_bert().train()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    first = validate(model)
    assert first == validate(model) and model.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_objectives_on_the_model_change_nothing():
    model = tiny_bert()
    bare = validate(model)
    with attach(model, [DomainAdversarial()]):
        assert validate(model.train()) == bare


class Wrapped(nn.parallel.DistributedDataParallel):
    """As DDP to `isinstance`, with no group of processes."""

    def __init__(self, module):
        nn.Module.__init__(self)
        self.module = module


@pytest.mark.parametrize("wrap", [Wrapped, nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_wrapped_models_have_the_scores_of_what_they_wrap(wrap):
    model = lora(tiny_bert(), ["query"], "classifier", init_lora_weights=False)
    target = rows_of(model, 20)
    expected = validate_without_labels(model, None, target)
    assert validate_without_labels(wrap(model), None, target) == expected


def test_raw_text_is_read_with_the_processor():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "good": 2, "bad": 3}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]")
    target = Dataset.from_dict({"text": ["good", "bad bad", "good bad good"], "label": [0, 1, 0]})
    model = tiny_bert()
    found = validate_without_labels(model, target, target, processor=tokenizer, max_length=4)
    ids = Dataset.from_dict({"input_ids": [[2], [3, 3], [2, 3, 2]], "label": [0, 1, 0]})
    assert found == pytest.approx(validate_without_labels(model, ids, ids))


def test_a_collator_may_make_the_batches():
    model = tiny_bert()
    calls = []

    def collate(rows):
        calls.append(len(rows))
        width = max(len(row["input_ids"]) for row in rows)
        padded = {
            name: torch.tensor([list(row[name]) + [0] * (width - len(row[name])) for row in rows])
            for name in ("input_ids", "attention_mask")
        }
        return padded

    target = rows_of(model, 20)
    found = validate_without_labels(model, None, target, data_collator=collate, batch_size=8)
    assert found == pytest.approx(validate_without_labels(model, None, target), rel=1e-5) and sum(calls) == 20


def test_weights_that_are_not_finite_have_no_score():
    model = tiny_bert()
    with torch.no_grad():
        model.classifier.bias[0] = math.nan
    assert all(math.isnan(value) for value in validate(model).values())


def test_a_regression_is_refused():
    model = tiny_bert(num_labels=1)
    with pytest.raises(ValueError, match="The model is a regression"):
        validate_without_labels(model, None, rows_of(model))


def test_missing_data_are_refused_before_any_forward():
    model = tiny_bert()
    model.forward = None
    with pytest.raises(ValueError, match="`dev` was asked for without `train_source`"):
        validate(model, train_source=None, validators=["dev"])
    with pytest.raises(ValueError, match='Did you mean "snd"'):
        validate(model, validators=["sdn"])
    with pytest.raises(ValueError, match="`source` has the columns .* and no `labels`"):
        validate_without_labels(model, rows_of(model, labels=False), rows_of(model))
    with pytest.raises(ValueError, match="`oracle` has the columns .* and no `labels`"):
        validate(model, oracle=rows_of(model, labels=False))
    with pytest.raises(TypeError, match="`target` is a list"):
        validate_without_labels(model, None, [{}])
    with pytest.raises(ValueError, match="batch_size=0"):
        validate(model, batch_size=0)


def test_only_what_is_asked_for_is_read():
    model = tiny_bert()
    rows = rows_of(model)
    options = {"processor": None, "data_collator": None, "max_length": None, "head": None}
    validation = Validation(
        source=rows,
        target=rows,
        train_source=rows,
        oracle=None,
        validators=["snd"],
        batch_size=4,
        max_rows=8,
        seed=0,
        **options,
    )
    calls = []
    hook = model.register_forward_hook(lambda module, args, out: calls.append(len(out.logits)))
    assert list(validation.scores(model)) == ["snd"] == list(validation.names)
    hook.remove()
    assert sum(calls) == 8
