"""Classification of series: models, the head of a probe, the baselines, and a whole run."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig, PatchTSTForClassification

from hf_transfer import TransferArguments, TransferTrainer
from hf_transfer.compare.results import Cell
from hf_transfer.model_card import RunFacts
from hf_transfer.model_card.snippets import snippets
from hf_transfer.time_series.arguments import ForecasterArguments, SeriesArguments, SeriesLoopArguments
from hf_transfer.time_series.classification import ClassificationComparison, accuracy, run_classification
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


@pytest.mark.parametrize("kind", ["patchtst", "patchtsmixer"])
def test_the_code_of_its_card_names_a_class(kind, tmp_path, monkeypatch):
    model, rows = tiny(kind), rows_of()
    fit_classifier_head(model, rows, None)
    model.save_pretrained(tmp_path / "mine")
    fitted_processor(split()).save_pretrained(tmp_path / "mine")
    facts = RunFacts(task="time-series-classification", model_class=type(model).__name__)
    ((_, code),) = snippets(facts, "mine")
    monkeypatch.chdir(tmp_path)
    for number in range(3):  # a series of each class in the place of the one that is made up
        shown: list[str] = []
        series = split().with_format("numpy")["values"][number]
        here = re.sub(r"^values = .*$", "values = series", code, flags=re.MULTILINE)
        exec(compile(here, "card", "exec"), {"print": shown.append, "series": np.asarray(series)})
        assert shown == [NAMES[number]]
    exec(compile(code, "card", "exec"), {"print": shown.append})
    assert len(shown) == 2 and shown[1] in NAMES


def comparison_of(folder, source=None, **options) -> ClassificationComparison:
    own = {"strategies": []} | options
    recipe = SeriesArguments(target_series="embedded:series/classes", task="classification", **own)
    model = ForecasterArguments(model_name_or_path=None if source is None else str(source))
    return ClassificationComparison(recipe, model, SeriesLoopArguments(output_dir=str(folder), use_cpu=True))


def test_scaling_is_fitted_on_the_share_alone(tmp_path):
    made = comparison_of(tmp_path, few=[0.1, 1.0])
    part, whole = made.part(0.1, 42), made.part(1.0, 42)
    assert len(part.train) < len(whole.train) and part.processor.mean != whole.processor.mean
    for own in (part, whole):
        observed = own.train.values[own.train.observed.all(-1)]
        torch.testing.assert_close(observed.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
        torch.testing.assert_close(observed.std(0, unbiased=False), torch.ones(2), atol=1e-4, rtol=0)
    assert not part.judged["test"].values.equal(whole.judged["test"].values)


def test_other_weights_of_the_same_name_are_other_runs(tmp_path):
    source = tmp_path / "source"
    model = pretraining_model("patchtst", channels=1, context_length=64)
    model.save_pretrained(source)
    before = comparison_of(tmp_path, source).settings()
    assert comparison_of(tmp_path, source).settings() == before and str(tmp_path) not in str(before)
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    model.save_pretrained(source)
    after = comparison_of(tmp_path, source).settings()
    assert {name for name in before if before[name] != after[name]} == {"model_digest"}


def test_what_transfer_must_beat_is_chosen_on_the_evaluation_rows(tmp_path):
    made = comparison_of(tmp_path)
    for name, evaluation, test in (("scratch", 0.5, 0.9), ("probe_scratch", 0.6, 0.4)):
        scores = {"eval_accuracy": evaluation, "test_accuracy": test}
        made.cells.append(Cell(f"{name}@1", 42, "f", name, scores))
    assert made.reference(1.0) == "probe_scratch" and "against probe_scratch" in made.table(1.0)
    assert made.reference(0.5) is None


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
    assert set(results["runs"]) == {f"{name}@1" for name in (*BASELINES, "scratch", "probe_scratch", "probe", "lora")}
    assert results["test_accuracy"] == kept.scores["test_accuracy"]
    assert "| probe |" in (folder / "comparison.md").read_text()
    card = (folder / "README.md").read_text()
    assert "pipeline_tag" not in card and "type: time-series-classification" in card and "```python" in card
    assert AutoConfig.from_pretrained(folder).id2label[0] == "wave"
    assert (folder / "preprocessor_config.json").is_file()
    PatchTSTForClassification.from_pretrained(folder)
