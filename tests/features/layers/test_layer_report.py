"""The report on the blocks of a model against probes and similarities computed one by one."""

from __future__ import annotations

import builtins
import copy
import json

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, List, Value
from sklearn.linear_model import LogisticRegression
from transformers import BertModel

from hf_transfer.features.extraction.extract import extract_features
from hf_transfer.features.layers.layer_plot import _ticks
from hf_transfer.features.layers.layer_report import layer_report
from hf_transfer.features.layers.layer_scores import LayerReport, LayerScore, row_scores
from hf_transfer.features.probes import fit_probe
from hf_transfer.functional.cka import linear_cka
from tests import models
from tests.invariants.run import rows


@pytest.fixture
def options(tmp_path):
    return {"cache_dir": tmp_path / "cache", "progress": False}


def labelled(count=30, seed=0, image=False):
    """Text whose label is what its first token says, so that a probe can find it."""
    data = rows(count, seed, True, image)
    if image:
        return data
    return data.map(lambda row: {"labels": row["input_ids"][0] % 3})


def captured(model, data):
    """Outputs of the blocks, pooled by hand, and the input of the head."""
    found: dict[str, torch.Tensor] = {}

    def keep(name):
        return lambda module, args, output: found.__setitem__(name, output[0] if isinstance(output, tuple) else output)

    hooks = [layer.register_forward_hook(keep(f"block.{n}")) for n, layer in enumerate(model.bert.encoder.layer)]
    hooks.append(model.classifier.register_forward_pre_hook(lambda m, args: found.__setitem__("head", args[0])))
    with torch.no_grad():
        model.eval()(**{name: torch.tensor(data[name][:]) for name in ("input_ids", "attention_mask")})
    for hook in hooks:
        hook.remove()
    return {name: value.mean(1) if value.dim() == 3 else value for name, value in found.items()}


def test_scores_are_those_of_the_probe_on_each_block(options):
    model, train, held = models.tiny_bert(), labelled(40), labelled(30, 1)
    report = layer_report(model, train, held, extraction=options, probe={"strengths": (1.0,)})
    assert [layer.name for layer in report.layers] == ["block.0", "block.1", "block.2", "head"]
    fit, new = captured(model, train), captured(model, held)
    for layer in report.layers:
        x = fit[layer.name].double().numpy()
        mean, scale = x.mean(0), x.std(0)
        probe = LogisticRegression(C=1.0, max_iter=5000, tol=1e-8).fit((x - mean) / scale, train["labels"][:])
        hits = probe.predict((new[layer.name].double().numpy() - mean) / scale) == np.array(held["labels"][:])
        assert layer.score == pytest.approx(hits.mean(), abs=1 / 30 + 1e-9)  # a tie may fall either way
        assert layer.error == pytest.approx(np.sqrt(layer.score * (1 - layer.score) / 30))
        assert layer.before is None and layer.cka is None
    assert (report.metric, report.kind, report.train, report.evaluation) == ("accuracy", "logistic", 40, 30)
    assert report.best.score == max(layer.score for layer in report.layers)


def test_similarities_are_those_of_the_blocks(options):
    model, held = models.tiny_bert(), labelled(25, 1)
    report = layer_report(model, labelled(), held, extraction=options, kind="ridge")
    states = list(captured(model, held).values())
    expected = [[linear_cka(x, y).item() for y in states] for x in states]
    np.testing.assert_allclose(report.matrix, expected, atol=1e-5)
    assert np.allclose(np.diag(report.matrix), 1)


def test_before_and_after(options):
    before = models.tiny_bert()
    after = copy.deepcopy(before)
    with torch.no_grad():  # fine-tuning that changed the last block only
        for parameter in after.bert.encoder.layer[2].parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    train, held = labelled(), labelled(25, 1)
    report = layer_report(after, train, held, before=before, extraction=options, kind="ridge")
    first, second, last, head = report.layers
    assert report.matrix is None
    assert (first.cka, second.cka) == pytest.approx((1.0, 1.0)) and last.cka < 0.999 and head.cka < 0.999
    assert first.before == first.score and second.before_error == second.error
    expected = linear_cka(captured(before, held)["block.2"], captured(after, held)["block.2"]).item()
    assert last.cka == pytest.approx(expected, abs=1e-5)
    alone = layer_report(before, train, held, extraction=options, kind="ridge")
    assert [layer.before for layer in report.layers] == [layer.score for layer in alone.layers]


def test_before_may_have_no_head(options):
    after = models.tiny_bert()
    base = BertModel(after.config)
    base.load_state_dict(after.bert.state_dict())
    report = layer_report(after, labelled(), labelled(25, 1), before=base, extraction=options, kind="ridge")
    assert [layer.cka for layer in report.layers] == [pytest.approx(1.0)] * 3 + [None]
    assert report.layers[3].before is None and "| head |" in report.table().replace("*", "")
    alone = layer_report(base, labelled(), labelled(25, 1), extraction=options, kind="ridge")
    assert [layer.name for layer in alone.layers] == ["block.0", "block.1", "block.2"]


