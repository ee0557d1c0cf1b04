from __future__ import annotations

import itertools
import os
import subprocess
import sys

import evaluate
import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from transformers.trainer_utils import EvalPrediction

from hf_transfer.metrics import (
    Accuracy,
    MacroF1,
    MeanSquaredError,
    PearsonR,
    TokenF1,
    compute_metrics_for,
    entity_spans,
)


NAMES = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


@pytest.fixture(autouse=True)
def metrics_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path_factory.mktemp("metrics"))


def test_accuracy():
    assert Accuracy().compute(predictions=[0, 1, 2, 2], references=[0, 1, 1, -100]) == {"accuracy": 2 / 3}


def test_macro_f1_is_the_mean_over_classes():
    random = np.random.default_rng(0)
    guesses, wanted = random.integers(0, 4, 200), random.integers(0, 4, 200)
    per_class = []
    for number in range(4):
        right = np.sum((guesses == number) & (wanted == number))
        per_class.append(2 * right / (np.sum(guesses == number) + np.sum(wanted == number)))
    result = MacroF1().compute(predictions=guesses, references=wanted)
    assert result == {"macro_f1": pytest.approx(np.mean(per_class))}
    assert result["macro_f1"] == pytest.approx(f1_score(wanted, guesses, average="macro"))


def test_macro_f1_of_a_class_never_predicted_is_zero_without_a_warning():
    assert MacroF1().compute(predictions=[0, 0], references=[0, 1]) == {"macro_f1": pytest.approx(1 / 3)}
    assert MacroF1().compute(predictions=[0, 0], references=[0, -100]) == {"macro_f1": 1.0}


def test_mean_squared_error_and_correlation():
    random = np.random.default_rng(0)
    guesses, wanted = random.normal(size=50), random.normal(size=50)
    both = {"predictions": guesses, "references": wanted}
    assert MeanSquaredError().compute(**both)["mse"] == pytest.approx(np.mean((guesses - wanted) ** 2), rel=1e-5)
    assert PearsonR().compute(**both)["pearson"] == pytest.approx(np.corrcoef(guesses, wanted)[0, 1], rel=1e-5)
    assert PearsonR().compute(predictions=[1.0, 1.0], references=[1.0, 2.0]) == {"pearson": 0.0}
    masked = PearsonR().compute(predictions=[3.0, 2.0, 9.0], references=[1.0, 2.0, -100.0])
    assert masked == {"pearson": pytest.approx(-1)}


# --- entities ------------------------------------------------------------------------------------------------------


def naive_spans(tags: list[str]) -> set[tuple[str, int, int]]:
    """Every (start, end) is tried; written from the definition, not like the code under test."""

    def kind(tag: str) -> str | None:
        return None if tag == "O" else tag[2:]

    def starts(i: int) -> bool:
        if tags[i] == "O":
            return False
        return tags[i][0] == "B" or i == 0 or kind(tags[i - 1]) != kind(tags[i])

    def ends(i: int) -> bool:
        return i == len(tags) - 1 or kind(tags[i + 1]) != kind(tags[i]) or tags[i + 1][0] == "B"

    spans = set()
    for i, j in itertools.combinations_with_replacement(range(len(tags)), 2):
        inside = all(tags[k][0] == "I" and kind(tags[k]) == kind(tags[i]) for k in range(i + 1, j + 1))
        if starts(i) and inside and ends(j):
            spans.add((tags[i][2:], i, j + 1))
    return spans


@pytest.mark.parametrize("length", range(6))
def test_spans_of_every_short_sequence(length):
    """All tag sequences, malformed ones included."""
    for tags in itertools.product(NAMES, repeat=length):
        assert entity_spans(tags) == naive_spans(list(tags)), tags


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (["I-PER", "I-PER", "O"], {("PER", 0, 2)}),
        (["O", "I-LOC"], {("LOC", 1, 2)}),
        (["B-PER", "I-LOC"], {("PER", 0, 1), ("LOC", 1, 2)}),
        (["B-PER", "B-PER"], {("PER", 0, 1), ("PER", 1, 2)}),
        (["B-PER", "O", "I-PER"], {("PER", 0, 1), ("PER", 2, 3)}),
        (["PER", "PER", "O"], {("PER", 0, 2)}),
        (["B-creative-work", "I-creative-work"], {("creative-work", 0, 2)}),
        ([], set()),
    ],
)
def test_spans_by_hand(tags, expected):
    assert entity_spans(tags) == expected


def test_token_f1_against_naive_counting():
    random = np.random.default_rng(0)
    for _ in range(20):
        lengths = random.integers(0, 12, 8)
        wanted = [random.integers(0, 5, length).tolist() for length in lengths]
        guesses = [[tag if random.random() < 0.7 else int(random.integers(5)) for tag in row] for row in wanted]
        got = {(i, *s) for i, row in enumerate(guesses) for s in naive_spans([NAMES[t] for t in row])}
        true = {(i, *s) for i, row in enumerate(wanted) for s in naive_spans([NAMES[t] for t in row])}
        right = len(got & true)
        precision, recall = right / max(len(got), 1), right / max(len(true), 1)
        f1 = 2 * precision * recall / (precision + recall) if right else 0.0
        result = TokenF1(label_names=NAMES).compute(predictions=guesses, references=wanted)
        assert result == {k: pytest.approx(v) for k, v in (("precision", precision), ("recall", recall), ("f1", f1))}


