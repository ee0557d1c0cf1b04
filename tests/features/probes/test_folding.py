"""The folded model is the probe: for every kind of head, saved and opened again, or left as it was."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from transformers.pytorch_utils import Conv1D

from hf_transfer.anatomy import anatomy
from hf_transfer.features import fit_probe, head_features
from hf_transfer.features.probes import folding
from tests.models import (
    TINY,
    batch_for,
    lora,
    tiny_bert,
    tiny_gpt2,
    tiny_llama,
    tiny_resnet,
    tiny_token_bert,
    tiny_vit,
)


def batch_of(model, rows=24):
    batch = batch_for(model, rows)
    batch.pop("domain")
    return batch


def logits_of(model, batch):
    """Of labelled rows, in evaluation mode."""
    with torch.no_grad():
        logits = model.eval()(**{key: value for key, value in batch.items() if key != "labels"}).logits
    return logits.reshape(-1, logits.shape[-1]).double().numpy()


def probe_of(model, batch, **options):
    """Of the input of the model's head."""
    torch.manual_seed(0)
    features, labels = head_features(model, [batch])
    bias = getattr(model.get_submodule(anatomy(model).head), "bias", None)
    given = {"kind": "ridge", "strengths": [0.1], "intercept": bias is not None, **options}
    return features, fit_probe(features, labels, **given)


@pytest.mark.parametrize("kind", TINY)
def test_every_model_answers_as_the_probe(kind):
    torch.manual_seed(0)
    model = TINY[kind]()
    batch = batch_of(model)
    features, probe = probe_of(model, batch)
    assert probe.fold_into(model) is model
    expected = probe.logits(features)
    np.testing.assert_allclose(logits_of(model, batch), expected, atol=1e-4 * np.abs(expected).max())


OPENED = {
    "image": (tiny_vit, AutoModelForImageClassification, {}),
    "convolutional image": (tiny_resnet, AutoModelForImageClassification, {}),
    "text": (tiny_bert, AutoModelForSequenceClassification, {}),
    "decoder": (tiny_llama, AutoModelForSequenceClassification, {}),
    "token": (tiny_token_bert, AutoModelForTokenClassification, {"task": "token"}),
    "regression": (tiny_bert, AutoModelForSequenceClassification, {"task": "regression"}),
    "several labels": (tiny_gpt2, AutoModelForSequenceClassification, {"task": "multi_label"}),
}


@pytest.mark.parametrize("name", OPENED)
def test_the_saved_model_is_an_ordinary_one(name, tmp_path):
    torch.manual_seed(0)
    make, auto, options = OPENED[name]
    model = make()
    batch = batch_of(model)
    if name in ("regression", "several labels"):
        batch["labels"] = torch.randn(24, 3) if options["task"] == "regression" else torch.randint(0, 2, (24, 3))
    kind = "ridge" if name == "regression" else "logistic"
    names = None if name == "regression" else ["c", "a", "b"]
    features, probe = probe_of(model, batch, kind=kind, label_names=names, **options)
    probe.fold_into(model).save_pretrained(tmp_path)
    opened = auto.from_pretrained(tmp_path)
    expected = probe.logits(features)
    np.testing.assert_allclose(logits_of(opened, batch), expected, atol=1e-4 * max(1, np.abs(expected).max()))
    problems = {"several labels": "multi_label_classification", "regression": "regression", "token": None}
    assert opened.config.problem_type == problems.get(name, "single_label_classification")
    assert opened.config.id2label[0] == ("LABEL_0" if names is None else "c")


@pytest.mark.parametrize("classes", [2, 3])
def test_probabilities_are_those_of_scikit_learn(classes):
    torch.manual_seed(0)
    model = tiny_bert(num_labels=classes)
    batch = batch_of(model)
    batch["labels"] %= classes
    features, probe = probe_of(model, batch, kind="logistic")
    inputs = (features.double().numpy() - probe.mean) / probe.scale
    expected = LogisticRegression(C=0.1, tol=1e-8, max_iter=5000).fit(inputs, batch["labels"]).predict_proba(inputs)
    found = torch.from_numpy(logits_of(probe.fold_into(model), batch)).softmax(-1)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["logistic", "ridge", "nearest_class_mean"])
