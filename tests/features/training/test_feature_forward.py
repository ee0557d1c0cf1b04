"""The head alone, as the model's own forward would answer."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import pickletools

import pytest
import torch
from accelerate.utils import extract_model_from_parallel
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import (
    ImageClassifierOutputWithNoAttention,
    SequenceClassifierOutput,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)

from hf_transfer.anatomy import anatomy
from hf_transfer.attach import attach
from hf_transfer.features import head_features
from hf_transfer.features.training.feature_forward import FeatureForward, output_class
from hf_transfer.objectives import FocalLoss, SupervisedContrastive
from hf_transfer.tap import HeadTap
from tests.models import TINY, batch_for, lora, tiny_bert, tiny_resnet, tiny_token_bert, tiny_vit


def inputs_of(model, rows=4):
    batch = batch_for(model, rows)
    batch.pop("domain")
    return batch


def put_on(model):
    return FeatureForward(model, anatomy(model).head).put_on()


def tapped(model, batch):
    """The features of one forward, as objectives see them."""
    tap = HeadTap(model, anatomy(model).head)
    tap.open = True
    with torch.no_grad():
        features = tap.take(model(**batch).logits, batch)
    tap.remove()
    return features


@pytest.mark.parametrize("kind", TINY)
def test_features_give_the_output_of_the_whole_model(kind):
    model = TINY[kind]().eval()
    batch = inputs_of(model)
    features = tapped(model, batch)
    expected = model(**batch)
    put_on(model)
    output = model(features=features, labels=batch["labels"])
    assert type(output) is type(expected)
    torch.testing.assert_close(output.logits, expected.logits)
    torch.testing.assert_close(output.loss, expected.loss)
    assert set(output) == {"loss", "logits"}
    as_tuple = model(features=features, labels=batch["labels"], return_dict=False)
    assert torch.equal(as_tuple[0], output.loss) and torch.equal(as_tuple[1], output.logits)
    assert model(features=features).loss is None


@pytest.mark.parametrize("kind", TINY)
def test_every_other_call_is_the_models_own_bit_for_bit(kind):
    model = TINY[kind]().eval()
    batch = inputs_of(model)
    expected = model(**batch)
    forward = put_on(model)
    for output in (model(**batch), model(**batch, features=None)):
        assert torch.equal(output.logits, expected.logits) and torch.equal(output.loss, expected.loss)
    forward.take_off()
    assert "forward" not in vars(model)
    forward.take_off()


def test_the_class_of_the_outputs_is_read_off_the_model():
    kinds = {"bert": SequenceClassifierOutput, "token_bert": TokenClassifierOutput, "resnet": None}
    kinds["resnet"] = ImageClassifierOutputWithNoAttention
    kinds["gpt2"] = SequenceClassifierOutputWithPast
    assert {kind: output_class(TINY[kind]()) for kind in kinds} == kinds
    assert output_class(lora(tiny_token_bert(), ["query"], "classifier")) is TokenClassifierOutput

    class Undeclared(nn.Linear):
        def forward(self, input: Missing):  # noqa: F821
            return input

    assert output_class(Undeclared(2, 2)) is SequenceClassifierOutput


# --- heads


def test_the_adapted_copy_of_a_head_is_used():
    model = lora(tiny_bert(), ["query"], "classifier").eval()
    with torch.no_grad():
        model.base_model.model.classifier.modules_to_save["default"].bias.fill_(7.0)
    put_on(model)
    logits = model(features=torch.zeros(2, 16)).logits
    assert torch.equal(logits, torch.full((2, 3), 7.0))


# --- losses, written out


def test_regression():
    model = tiny_bert(num_labels=1)
    put_on(model)
    features, labels = torch.randn(5, 16), torch.randn(5)
    output = model(features=features, labels=labels)
    torch.testing.assert_close(output.loss, ((output.logits[:, 0] - labels) ** 2).mean())
    assert model.config.problem_type == "regression"


def test_several_outputs_of_a_regression():
    model = tiny_bert(problem_type="regression")
    put_on(model)
    labels = torch.randn(5, 3)
    output = model(features=torch.randn(5, 16), labels=labels)
    torch.testing.assert_close(output.loss, ((output.logits - labels) ** 2).mean())


@pytest.mark.parametrize("problem", [None, "multi_label_classification"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.long])
def test_several_labels_a_row(problem, dtype):
    model = tiny_bert(problem_type=problem)
    put_on(model)
    labels = torch.randint(0, 2, (5, 3)).to(dtype)
    output = model(features=torch.randn(5, 16), labels=labels)
    expected = -(labels * F.logsigmoid(output.logits) + (1 - labels) * F.logsigmoid(-output.logits)).mean()
    torch.testing.assert_close(output.loss, expected)


def test_tokens_without_a_label_do_not_count():
    model = tiny_token_bert()
    put_on(model)
    labels = torch.tensor([[0, 1, -100], [2, -100, -100]])
    output = model(features=torch.randn(2, 3, 16), labels=labels)
    terms = [-output.logits.log_softmax(-1)[place][labels[place]] for place in ((0, 0), (0, 1), (1, 0))]
    torch.testing.assert_close(output.loss, sum(terms) / 3)


# --- with what else acts on a model


def test_objectives_see_the_same_features():
    model = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    batch = inputs_of(model)
    features = tapped(model.eval(), batch)
    model.train()
    attachment = attach(model, [FocalLoss(gamma=2.0), SupervisedContrastive(weight=0.5)])
    whole = model(**batch).loss
    terms = dict(attachment.terms)
    put_on(model)
    alone = model(features=features, labels=batch["labels"]).loss
    torch.testing.assert_close(alone, whole)
    assert terms.keys() == attachment.terms.keys() == {"task", "supervised_contrastive"}
    for name in terms:
        torch.testing.assert_close(attachment.terms[name], terms[name])


def test_only_the_head_gets_a_gradient():
    model = tiny_vit()
    put_on(model)
    model(features=torch.randn(2, 16), labels=torch.tensor([0, 1])).loss.backward()
    moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert moved == {"classifier.weight", "classifier.bias"}


def test_no_running_statistic_moves():
    model = tiny_resnet().train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    put_on(model)
    model(features=torch.randn(4, 16), labels=torch.tensor([0, 1, 2, 0]))
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_the_signature_names_features_and_everything_else():
    model = tiny_bert()
    before = list(inspect.signature(model.forward).parameters)
    put_on(model)
    names = list(inspect.signature(model.forward).parameters)
    assert set(names) == {*before, "features"} and "labels" in names


# --- put on, off, copied, saved


def test_a_second_one_takes_the_place_of_the_first():
    model = tiny_bert()
    first = put_on(model)
    second = put_on(model)
    assert vars(model)["forward"] is second and second.put_on() is second
    first.take_off()  # does not undo the second
    assert model(features=torch.zeros(1, 16)).logits.shape == (1, 3)
    second.take_off()
    assert "forward" not in vars(model)
    with pytest.raises((TypeError, ValueError), match="features|input_ids"):
        model(features=torch.zeros(1, 16))


def test_a_forward_that_was_replaced_before_comes_back():
    model = tiny_bert()
    own = model.forward
    model.forward = replaced = lambda *args, **kwargs: own(*args, **kwargs)
    forward = put_on(model)
    assert model(**inputs_of(model)).logits.shape == (4, 3)
    forward.take_off()
    assert vars(model)["forward"] is replaced


def test_a_deep_copy_runs_its_own_head():
    model = tiny_bert()
    put_on(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.classifier.weight.zero_()
        twin.classifier.bias.fill_(2.0)
    assert torch.equal(twin(features=torch.randn(2, 16)).logits, torch.full((2, 3), 2.0))
    assert vars(twin)["forward"].model is twin
    assert not torch.equal(model(features=torch.randn(2, 16)).logits, torch.full((2, 3), 2.0))
    batch = inputs_of(model)
    assert torch.equal(twin(**batch).logits, torch.full((4, 3), 2.0))


def test_a_pickled_model_is_an_ordinary_one():
    model = tiny_bert().eval()
    batch = inputs_of(model)
    expected = model(**batch).logits
    put_on(model)
    stored = pickle.dumps(model)
    strings = {str(argument) for _, argument, _ in pickletools.genops(io.BytesIO(stored))}
    assert not [text for text in strings if "hf_transfer" in text]
    loaded = pickle.loads(stored)
    assert torch.equal(loaded(**batch).logits, expected)
    with pytest.raises((TypeError, ValueError), match="features|input_ids"):
        loaded(features=torch.zeros(1, 16))


def test_saving_the_model_leaves_no_trace(tmp_path):
    model = tiny_bert().eval()
    keys = model.state_dict().keys()
    put_on(model)
    assert model.state_dict().keys() == keys
    model.save_pretrained(tmp_path)
    loaded, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    batch = inputs_of(model)
    assert torch.equal(loaded.eval()(**batch).logits, model(**batch).logits)


def test_accelerate_may_bind_it_again():
    model = tiny_bert().eval()
    put_on(model)
    features = torch.randn(2, 16)
    expected = model(features=features).logits
    model._original_forward = model.forward
    unwrapped = extract_model_from_parallel(model, keep_fp32_wrapper=False)
    assert torch.equal(unwrapped(features=features).logits, expected)


def test_head_of_the_extracted_features(monkeypatch):
    """The features that `head_features` collects are those the forward takes."""
    model = tiny_resnet().eval()
    batch = inputs_of(model)
    features, _ = head_features(model, [batch])
    expected = model(**batch).logits
    put_on(model)
    torch.testing.assert_close(model(features=features).logits, expected)
