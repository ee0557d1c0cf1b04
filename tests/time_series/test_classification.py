"""Classification of series: models, the head of a probe, the baselines, and a whole run."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig, PatchTSTForClassification

from hf_transfer import TransferArguments, TransferTrainer
from hf_transfer.time_series.arguments import ForecasterArguments, SeriesArguments, SeriesLoopArguments
from hf_transfer.time_series.classification import accuracy, run_classification
from hf_transfer.time_series.classifier_strategies import classifier_strategies
from hf_transfer.time_series.classifiers import SeriesRows, fitted_processor, load_classifier, new_classifier
from hf_transfer.time_series.models import pretraining_model
from hf_transfer.time_series.probing import BASELINES, baseline_answers, fit_classifier_head, head_features


NAMES = ["low", "high", "other"]


def split(rows: int = 12, seed: int = 0) -> Dataset:
    """Series of 16 rows and 2 channels, whose class is the slope of the first."""
    random = np.random.default_rng(seed)
    labels = np.arange(rows) % 3
    values = random.normal(size=(rows, 16, 2)) * 0.1
    values[:, :, 0] += np.linspace(0, 1, 16) * (labels - 1)[:, None] * 3
    return Dataset.from_dict({"values": values.astype(np.float32).tolist(), "label": labels.tolist()})


def tiny(kind="patchtst", names=NAMES):
    torch.manual_seed(0)
    return new_classifier(kind, channels=2, length=16, label_names=names)


def rows_of(part: Dataset | None = None) -> SeriesRows:
    part = split() if part is None else part
    return SeriesRows(part, fitted_processor(part))


@pytest.mark.parametrize("kind", ["patchtst", "patchtsmixer"])
def test_a_classifier_takes_the_backbone_of_a_pretrained_model(kind, tmp_path):
    source = pretraining_model(kind, channels=1, context_length=16)
    source.save_pretrained(tmp_path)
    model, report = load_classifier(tmp_path, channels=2, length=16, label_names=NAMES)
    assert model.config.id2label == dict(enumerate(NAMES)) and model.config.num_targets == 3
    own, theirs = model.model.state_dict(), source.model.state_dict()
    assert all(torch.equal(own[name], theirs[name]) for name in own)
    assert {entry.name.split(".")[0] for entry in report.skipped} <= {"head", "inject_scale"}


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="There are 1 classes.*nothing is to be told apart.*two kinds"):
        tiny(names=["all"])


def test_scaling_counts_observed_values_and_leaves_constant_channels():
    part = Dataset.from_dict({"values": [[[1.0, 5.0], [float("nan"), 5.0], [3.0, 5.0]]], "label": [0]})
    processor = fitted_processor(part)
    assert processor.mean == [2.0, 5.0] and processor.std == [1.0, 1.0]
    row = SeriesRows(part, processor)[0]
    assert row["past_values"][:, 0].tolist() == [-1.0, -1.0, 1.0]
    assert row["past_observed_mask"][:, 0].tolist() == [True, False, True]


@pytest.mark.parametrize("kind", ["patchtst", "patchtsmixer"])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_head_of_a_probe_answers_as_the_regression_it_was_made_of(kind, classes):
    from hf_transfer.time_series.probing import logistic_regression

    part = split().filter(lambda row: row["label"] < classes)
    model, rows = tiny(kind, NAMES[:classes]), rows_of(part)
    expected = logistic_regression(head_features(model, rows), np.asarray(rows.labels), None)
    fit_classifier_head(model, rows, None)
    output = model.eval()(past_values=rows.values, past_observed_mask=rows.observed)
    logits = output.prediction_logits if kind == "patchtst" else output.prediction_outputs
    probabilities = logits.detach().softmax(-1).numpy()
    np.testing.assert_allclose(probabilities, expected.predict_proba(head_features(model, rows)), atol=1e-4)


def test_a_class_without_rows_is_not_answered():
    part = split().filter(lambda row: row["label"] != 1)
    model, rows = tiny(), rows_of(part)
    fit_classifier_head(model, rows, None)
    assert 1 not in model.eval()(past_values=rows.values).prediction_logits.argmax(-1).tolist()


def test_baselines():
    train, judged = rows_of(), rows_of(split(9, seed=1))
    assert baseline_answers("majority", rows_of(split(4)), judged, None).tolist() == [0] * 9
    distances = torch.cdist(judged.values.flatten(1), train.values.flatten(1))
    nearest = [train.labels[row] for row in distances.argmin(1).tolist()]
    assert baseline_answers("nearest", train, judged, None).tolist() == nearest
    assert accuracy(baseline_answers("logistic", train, judged, train), judged.labels) > 0.8
    with pytest.raises(ValueError, match="All 4 rows are of class 0.*nothing to tell apart"):
        one = split().filter(lambda row: row["label"] == 0)
        baseline_answers("logistic", rows_of(one), judged, None)


def test_strategies():
    with pytest.raises(ValueError, match="`--strategies lp_ft` is none for.*nothing could be trained.*Choose from"):
        classifier_strategies(["lp_ft"], transfers=True)
    with pytest.raises(ValueError, match="without a source: there is nothing to transfer.*`--source_series`"):
        classifier_strategies(["probe"], transfers=False)


@pytest.mark.parametrize("kind", ["patchtst", "patchtsmixer"])
def test_the_trainer_takes_labels_by_either_name_and_scores_predictions(kind, tmp_path):
    rows = rows_of()
    named = [{"past_values": row["past_values"], "label": row["target_values"]} for row in (rows[i] for i in range(6))]
    args = TransferArguments(str(tmp_path), max_steps=2, report_to="none", use_cpu=True, disable_tqdm=True)

    def compute(prediction):
        return {"accuracy": accuracy(prediction.predictions.argmax(-1), prediction.label_ids)}

    from hf_transfer import L2SP

    trainer = TransferTrainer(
        tiny(kind), args, train_dataset=named, eval_dataset=named, objectives=[L2SP()], compute_metrics=compute
    )
    trainer.train()
    assert trainer.label_names == ["target_values"] and "l2sp" in trainer.attachment.terms
    assert 0 <= trainer.evaluate()["eval_accuracy"] <= 1


def test_a_run_compares_and_keeps_an_ordinary_model(tmp_path):
    source = tmp_path / "source"
    pretraining_model("patchtst", channels=1, context_length=64).save_pretrained(source)
    folder = tmp_path / "out"
    recipe = SeriesArguments(
        target_series="embedded:series/classes", task="classification", strategies=["scratch,probe,lora"]
    )
    args = SeriesLoopArguments(
        output_dir=str(folder), max_steps=2, eval_steps=1, save_steps=1, use_cpu=True, disable_tqdm=True
    )
    kept = run_classification(recipe, ForecasterArguments(model_name_or_path=str(source)), args)
    results = json.loads((folder / "all_results.json").read_text())
    assert set(results["runs"]) == {f"{name}@1" for name in (*BASELINES, "scratch", "probe", "lora")}
    assert results["test_accuracy"] == kept.scores["test_accuracy"]
    assert "| probe |" in (folder / "comparison.md").read_text() and (folder / "README.md").is_file()
    assert AutoConfig.from_pretrained(folder).id2label[0] == "wave"
    assert (folder / "preprocessor_config.json").is_file()
    PatchTSTForClassification.from_pretrained(folder)