def test_every_linear_kind(kind):
    torch.manual_seed(0)
    model = tiny_bert()
    batch = batch_of(model)
    features, labels = head_features(model, [batch])
    probe = fit_probe(features, labels, kind=kind)
    np.testing.assert_allclose(logits_of(probe.fold_into(model), batch), probe.logits(features), atol=1e-3)


@pytest.mark.parametrize("kind", ["knn", "mlp"])
def test_kinds_that_cannot_be_a_head(kind):
    model = tiny_bert()
    batch = batch_of(model)
    features, labels = head_features(model, [batch])
    with pytest.raises(ValueError, match=f"`{kind}` is not linear.*Fit a probe of the kind logistic, ridge"):
        fit_probe(features, labels, kind=kind).fold_into(model)


class Head(nn.Module):
    """A model of a block and a head of any type."""

    def __init__(self, head):
        super().__init__()
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))])
        self.head = head


@pytest.mark.parametrize(
    "head",
    [
        nn.Linear(4, 3),
        nn.Linear(4, 3).double(),
        nn.Conv2d(4, 3, 1),
        nn.Conv1d(4, 3, 1),
        Conv1D(3, 4),
    ],
    ids=["linear", "double", "conv2d", "conv1d", "transposed"],
)
def test_types_of_heads(head):
    features = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    probe = fit_probe(features, np.arange(20) % 3, kind="ridge")
    probe.fold_into(Head(head), head="head")
    inputs = torch.from_numpy(features).to(head.weight.dtype)
    if isinstance(head, (nn.Conv1d, nn.Conv2d)):
        inputs = inputs.reshape(20, 4, *[1] * (head.weight.dim() - 2))
    np.testing.assert_allclose(head(inputs).flatten(1).detach(), probe.logits(features), atol=1e-5)


@pytest.mark.parametrize("head", [nn.Conv2d(4, 3, 3), nn.Sequential(nn.Linear(4, 3))], ids=["3x3", "sequence"])
def test_types_of_heads_that_are_no_linear_layer(head):
    probe = fit_probe(np.eye(4), [0, 1, 2, 0], kind="ridge")
    with pytest.raises(ValueError, match="no linear layer or 1x1 convolution.*cannot take its place.*`head=`"):
        probe.fold_into(Head(head), head="head")


def test_classes_are_put_in_the_order_of_the_model():
    torch.manual_seed(0)
    labels = {"id2label": {0: "b", 1: "c", 2: "a"}, "label2id": {"b": 0, "c": 1, "a": 2}}
    model = tiny_bert(**labels)
    batch = batch_of(model)
    features, probe = probe_of(model, batch, label_names=["a", "b", "c"])
    np.testing.assert_allclose(
        logits_of(probe.fold_into(model), batch), probe.logits(features)[:, [1, 2, 0]], atol=1e-4
    )
    assert model.config.id2label == labels["id2label"]


def test_rows_of_the_head_without_a_class_are_never_the_answer():
    torch.manual_seed(0)
    model = tiny_bert(num_labels=5)
    batch = batch_of(model)
    for kind in ("logistic", "ridge", "nearest_class_mean"):
        features, labels = head_features(model, [batch])
        fit_probe(features, labels, kind=kind).fold_into(model)
        assert not model.classifier.weight[3:].any()
        assert model.classifier(100 * torch.randn(500, 16)).argmax(-1).max() < 3


def test_under_peft_the_active_copy_is_written(tmp_path):
    from peft import LoraConfig, PeftModel

    torch.manual_seed(0)
    base = tiny_bert()
    model = lora(copy.deepcopy(base), ["query"], "classifier")
    model.add_adapter("second", LoraConfig(r=2, target_modules=["query"], modules_to_save=["classifier"]))
    model.set_adapter("second")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = batch_of(model)
    features, probe = probe_of(model, batch)
    probe.fold_into(model)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"base_model.model.classifier.modules_to_save.second.{name}" for name in ("weight", "bias")}
    expected = probe.logits(features)
    np.testing.assert_allclose(logits_of(model, batch), expected, atol=1e-4)
    model.save_pretrained(tmp_path, selected_adapters=["second"])
    opened = PeftModel.from_pretrained(base, tmp_path / "second")
    np.testing.assert_allclose(logits_of(opened, batch), expected, atol=1e-4)
    assert model.get_base_model().config.problem_type == "single_label_classification"