def test_ignored_tokens_are_dropped_before_entities_are_read():
    """A second sub-word (-100) inside an entity does not split it, whatever is predicted there."""
    metric = TokenF1(label_names=NAMES)
    result = metric.compute(predictions=[[0, 1, 0, 2, 3]], references=[[-100, 1, -100, 2, -100]])
    assert result == {"precision": 1.0, "recall": 1.0, "f1": 1.0}


def test_no_entities_at_all():
    metric = TokenF1(label_names=NAMES)
    assert metric.compute(predictions=[[0, 0]], references=[[0, 0]]) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert metric.compute(predictions=[[0, 0]], references=[[1, 2]])["recall"] == 0.0


@pytest.mark.parametrize("names", [[], ["O", "S-PER", "B-PER"], ["O", "B-PER", "E-PER"]])
def test_other_schemes_are_refused(names):
    with pytest.raises(ValueError, match="TokenF1 got the tags.*Convert the tags to IOB2"):
        TokenF1(label_names=names)


# --- as evaluate metrics -------------------------------------------------------------------------------------------


def test_combine():
    both = evaluate.combine([Accuracy(), MacroF1()])
    assert both.compute(predictions=[0, 1], references=[0, 1]) == {"accuracy": 1.0, "macro_f1": 1.0}


def test_batches_add_up_and_a_metric_can_be_used_again():
    metric = Accuracy()
    for guess, reference in ((0, 0), (1, 0)):
        metric.add_batch(predictions=[guess], references=[reference])
    assert metric.compute() == {"accuracy": 0.5}
    assert metric.compute(predictions=[1], references=[1]) == {"accuracy": 1.0}


def test_no_files_are_left_and_many_at_once_do_not_clash(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = tmp_path / "cache"
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", cache)
    several = [TokenF1(label_names=NAMES) for _ in range(3)]
    for metric in several:
        metric.add_batch(predictions=[[1]], references=[[1]])
    assert [metric.compute()["f1"] for metric in several] == [1.0] * 3
    assert not [file for _, _, files in os.walk(tmp_path) for file in files]


@pytest.mark.slow
def test_several_processes_do_not_clash(tmp_path):
    code = (
        "from hf_transfer.metrics import Accuracy\n"
        "for _ in range(20):\n"
        "    assert Accuracy().compute(predictions=[0, 1], references=[0, 0]) == {'accuracy': 0.5}\n"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    runs = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(2)]
    assert [run.wait() for run in runs] == [0, 0]
    assert not [file for _, _, files in os.walk(tmp_path / "metrics") for file in files]


def test_global_random_state_is_left_alone():
    before = np.random.get_state()[1].tolist(), torch.get_rng_state()
    Accuracy().compute(predictions=[0], references=[0])
    assert np.random.get_state()[1].tolist() == before[0] and torch.equal(torch.get_rng_state(), before[1])


# --- compute_metrics -----------------------------------------------------------------------------------------------


def outputs(predictions, label_ids) -> EvalPrediction:
    return EvalPrediction(predictions=predictions, label_ids=label_ids)


@pytest.mark.parametrize("task", ["image-classification", "text-classification", "audio-classification"])
def test_classification(task):
    compute = compute_metrics_for(task, ["a", "b", "c"])
    logits = np.array([[3.0, 0, 0], [0, 1, 2], [0, 5, 0], [9, 0, 0]])
    labels = np.array([0, 2, 2, -100])
    expected = {"accuracy": 2 / 3, "macro_f1": pytest.approx((1 + 2 / 3 + 0) / 3)}
    assert compute(outputs(logits, labels)) == expected
    assert compute(outputs((logits, np.zeros((4, 7))), labels)) == expected
    assert compute(outputs(logits, (labels, labels))) == expected
    assert compute(outputs(logits.argmax(-1), labels)) == expected
    assert compute(outputs(logits.astype(np.float16), labels)) == expected


def test_token_classification():
    compute = compute_metrics_for("token-classification", NAMES)
    labels = np.array([[-100, 1, 2, 0, -100], [-100, 3, -100, -100, -100]])
    right = np.eye(5)[np.where(labels < 0, 4, labels)]
    assert compute(outputs(right, labels)) == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "accuracy": 1.0}
    wrong = right.copy()
    wrong[0, 2] = np.eye(5)[0]
    expected = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "accuracy": 0.75}
    assert compute(outputs(wrong, labels)) == expected
    # the Trainer pads predictions of unequal length with -100
    padded = np.where(labels[..., None] < 0, -100.0, wrong)
    assert compute(outputs((padded, None), labels)) == expected
    with pytest.raises(ValueError, match="TokenF1 got the tags"):
        compute_metrics_for("token-classification")


def test_regression():
    compute = compute_metrics_for("regression")
    labels = np.array([1.0, 2.0, 3.0, -100.0])
    assert compute(outputs(np.array([[2.0], [3.0], [4.0], [9.0]]), labels)) == {
        "mse": 1.0,
        "pearson": pytest.approx(1),
    }


def test_unlabelled_data_cannot_be_scored():
    with pytest.raises(ValueError, match="None of the 2 references is a label.*pass the unmixed dataset"):
        compute_metrics_for("text-classification")(outputs(np.zeros((2, 2)), np.array([-100, -100])))


def test_unknown_tasks():
    with pytest.raises(ValueError, match="no metrics for the task `translation`.*regression"):
        compute_metrics_for("translation")


def test_results_are_plain_floats():
    result = compute_metrics_for("image-classification")(outputs(np.eye(2, dtype=np.float32), np.array([0, 1])))
    assert all(type(value) is float for value in result.values())
