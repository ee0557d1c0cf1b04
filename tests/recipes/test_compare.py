"""recipes/compare.py as a user runs it, in this process, on tiny models and files."""

from __future__ import annotations

import json
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import constants
from transformers import AutoFeatureExtractor, AutoModelForSequenceClassification

from hf_transfer import ComparisonResults
from tests.compare.report.browser import browser, complaints, found, look, requests
from tests.compare.report.parsed import parsed
from tests.hub_server import HubServer
from tests.recipes.conftest import QUIET, RECIPES, write_reviews
from tests.selection.test_audio import save_small_audio_model


SHORT = ("--max_steps", 4, "--learning_rate", 0.01, "--curve", "false")
Compare = Any


@pytest.fixture
def run_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Compare:
    """`run_it(*words)` runs the recipe in this process, and returns its results."""

    def run(*words: object, out: str = "out") -> ComparisonResults:
        script = RECIPES / "compare.py"
        monkeypatch.setattr(sys, "argv", [str(w) for w in (script, *words, *QUIET, "--output_dir", tmp_path / out)])
        state = torch.random.get_rng_state()
        try:
            runpy.run_path(str(script), run_name="__main__")
        finally:
            torch.random.set_rng_state(state)
        return ComparisonResults.load(tmp_path / out)

    return run


@pytest.fixture(scope="session")
def opinions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More reviews than the other tests have: folds need rows of every class."""
    folder = tmp_path_factory.mktemp("opinions")
    for split, rows in (("train", 24), ("validation", 16), ("test", 8)):
        write_reviews(folder / f"{split}.csv", "book", ["pos", "neg"] * (rows // 2))
    return folder


@pytest.mark.parametrize(
    ("words", "model"), [((), "embedded:image"), (("--modality", "text"), "embedded:text")], ids=["image", "text"]
)
def test_without_a_model_it_takes_the_embedded_ones(run_it, words, model, tmp_path):
    results = run_it(*words, *SHORT, "--samples_per_class", 4, "--seeds", 1, "--strategies", "majority", "probe")
    assert results.best().strategy == "probe" and results.best().model == model
    assert f"--model_name_or_path {model}" in results.command
    assert (tmp_path / "out" / "report.html").is_file() and (tmp_path / "out" / "README.md").is_file()


def test_for_sound_too(run_it, monkeypatch, tmp_path):
    """The embedded model, untrained: its training is tested in tests/data/test_source_models.py."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("hf_transfer.data.source_models._make_audio_model", save_small_audio_model)
    few = ("--samples_per_class", 4, "--max_eval_samples", 40, "--seeds", 1, "--strategies", "majority", "probe")
    results = run_it("--modality", "audio", *SHORT, *few)
    assert results.best().strategy == "probe" and results.best().model == "embedded:audio"
    assert results.data["name"] == "embedded:tones" and results.data["rows"]["train"] == 32
    assert "--model_name_or_path embedded:audio --dataset_name embedded:tones" in results.command
    assert AutoFeatureExtractor.from_pretrained(tmp_path / "out").num_mel_bins == 32
    assert 'pipeline("audio-classification"' in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("name", ["compare.yaml", "compare_text.yaml", "compare_audio.yaml"])
def test_the_files_of_embedded_data_have_known_keys(name):
    from transformers import HfArgumentParser

    from hf_transfer.compare.arguments import CompareArguments, CompareLoopArguments
    from hf_transfer.recipe_arguments import DataArguments

    settings = yaml.safe_load((RECIPES / name).read_text())
    parser = HfArgumentParser([CompareArguments, DataArguments, CompareLoopArguments])  # pyright: ignore
    recipe, data, args = parser.parse_dict(settings)
    assert all(model.startswith("embedded:") for model in recipe.model_name_or_path)
    assert recipe.dataset_name.startswith("embedded:") and data.samples_per_class and args.finds_rates


def test_the_command_of_a_row_gives_the_same_row(run_it, text_model, opinions, tmp_path):
    words = ("--model_name_or_path", text_model, "--dataset_name", opinions, *SHORT, "--seeds", 2)
    results = run_it(*words, "--strategies", "majority", "scratch", "lora")
    [row] = [row for row in results.answer.rows if row.strategy == "lora"]
    assert row.command.startswith("accelerate launch recipes/compare.py ")
    alone = run_it(*shlex.split(row.command)[3:], out="alone")
    [again] = alone.answer.rows
    assert (again.strategy, again.seeds) == ("lora", row.seeds)
    assert (again.validation, again.test) == (row.validation, row.test)