@pytest.mark.parametrize("targets", [["query"], ["query", "classifier"]], ids=["frozen", "adapted"])
def test_under_peft_another_head_would_be_lost(targets):
    model = lora(tiny_bert(), targets)
    probe = fit_probe(np.random.default_rng(0).standard_normal((12, 16)), np.arange(12) % 3, kind="ridge")
    with pytest.raises(ValueError, match="not in `modules_to_save`.*leave the probe out.*merge_and_unload"):
        probe.fold_into(model)
    probe.fold_into(model.merge_and_unload())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_told(dtype, monkeypatch):
    told = []
    monkeypatch.setattr(folding.logger, "warning", told.append)
    torch.manual_seed(0)
    model = tiny_bert()
    features, probe = probe_of(model, batch_of(model))
    probe.fold_into(model.to(dtype))
    assert str(dtype)[6:] in told[0] and "float32 for 1e-4" in told[0]
    found = model.classifier(features.to(dtype)).double().detach()
    np.testing.assert_allclose(found, probe.logits(features), atol=0.05)


def random_probe(**options):
    generator = np.random.default_rng(0)
    options = {"kind": "ridge", **options}
    return fit_probe(generator.standard_normal((20, 16)), np.arange(20) % 3, **options)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}, model.config.to_dict()


def test_a_head_that_answers_otherwise_is_put_back(monkeypatch):
    model = tiny_bert()
    tensors, config = state(model)
    monkeypatch.setattr(folding, "head_logits", lambda layer, inputs: layer(inputs) + 1e-2)
    with pytest.raises(RuntimeError, match="differ by 0.01 from the probe's.*old weights were put back.*float32"):
        random_probe(label_names=["a", "b", "c"]).fold_into(model)
    assert all(torch.equal(value, tensors[name]) for name, value in model.state_dict().items())
    assert model.config.to_dict() == config
    random_probe().fold_into(model, check=False)
    assert not torch.equal(model.classifier.weight, tensors["classifier.weight"])


def test_the_check_sees_a_loss_of_precision():
    """Values of 1e6 around a spread of 30 are no longer told apart by weights in float32."""
    features = 1e6 + 30 * np.random.default_rng(0).standard_normal((60, 16))
    probe = fit_probe(features, np.arange(60) % 3, kind="ridge", strengths=[1e4])
    with pytest.raises(RuntimeError, match="put back.*standardize=True"):
        probe.fold_into(tiny_bert())


def test_other_rows_to_check_on(monkeypatch):
    seen = []
    original = folding.head_logits

    def kept(layer, inputs):
        seen.append(inputs)
        return original(layer, inputs)

    monkeypatch.setattr(folding, "head_logits", kept)
    rows = np.ones((2, 16))
    random_probe().fold_into(tiny_bert(), features=rows)
    random_probe().fold_into(tiny_bert())
    assert len(seen[0]) == 2 and len(seen[1]) == 20


REFUSED = {
    "column": ({"column": "block.1"}, {}, "column `block.1`.*reads another layer.*column `features`"),
    "width": ({}, {"hidden_size": 8}, "width 8, the probe has 16.*another model.*Extract"),
    "outputs": ({}, {"num_labels": 2}, "has 2 outputs, the probe 3"),
    "problem": ({}, {"problem_type": "regression"}, "`problem_type` is regression"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_and_nothing_changes(name):
    options, config, message = REFUSED[name]
    model = tiny_bert(**config)
    tensors, before = state(model)
    with pytest.raises(ValueError, match=message):
        random_probe(**options).fold_into(model)
    assert all(torch.equal(value, tensors[name]) for name, value in model.state_dict().items())
    assert model.config.to_dict() == before


def test_a_head_without_bias():
    with pytest.raises(ValueError, match=r"has no bias.*constant term.*`fit_probe\(..., intercept=False\)`"):
        random_probe().fold_into(tiny_llama())
    random_probe(intercept=False).fold_into(tiny_llama())


def test_two_heads():
    model = tiny_bert()
    model.second = nn.Linear(16, 3)
    with pytest.raises(ValueError, match="made by more than one layer.*one of them alone is not the probe"):
        random_probe().fold_into(model, head="classifier")


def test_a_compiled_or_wrapped_model():
    with pytest.raises(TypeError, match="wrapped in.*folding a probe"):
        random_probe().fold_into(nn.DataParallel(tiny_bert()))