@pytest.mark.parametrize("kind", ["resnet", "vit", "gpt2"])
def test_other_models(kind, options):
    model = models.TINY[kind]()
    train, held = (labelled(30, seed, kind in ("resnet", "vit")) for seed in (0, 1))
    report = layer_report(model, train, held, extraction=options, kind="nearest_class_mean")
    assert report.layers[-1].name == "head" and np.isfinite(report.matrix).all()


def test_adapters(options):
    model = models.lora(models.tiny_bert(), ["query"], "classifier")
    report = layer_report(
        model, labelled(), labelled(20, 1), before=models.tiny_bert(), extraction=options, kind="ridge"
    )
    assert len(report.layers) == 4 and all(layer.cka is not None for layer in report.layers)


def test_each_token_of_a_token_classification_is_a_row(options):
    model = models.tiny_token_bert()
    data = labelled(12).map(lambda row: {"labels": [-100, *[number % 3 for number in row["input_ids"][1:]]]})
    report = layer_report(model, data, data, extraction=options, kind="ridge", cka_rows=20)
    assert report.evaluation == 12 * 5 and report.metric == "accuracy"
    features = extract_features(model, data, taps="blocks", pooling="none", **options)
    assert len(features[0]["block.0"]) == 6
    assert report.layers[0].score > 0.8  # the block still knows which token it read


def test_the_similarity_is_of_a_sample(options):
    model, train, held = models.tiny_bert(), labelled(), labelled(60, 1)
    reports = [
        layer_report(model, train, held, extraction=options, kind="ridge", cka_rows=count, seed=seed)
        for count, seed in ((60, 0), (30, 0), (30, 0), (30, 1))
    ]
    whole, some, again, other = (np.array(report.matrix) for report in reports)
    assert np.array_equal(some, again) and not np.array_equal(some, other) and not np.array_equal(some, whole)
    np.testing.assert_allclose(some, whole, atol=0.2)


def test_one_pass_for_all_and_none_the_second_time(options, monkeypatch):
    model, train, held = models.tiny_bert(), labelled(), labelled(25, 1)
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    first = layer_report(model, train, held, extraction={**options, "batch_size": 25}, kind="ridge")
    assert 0 < len(calls) <= 8  # a few on the first rows, to see whether padding leaks
    calls.clear()
    second = layer_report(model, train, held, extraction={**options, "batch_size": 25}, kind="ridge")
    assert not calls and first == second


# --- scores of rows


def as_data(features, labels, **extra):
    kinds = {"features": List(Value("float64"), length=features.shape[1])}
    columns = {"features": features.tolist(), "labels": labels.tolist(), **extra}
    if labels.ndim == 2:
        kinds["labels"] = List(Value("float64"))
    else:
        kinds["labels"] = Value("int64" if labels.dtype.kind == "i" else "float64")
    return Dataset.from_dict(columns, features=Features({**kinds, **{name: Value("int64") for name in extra}}))


def test_regression_is_r2_with_its_error():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 3))
    y = x @ [1.0, -2.0, 0.5] + generator.normal(size=60)
    probe = fit_probe(x[:30], y[:30], kind="ridge")
    found = row_scores(probe, as_data(x[30:], y[30:]), "features")
    errors = (probe.predict(x[30:])[:, 0] - y[30:]) ** 2
    assert found.metric == "r2"
    assert found.mean == pytest.approx(1 - errors.mean() / y[30:].var())
    assert found.error == pytest.approx((errors / y[30:].var()).std() / np.sqrt(30))


def test_several_labels_are_scored_one_by_one():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(80, 3))
    y = (x + 0.5 * generator.normal(size=x.shape) > 0).astype(float)
    probe = fit_probe(x[:40], y[:40], kind="ridge")
    found = row_scores(probe, as_data(x[40:], y[40:]), "features")
    right = (probe.predict(x[40:]) == y[40:]).mean(1)
    assert found.metric == "label accuracy"
    assert (found.mean, found.error) == pytest.approx((right.mean(), right.std() / np.sqrt(40)))


