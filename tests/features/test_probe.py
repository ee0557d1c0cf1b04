"""The probe against scikit-learn on the same features, and the model it leaves."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from hf_transfer.anatomy import anatomy
from hf_transfer.features import fit_head, head_features
from hf_transfer.series_models import named_output
from tests.models import TINY, batch_for, lora, tiny_bert, tiny_llama, tiny_resnet, tiny_token_bert, tiny_vit
from tests.test_series_models import CLASSIFIERS, rows_for


def batches_of(model, count=3, rows=8):
    found = [batch_for(model, rows, seed=seed) for seed in range(count)]
    for batch in found:
        batch.pop("domain")
    return found


@pytest.mark.parametrize("kind", TINY)
def test_head_of_the_features_is_the_logits(kind):
    torch.manual_seed(0)
    model = TINY[kind]()
    batches = batches_of(model)
    features, labels = head_features(model, batches)
    head = model.get_submodule(anatomy(model).head)
    model.eval()
    logits = torch.cat([model(**{k: v for k, v in batch.items() if k != "labels"}).logits for batch in batches])
    torch.testing.assert_close(head(features), logits.reshape(-1, logits.shape[-1]))
    assert torch.equal(labels, torch.cat([batch["labels"] for batch in batches]).reshape(-1))


@pytest.mark.parametrize("make", [tiny_bert, tiny_vit, tiny_resnet], ids=["bert", "vit", "resnet"])
def test_the_models_logits_are_those_of_scikit_learn(make):
    torch.manual_seed(0)
    model = make()
    batches = batches_of(model)
    features, labels = head_features(model, batches)
    fit_head(model, batches, strengths=[0.5])
    scaler = StandardScaler().fit(features.double().numpy())
    inputs = scaler.transform(features.double().numpy())
    expected = LogisticRegression(C=0.5, max_iter=5000, tol=1e-8).fit(inputs, labels.numpy())
    model.eval()
    logits = torch.cat([model(**batch).logits for batch in batches])
    probabilities = logits.double().softmax(-1).detach().numpy()
    np.testing.assert_allclose(probabilities, expected.predict_proba(inputs), atol=2e-3)


def test_two_classes():
    torch.manual_seed(0)
    model = tiny_bert(num_labels=2)
    batches = batches_of(model)
    for batch in batches:
        batch["labels"] = batch["labels"].clamp(max=1)
    features, labels = head_features(model, batches)
    fit_head(model, batches, strengths=[1.0])
    inputs = StandardScaler().fit_transform(features.double().numpy())
    expected = LogisticRegression(C=1.0, max_iter=5000, tol=1e-8).fit(inputs, labels.numpy()).predict_proba(inputs)
    logits = model.classifier(features).double().softmax(-1).detach().numpy()
    np.testing.assert_allclose(logits, expected, atol=2e-3)


def test_a_head_without_bias_gets_no_intercept():
    torch.manual_seed(0)
    model = tiny_llama()
    assert model.score.bias is None
    batches = batches_of(model)
    features, labels = head_features(model, batches)
    fit_head(model, batches, strengths=[1.0])
    inputs = features.double() / features.double().std(0, correction=0)
    expected = LogisticRegression(C=1.0, fit_intercept=False, max_iter=5000, tol=1e-8).fit(inputs, labels)
    ours = model.score(features).double().softmax(-1).detach().numpy()
    np.testing.assert_allclose(ours, expected.predict_proba(inputs), atol=2e-3)


def test_tokens_without_a_label_are_left_out():
    model = tiny_token_bert()
    batches = batches_of(model, 1)
    batches[0]["labels"][:, ::2] = -100
    features, labels = head_features(model, batches)
    assert len(features) == len(labels) == batches[0]["labels"].ne(-100).sum()
    probe = fit_head(model, batches)
    assert probe.rows == len(labels) and probe.task == "token" and model.config.problem_type is None


def test_only_the_head_changes_and_the_mode_comes_back():
    model = lora(tiny_bert(), ["query"], "classifier").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    hooks = [len(module._forward_pre_hooks) for module in model.modules()]
    fit_head(model, batches_of(model))
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {f"base_model.model.classifier.modules_to_save.default.{key}" for key in ("weight", "bias")}
    assert model.training and hooks == [len(module._forward_pre_hooks) for module in model.modules()]


def test_regularisation_is_chosen_by_held_out_rows():
    torch.manual_seed(0)
    model = tiny_bert()
    probe = fit_head(model, batches_of(model, 4, 16))
    assert len(probe.scores) == 7
    assert probe.scores[probe.strength] == max(probe.scores.values())


def test_of_equal_strengths_the_one_with_the_lower_loss_is_taken():
    """Classes far apart: many strengths get all rows right, and the weakest regularisation is the surest."""
    torch.manual_seed(0)
    model = tiny_bert(num_labels=2)
    batch = batches_of(model, 1, 16)[0]
    batch["input_ids"] = torch.where(torch.arange(16).unsqueeze(1) % 2 == 0, 3, 40).expand(16, 6).contiguous()
    batch["attention_mask"] = torch.ones(16, 6, dtype=torch.long)
    batch["labels"] = torch.arange(16) % 2
    probe = fit_head(model, [batch])
    perfect = [strength for strength, score in probe.scores.items() if score == 1.0]
    assert len(perfect) > 1 and probe.strength == max(perfect)


def test_one_row_of_each_class_leaves_nothing_to_hold_out():
    model = tiny_bert()
    batch = batches_of(model, 1, 3)[0]
    batch["labels"] = torch.arange(3)
    probe = fit_head(model, [batch])
    assert probe.scores == {} and probe.strength == pytest.approx(0.1)


def test_a_class_without_rows_is_never_the_answer():
    torch.manual_seed(0)
    model = tiny_bert().eval()
    batch = batches_of(model, 1, 8)[0]
    batch["labels"] = torch.tensor([0, 2] * 4)
    fit_head(model, [batch])
    assert not model.classifier.weight[1].any()
    assert not (model.classifier(100 * torch.randn(500, 16)).argmax(-1) == 1).any()


def test_regression_is_the_ridge_solution():
    torch.manual_seed(0)
    model = tiny_bert(num_labels=1)
    batch = batches_of(model, 1, 12)[0]
    batch["labels"] = torch.randn(12)
    features, labels = head_features(model, [batch])
    probe = fit_head(model, [batch], strengths=[0.25])
    x = features.double()
    x = (x - x.mean(0)) / x.std(0, correction=0)
    y = labels.double()
    weight = torch.linalg.solve(x.T @ x + 4.0 * torch.eye(16).double(), x.T @ (y - y.mean()))
    torch.testing.assert_close(model.classifier(features)[:, 0].double(), x @ weight + y.mean(), atol=1e-5, rtol=1e-4)
    assert probe.strength == 0.25 and probe.kind == "ridge"


def test_no_labels():
    model = tiny_bert()
    batch = {**batches_of(model, 1)[0], "labels": torch.full((8,), -100)}
    with pytest.raises(ValueError, match="No row of the data has a label.*nothing to fit.*Give the labelled rows"):
        fit_head(model, [batch])


def test_one_class():
    model = tiny_bert()
    batch = {**batches_of(model, 1)[0], "labels": torch.ones(8, dtype=torch.long)}
    with pytest.raises(ValueError, match="All 8 labelled rows are of one class.*Give rows of every class"):
        fit_head(model, [batch])


@pytest.mark.parametrize("dtype", [torch.float32, torch.long])
def test_several_labels_a_row(dtype):
    torch.manual_seed(0)
    model = tiny_bert(problem_type="multi_label_classification")
    batch = batches_of(model, 1, 16)[0]
    batch["labels"] = torch.randint(0, 2, (16, 3)).to(dtype)
    batch["labels"][3] = -100
    features, labels = head_features(model, [batch])
    assert labels.shape == (15, 3)
    probe = fit_head(model, [batch], strengths=[0.5])
    assert probe.task == "multi_label" and probe.rows == 15
    inputs = StandardScaler().fit_transform(features.double().numpy())
    found = model.classifier(features).double().sigmoid().detach().numpy()
    for number in range(3):
        expected = LogisticRegression(C=0.5, max_iter=5000, tol=1e-8).fit(inputs, labels[:, number].numpy())
        np.testing.assert_allclose(found[:, number], expected.predict_proba(inputs)[:, 1], atol=2e-3)


def test_several_real_values_a_row():
    torch.manual_seed(0)
    model = tiny_bert()
    batch = {**batches_of(model, 1, 12)[0], "labels": torch.randn(12, 3)}
    probe = fit_head(model, [batch])
    assert (probe.kind, probe.task, model.config.problem_type) == ("ridge", "regression", "regression")
    features, _ = head_features(model, [batch])
    np.testing.assert_allclose(model.classifier(features).detach(), probe.logits(features), atol=1e-4)


def test_whole_numbers_of_a_regression_are_no_yes_or_no():
    model = tiny_bert(problem_type="regression")
    batch = {**batches_of(model, 1)[0], "labels": torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]] * 4)}
    assert fit_head(model, [batch]).task == "regression"


def test_all_is_importable_from_where_it_was():
    from hf_transfer.features import Probe, fit_probe, load_probe, probe, probes

    assert (probe.Probe, probe.fit_probe, probe.load_probe) == (Probe, fit_probe, load_probe)
    assert probes.STRENGTHS == probe.STRENGTHS and len(probe.STRENGTHS) == 7


def test_without_scikit_learn(monkeypatch):
    original = builtins.__import__

    def importing(name, *args):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return original(name, *args)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(ImportError, match="scikit-learn, which is not installed.*would stay random.*pip install"):
        model = tiny_bert()
        fit_head(model, batches_of(model))


@pytest.mark.parametrize("make", CLASSIFIERS)
def test_a_classifier_of_series(make):
    """Its target is `target_values`, and what it returns has another name than `logits`."""
    model = make()
    batch = rows_for(model, rows=12)
    features, labels = head_features(model, [batch])
    assert torch.equal(labels, batch["target_values"])
    probe = fit_head(model, [batch])
    with torch.no_grad():
        output = model.eval()(past_values=batch["past_values"])
    found = output[named_output(output)].softmax(-1)
    np.testing.assert_allclose(found, probe.probabilities(features.numpy()), atol=1e-5)
