"""recipes/time_series.py as a user runs it, in this process, on tiny forecasters and series."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import PatchTSTForPrediction, Trainer

from hf_transfer.time_series.processor import SeriesProcessor
from tests.hub_server import HubServer
from tests.recipes.conftest import RECIPES


TINY = '{"d_model": 4, "num_attention_heads": 2, "ffn_dim": 8, "num_hidden_layers": 2}'
SHAPE = ("--context_length", 16, "--prediction_length", 4, "--season", 6, "--stages", 3)
LOOP = ("--max_steps", 2, "--eval_steps", 1, "--pretraining_steps", 2, "--per_device_train_batch_size", 16)
PRETRAINED = ("--config_overrides", TINY)


def write(path: Path, rows: int, *, channels: int = 2, start: str = "2021-01-01", seed: int = 0) -> Path:
    """Waves of six hours under noise, with a date column."""
    random = np.random.default_rng(seed)
    dates = np.datetime64(start, "s") + np.arange(rows) * np.timedelta64(3600, "s")
    waves = np.sin(np.arange(rows)[:, None] * np.pi / 3 + np.arange(channels)) + 0.3 * random.normal(
        size=(rows, channels)
    )
    lines = [",".join(map(str, (date, *row))) for date, row in zip(dates, waves.round(4), strict=True)]
    path.write_text("\n".join([",".join(["date", *"abcdefg"[:channels]]), *lines]) + "\n")
    return path


@pytest.fixture
def series(tmp_path) -> tuple[Path, Path]:
    source = write(tmp_path / "source.csv", 160, channels=1, start="2020-01-01")
    return source, write(tmp_path / "target.csv", 160, seed=1)


@pytest.fixture
def words(series) -> tuple:
    return ("--source_series", series[0], "--target_series", series[1], *SHAPE, *LOOP, *PRETRAINED)


@pytest.fixture
def trained(monkeypatch):
    """Folder and first targets of every training step."""
    found: list[tuple[str, Any]] = []
    plain = Trainer.get_batch_samples

    def seen(self, iterator, *args, **kwargs):
        batches, *rest = plain(self, iterator, *args, **kwargs)
        name = "/".join(Path(self.args.output_dir).parts[-3:])
        found.extend((name, batch.get("future_values")) for batch in batches)
        return (batches, *rest)

    monkeypatch.setattr(Trainer, "get_batch_samples", seen)
    return found


@pytest.fixture
def no_figures(monkeypatch):
    """They are the dearest part of a run, and looked at elsewhere."""
    monkeypatch.setattr("hf_transfer.time_series.closing._draw", lambda *_: None)


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def test_the_yaml_beside_it_compares_and_keeps_a_model(run, tmp_path):
    results: Any = run(
        "time_series",
        *("--config", RECIPES / "time_series.yaml", "--max_steps", 2, "--eval_steps", 1, "--pretraining_steps", 1),
        *("--seeds", 1, "--few", 0.1, "--strategies", "probe,full"),
    )
    out = tmp_path / "out"
    names = ("scratch", "probe_scratch", "probe", "full", "naive", "seasonal_naive", "linear")
    assert {f"{name}@0.1_test_mase" for name in names} <= results.keys()
    assert results["test_mse"] == results[f"{results['kept']['run']}_test_mse"]
    assert all((out / name).stat().st_size > 5000 for name in ("few_data.png", "horizon.png", "forecasts.png"))
    text = (out / "comparison.md").read_text()
    assert "| naive |" in text and "10% of the training rows" in text and "blocks of" in text
    processor = SeriesProcessor.from_pretrained(out)
    assert processor.prediction_length == 24 and len(processor.channels) == 3
    PatchTSTForPrediction.from_pretrained(out)


@pytest.mark.usefixtures("no_figures")
def test_every_strategy_and_what_is_finished_is_not_trained_again(run, tmp_path, words, trained):
    first: Any = run("time_series", *words, "--seeds", 2, "--few", 0.5, 1.0, "--strategies", "full,probe")
    names = [name for name, _ in trained]
    assert names.count("few_1/full/seed_43") == 2 and not any("probe" in name for name in names)
    assert len([name for name in names if name.endswith("out/pretrained")]) == 2
    assert len(names) == 2 + 2 * 2 * 2 * 2  # pretraining, then steps x strategies x shares x seeds
    # the same windows in the same order for all strategies
    by_run = {name: [own for other, own in trained if other == name] for name in names}
    for one, other in zip(by_run["few_1/full/seed_42"], by_run["few_1/scratch/seed_42"], strict=True):
        assert one.equal(other)
    assert not by_run["few_1/full/seed_42"][0].equal(by_run["few_1/full/seed_43"][0])
    trained.clear()
    again: Any = run("time_series", *words, "--seeds", 2, "--few", 0.5, 1.0, "--strategies", "full,probe,gradual")
    assert {name for name, _ in trained} == {
        f"few_{share}/gradual/seed_{seed}" for share in (0.5, 1) for seed in (42, 43)
    }
    same = [key for key in first if key.startswith("full@")]
    assert same and all(again[key] == first[key] for key in same)
    trained.clear()
    run("time_series", *words, "--learning_rate", 0.01, "--strategies", "scratch")
    assert {name for name, _ in trained} == {"few_1/scratch/seed_42"}  # the pretrained model is kept
    assert (tmp_path / "out" / "results.previous.json").is_file()


def test_all_strategies_end_in_ordinary_models(run, tmp_path, words):
    results: Any = run("time_series", *words)
    out = tmp_path / "out"
    start, probe = (weights(out / "few_1" / name / "seed_42") for name in ("full", "probe"))
    source = weights(out / "pretrained")
    shared = [name for name in probe if not name.startswith("head.") and name in source]
    assert len(shared) > 10 and all(np.array_equal(probe[name], source[name]) for name in shared)
    random = weights(out / "few_1" / "probe_scratch" / "seed_42")
    assert not any(np.array_equal(random[name], source[name]) for name in shared if name.endswith("proj.weight"))
    for name in ("scratch", "probe_scratch", "probe", "full", "gradual", "l2sp", "lora", "lp_ft"):
        assert f"{name}@1_test_mse" in results, (out / "comparison.md").read_text()
        assert weights(out / "few_1" / name / "seed_42").keys() == start.keys()
        PatchTSTForPrediction.from_pretrained(out / "few_1" / name / "seed_42")


@pytest.mark.usefixtures("no_figures")
def test_what_comes_after_the_training_part_changes_no_weight(run, tmp_path, words, series):
    options = ("--strategies", "full", "--eval_strategy", "no", "--save_strategy", "no")
    run("time_series", *words, *options, out="first")
    target = series[1]
    lines = target.read_text().splitlines()
    last = 1 + int(0.7 * 160)  # a header, and 70 % to learn from
    changed = [f"{line.split(',')[0]},{9 + number},{-number}" for number, line in enumerate(lines[last:])]
    target.write_text("\n".join([*lines[:last], *changed]) + "\n")
    run("time_series", *words, *options, out="second")
    for name in ("scratch", "full"):
        one, other = (weights(tmp_path / out / "few_1" / name / "seed_42") for out in ("first", "second"))
        assert all(np.array_equal(one[key], other[key]) for key in one), name
    first, second = (json.loads((tmp_path / out / "all_results.json").read_text()) for out in ("first", "second"))
    assert first["full@1_test_mse"] != second["full@1_test_mse"]


@pytest.mark.usefixtures("no_figures")
def test_a_supervised_source_forecasts_the_target_as_it_is(run, tmp_path, words, series):
    results: Any = run("time_series", *words, "--pretraining", "supervised", "--strategies", "scratch")
    assert "zero_shot@1_test_mse" in results
    pretrained, target = tmp_path / "out" / "pretrained", series[1]
    own = ("--model_name_or_path", pretrained, "--target_series", target, *SHAPE, *LOOP[:4])
    again: Any = run("time_series", *own, "--strategies", "scratch", out="second")
    assert again["zero_shot@1_test_mse"] == pytest.approx(results["zero_shot@1_test_mse"], rel=1e-6)
    assert "Source: `pretrained`" in (tmp_path / "second" / "comparison.md").read_text()


@pytest.mark.usefixtures("no_figures")
def test_a_failing_strategy_is_a_row_and_is_tried_again(run, tmp_path, words, monkeypatch, trained):
    from hf_transfer.time_series import running

    plain = running.start_model

    def broken(strategy, *args, **options):
        if strategy == "full":
            raise RuntimeError(f"no such file /home/somebody/{strategy}.bin")
        return plain(strategy, *args, **options)

    monkeypatch.setattr(running, "start_model", broken)
    results: Any = run("time_series", *words, "--strategies", "full,probe")
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "| full | failed: RuntimeError: no such file <path>/full.bin |" in text and "somebody" not in text
    assert "full@1_test_mse" not in results and results["shares"][0]["failures"].keys() == {"full"}
    monkeypatch.setattr(running, "start_model", plain)
    trained.clear()
    again: Any = run("time_series", *words, "--strategies", "full,probe")
    assert {name for name, _ in trained} == {"few_1/full/seed_42"}
    assert "full@1_test_mse" in again and not again["shares"][0]["failures"]
    assert "failed" not in (tmp_path / "out" / "comparison.md").read_text()
    assert all(again[key] == results[key] for key in results if key.startswith(("scratch@", "probe@")))


def test_nothing_of_the_machine_is_told_and_the_card_forecasts(run, tmp_path, words, monkeypatch):
    run("time_series", *words, "--strategies", "probe")
    out = tmp_path / "out"
    for name in ("comparison.md", "README.md", "all_results.json", "preprocessor_config.json", "config.json"):
        text = (out / name).read_text()
        assert str(tmp_path) not in text and not re.search(r"/(home|root|tmp)/|\bhf_[A-Za-z0-9]{16}", text), name
    card = (out / "README.md").read_text()
    assert "pipeline_tag: time-series-forecasting" in card and "type: mase" in card and "naive" in card
    (code,) = re.findall(r"^```python\n(.*?)^```", card, flags=re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    shown: list[Any] = []
    exec(compile(code, "card", "exec"), {"print": shown.append})
    assert shown[0] == ["a", "b"] and shown[1].shape == (4, 2) and np.isfinite(shown[1]).all()


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # as in tests/test_push_to_hub.py
@pytest.mark.usefixtures("no_figures")
def test_pushed_it_is_a_forecaster_on_the_hub_without_the_other_runs(run, tmp_path, words):
    pushed = ("--push_to_hub", "--hub_model_id", "user/load", "--hub_private_repo", "true")
    with HubServer() as hub, hub.connected(tmp_path / "home"):
        run("time_series", *words, "--strategies", "probe", *pushed, "--hub_token", hub.token)
        files = hub.files("user/load")
        assert hub.repository("user/load").private
    out = tmp_path / "out"
    assert files["model.safetensors"] == (out / "model.safetensors").read_bytes()
    assert {"config.json", "preprocessor_config.json", "README.md"} <= set(files)
    assert not [name for name in files if name.startswith(("few_1", "pretrained")) or name.endswith(".pt")]
    assert 'from_pretrained("user/load")' in files["README.md"].decode()
    hidden = (hub.token.encode(), str(tmp_path).encode())
    assert not [name for name, content in files.items() if any(own in content for own in hidden)]
    assert hub.token not in (out / "results.json").read_text()


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        (("--context_length", 200), "training part.*context_length=200.*Pass shorter"),
        (("--few", 0.01), "few=0.01 keeps"),
        (("--split_lengths", 100, 30, 60), r"lengths=\(100, 30, 60\)"),
        (("--channels", "a", "z"), "z"),
        (("--head_lr", 0.1), "`--head_lr 0.1`"),
        (("--num_train_epochs", 3), "`--num_train_epochs 3` with `--max_steps 2`: steps win"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_training(run, words, no_training, changed, match):
    with pytest.raises(ValueError, match=match):
        run("time_series", *words, *changed)