def test_views_of_one_row_are_no_new_evidence():
    """Every row four times: the score is the same, and so is its error."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 3))
    y = (x[:, 0] + generator.normal(size=60) > 0).astype(np.int64)
    probe = fit_probe(x[:30], y[:30], kind="ridge")
    once = row_scores(probe, as_data(x[30:], y[30:]), "features")
    numbers, views = np.repeat(np.arange(30), 4), np.tile(np.arange(4), 30)
    four = as_data(x[30:][numbers], y[30:][numbers], id=numbers.tolist(), view=views.tolist())
    again = row_scores(probe, four, "features")
    assert (again.mean, again.error) == pytest.approx((once.mean, once.error)) and again.rows == 120


# --- table, numbers, plot


def report(**options):
    layers = (
        LayerScore("block.0", 0.5, 0.02, 0.5, 0.02, 1.0),
        LayerScore("block.1", 0.75, 0.015, 0.7, 0.01, 0.5),
        LayerScore("head", 0.75, 0.015),
    )
    return LayerReport(layers, **{"metric": "accuracy", "kind": "ridge", "train": 9, "evaluation": 8, **options})


def test_table():
    assert report().table().splitlines() == [
        "| layer | accuracy | accuracy before | CKA with before |",
        "|---|---|---|---|",
        "| block.0 | 0.500 ± 0.020 | 0.500 ± 0.020 | 1.000 |",
        "| **block.1** | **0.750 ± 0.015** | 0.700 ± 0.010 | 0.500 |",
        "| head | 0.750 ± 0.015 |  |  |",
    ]
    assert str(report()) == report().table()


def test_table_with_the_similarities_of_the_blocks():
    layers = (LayerScore("block.0", 0.5, 0.1), LayerScore("head", 0.6, 0.1))
    text = (
        report()
        .__class__(layers, metric="r2", kind="ridge", train=9, evaluation=8, matrix=((1.0, 0.25), (0.25, 1.0)))
        .table()
    )
    assert text.splitlines()[-4:] == [
        "| CKA | block.0 | head |",
        "|---|---|---|",
        "| block.0 | 1.000 | 0.250 |",
        "| head | 0.250 | 1.000 |",
    ]
    assert text.startswith("| layer | r2 |\n")


def test_of_equal_layers_the_lowest_is_the_best():
    assert report().best.name == "block.1"


def test_plain_numbers():
    plain = json.loads(json.dumps(report(matrix=((1.0,),)).to_dict()))
    assert plain["best"] == "block.1" and plain["layers"][1]["cka"] == 0.5 and plain["matrix"] == [[1.0]]
    assert plain["layers"][2] == {
        "name": "head", "score": 0.75, "error": 0.015, "before": None, "before_error": None, "cka": None
    }  # fmt: skip


MATRIX = ((1.0, 0.2, 0.1), (0.2, 1.0, 0.3), (0.1, 0.3, 1.0))


@pytest.mark.parametrize(("suffix", "matrix"), [(".png", None), (".svg", MATRIX), ("", MATRIX)])
def test_plot(tmp_path, suffix, matrix):
    path = report(matrix=matrix).plot(tmp_path / "sub" / f"layers{suffix}")
    start = {".svg": b"<?xml"}.get(suffix, b"\x89PNG")
    assert path.read_bytes().startswith(start)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(("count", "labelled"), [(3, 3), (14, 14), (27, 14), (90, 13)])
def test_labels_of_many_layers_do_not_run_into_each_other(count, labelled):
    layers = (*(LayerScore(f"block.{n}", 0.5, 0.1) for n in range(count - 1)), LayerScore("head", 0.5, 0.1))
    places, names = _ticks(LayerReport(layers, metric="r2", kind="ridge", train=9, evaluation=8))
    assert names[0] == "0" and names[-1] == "head" and places[-1] == count - 1
    assert len(names) == labelled and names[:-1] == [str(place) for place in places[:-1]]
    assert min(np.diff(places)) >= min(np.diff(places[:-1]), default=1)


def test_a_plot_that_fails_leaves_nothing(tmp_path):
    (tmp_path / "layers.nonsense").write_text("before")
    with pytest.raises(ValueError, match="nonsense"):
        report().plot(tmp_path / "layers.nonsense")
    assert [file.name for file in tmp_path.iterdir()] == ["layers.nonsense"]
    assert (tmp_path / "layers.nonsense").read_text() == "before"


def test_without_matplotlib(monkeypatch, tmp_path):
    original = builtins.__import__

    def importing(name, *args):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return original(name, *args)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(ImportError, match="needs matplotlib, which is not installed: nothing.*pip install"):
        report().plot(tmp_path / "layers.png")


# --- refusals


def test_another_number_of_blocks(options):
    with pytest.raises(ValueError, match=r"`before` \(BertFor.*\) has 2 blocks and the model \(BertFor.*\) 3: no bl"):
        layer_report(
            models.tiny_bert(),
            labelled(),
            labelled(),
            before=models.tiny_bert(num_hidden_layers=2),
            extraction=options,
        )


def test_too_few_rows(options):
    with pytest.raises(ValueError, match="3 rows to evaluate on: neither.*would tie. Give some hundred rows"):
        layer_report(models.tiny_bert(), labelled(), labelled(3), extraction=options)
    with pytest.raises(ValueError, match="`cka_rows=3`: .*cannot be estimated.*Give a number"):
        layer_report(models.tiny_bert(), labelled(), labelled(), cka_rows=3, extraction=options)


def test_foreign_options(options):
    with pytest.raises(ValueError, match="'pooling': .*is settled.*Leave `pooling` out"):
        layer_report(models.tiny_bert(), labelled(), labelled(), extraction={**options, "pooling": "mean"})