def test_another_domain_and_a_teacher_bring_their_strategies(run_it, text_model, opinions, tmp_path):
    write_reviews(tmp_path / "pans" / "train.csv", "pan", ["pos", "neg"] * 10)
    write_reviews(tmp_path / "pans" / "test.csv", "pan", ["pos", "neg"] * 4)
    results = run_it(
        *("--model_name_or_path", text_model, "--dataset_name", opinions, "--target_dataset", tmp_path / "pans"),
        *("--teacher_name_or_path", text_model, *SHORT, "--strategies", "majority,full", "coral", "distillation"),
    )
    status = results.frame.set_index("strategy")["status"]
    assert status["coral"] == status["full"] == "finished"
    # a teacher of other classes fails alone, and says so
    assert status["distillation"] == "failed"
    assert results.data["rows"]["target"] == 16 and results.data["target_name"] == "pans"


def test_the_winner_can_be_loaded_and_nothing_of_the_machine_is_told(run_it, text_model, opinions, tmp_path):
    words = ("--model_name_or_path", text_model, "--dataset_name", opinions, *SHORT, "--strategies", "probe")
    run_it(*words)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert sorted(model.config.label2id) == ["neg", "pos"]
    text = (tmp_path / "out" / "results.json").read_text()
    stored = json.loads(text)
    # the commands repeat what was typed, and nothing else does
    for row in (stored, *stored["answer"]["rows"]):
        assert str(opinions) in row.pop("command")
    assert str(tmp_path) not in json.dumps(stored) and str(opinions) not in json.dumps(stored)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--load_best_model_at_end", "true"), "`--load_best_model_at_end True` in a comparison: every run keeps"),
        (("--strategies", "lroa"), "`lroa` is no strategy: .*lora"),
        (("--strategies", "dann"), "`dann` needs a target"),
        (("--budget", "soon"), "`--budget soon` is no time"),
    ],
)
def test_bad_options_are_refused_before_anything_is_trained(run_it, text_model, opinions, no_training, words, said):
    with pytest.raises(ValueError, match=said):
        run_it("--model_name_or_path", text_model, "--dataset_name", opinions, *SHORT, *words)


def test_bad_data_is_refused_before_anything_is_trained(run_it, text_model, no_training, tmp_path):
    write_reviews(tmp_path / "few" / "train.csv", "book", ["pos", "neg"] * 3)
    words = ("--model_name_or_path", text_model, "--dataset_name")
    with pytest.raises(ValueError, match="folds"):
        run_it(*words, tmp_path / "few", *SHORT)
    write_reviews(tmp_path / "one" / "train.csv", "book", ["pos"] * 12)
    with pytest.raises(ValueError, match="class"):
        run_it(*words, tmp_path / "one", *SHORT)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        run_it(*words, tmp_path / "none", *SHORT)


def test_a_folder_of_something_else_is_refused(run_it, text_model, opinions, no_training, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds `config.json` but no `comparison.json`"):
        run_it("--model_name_or_path", text_model, "--dataset_name", opinions, *SHORT)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["config.json"]


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # as in tests/test_push_to_hub.py
def test_the_winner_is_pushed_without_the_other_runs(run_it, text_model, opinions, tmp_path):
    with HubServer() as hub, hub.connected(tmp_path / "home"):
        words = ("--push_to_hub", "--hub_token", hub.token, "--hub_model_id", "user/best", "--strategies", "lora")
        run_it("--model_name_or_path", text_model, "--dataset_name", opinions, *SHORT, *words)
        files = hub.files("user/best")
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= set(files)
    assert not [name for name in files if name.startswith(("cells", "_")) or name.endswith((".bin", ".pt"))]
    card = files["README.md"].decode()
    assert "LoRA" in card and "load_adapter" in card
    assert not [name for name, content in files.items() if hub.token.encode() in content or b"/tmp" in content]
    assert hub.token not in (tmp_path / "out" / "results.json").read_text()


@pytest.mark.skipif(found() is None, reason="there is no Chromium with its driver")
def test_without_a_network_and_its_report_opens_in_a_browser(run_it, tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError("there is no network")

    with monkeypatch.context() as offline:
        offline.setattr("socket.socket.connect", refuse)
        offline.setattr("socket.getaddrinfo", refuse)
        names = ("--strategies", "majority", "scratch", "probe", "lora")
        run_it(*names, "--samples_per_class", 3, "--seeds", 2, "--max_steps", 3, "--learning_rate", 0.01)
    folder = tmp_path / "out"
    stored = json.loads((folder / "results.json").read_text())
    page = parsed((folder / "report.html").read_text())
    for row in stored["answer"]["rows"]:
        (line,) = page.all("tr", data_strategy=row["strategy"], data_status=row["status"])
        for split in ("validation", "test"):
            (cell,) = line.all("td", data_field=split)
            seen = [float(cell.get(f"data-{name}") or -1) for name in ("value", "low", "high")]
            assert seen == [row[split][name] for name in ("mean", "low", "high")]
    with browser(tmp_path / "browser") as driver:
        look(driver, 390, 844)
        address = (folder / "report.html").as_uri()
        driver.get(address)
        assert requests(driver) == [address] and complaints(driver) == []
        driver.save_screenshot(str(tmp_path / "report.png"))
        assert (tmp_path / "report.png").stat().st_size > 20_000
        assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
