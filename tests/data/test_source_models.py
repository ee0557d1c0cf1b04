from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    pipeline,
)

from hf_transfer.data import source_models, synthetic_tones
from hf_transfer.data.embedded import digits, reviews, tones
from hf_transfer.data.sound import samples
from hf_transfer.data.source_models import source_model


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HOME", str(tmp_path_factory.mktemp("hf_home")))
        yield Path(constants.HF_HOME)


def test_image_model_knows_its_digits(cache):
    folder = source_model("image")
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    assert model.config.id2label == {number: str(number) for number in range(5)}
    test = digits(range(5))["test"]
    inputs = AutoImageProcessor.from_pretrained(folder)(list(test["image"]), return_tensors="pt")
    with torch.no_grad():
        guesses = model(**inputs).logits.argmax(-1).numpy()
    assert np.mean(guesses == test["label"][:]) > 0.97


def test_image_model_in_a_pipeline(cache):
    classifier = pipeline("image-classification", model=str(source_model("image")))
    test = digits(range(5))["test"]
    names = test.features["label"].names
    assert [classifier(test[row]["image"])[0]["label"] for row in range(5)] == [names[n] for n in test["label"][:5]]


def accuracy(folder: Path, domain) -> float:
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    test = reviews(domain)["test"]
    with torch.no_grad():
        logits = model(**tokenizer(test["text"][:], padding=True, return_tensors="pt")).logits
    return float(np.mean(logits.argmax(-1).numpy() == test["label"][:]))


def test_text_model_knows_books_better_than_kitchens(cache):
    folder = source_model("text")
    assert accuracy(folder, "books") > 0.85
    assert 0.55 < accuracy(folder, "kitchen") < 0.75
    classifier = pipeline("text-classification", model=str(folder))
    assert classifier("What a gripping book! The plot is moving.")[0]["label"] == "positive"
    assert classifier("What a boring book! The plot is clumsy.")[0]["label"] == "negative"


def test_tokenizer_covers_both_domains(cache):
    tokenizer = AutoTokenizer.from_pretrained(source_model("text"))
    for domain in ("books", "kitchen"):
        ids = tokenizer(reviews(domain)["test"]["text"][:])["input_ids"]
        unknown = np.mean([token == tokenizer.unk_token_id for row in ids for token in row])
        assert unknown < 0.01 and max(map(len, ids)) <= tokenizer.model_max_length
    encoded = tokenizer("good book", "poor lid")
    assert encoded["token_type_ids"] == [0] * 4 + [1] * 3
    assert encoded["input_ids"][0] == tokenizer.cls_token_id and encoded["input_ids"][-1] == tokenizer.sep_token_id


def quick(monkeypatch: pytest.MonkeyPatch, home: Path) -> list[Path]:
    """A cache of its own and a maker that only writes a file; the list holds the folders it was called with."""
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        torch.rand(1)
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(constants, "HF_HOME", str(home))
    monkeypatch.setattr(source_models, "_make_image_model", make)
    return made


def test_made_once_and_under_its_final_name_only_when_complete(monkeypatch, tmp_path):
    made = quick(monkeypatch, tmp_path)
    folder = source_model("image")
    assert folder.parent == tmp_path / "hf_transfer" and made[0] != folder and not made[0].exists()
    assert source_model("image") == folder and len(made) == 1
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert folder.stat().st_mode & 0o777 == 0o755


def test_racing_processes_get_the_same_folder(monkeypatch, tmp_path):
    made = quick(monkeypatch, tmp_path)
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: source_model("image"), range(8)))
    assert len(set(folders)) == 1 and (folders[0] / "config.json").exists() and made
    assert len(list(folders[0].parent.iterdir())) == 1


def test_losing_the_race_is_no_error(monkeypatch, tmp_path):
    quick(monkeypatch, tmp_path)
    folder = source_model("image")
    winner = tmp_path / "winner"
    shutil.move(folder, winner)

    def make_slowly(unfinished: Path) -> None:
        (unfinished / "config.json").write_text("late")
        shutil.move(winner, folder)  # another process finishes in the meantime

    monkeypatch.setattr(source_models, "_make_image_model", make_slowly)
    monkeypatch.setattr(source_models, "_fingerprint", lambda: folder.name.rsplit("_", 1)[1])
    assert source_model("image") == folder and (folder / "config.json").read_text() == "{}"


def test_a_failure_leaves_nothing_behind(monkeypatch, tmp_path):
    quick(monkeypatch, tmp_path)

    def fail(folder: Path) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(source_models, "_make_image_model", fail)
    with pytest.raises(RuntimeError, match="no"):
        source_model("image")
    assert list((tmp_path / "hf_transfer").iterdir()) == []


def test_other_code_gets_another_folder(monkeypatch, tmp_path):
    quick(monkeypatch, tmp_path)
    before = source_model("image")

    def other(folder: Path) -> None:
        (folder / "config.json").write_text("other")

    monkeypatch.setattr(source_models, "_make_image_model", other)
    assert source_model("image") != before


def test_global_random_state_is_left_alone(monkeypatch, tmp_path):
    quick(monkeypatch, tmp_path)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    source_model("image")
    assert torch.equal(torch.get_rng_state(), before)


def test_unknown_kinds():
    with pytest.raises(ValueError, match='no source model of kind "video".*"image", "text" or "audio"'):
        source_model("video")  # type: ignore[arg-type]


def test_audio_model_knows_its_kinds_of_sound_and_works_in_a_pipeline(cache):
    folder = source_model("audio")
    kinds = synthetic_tones.KINDS[:4]
    test = tones(kinds)["test"]
    classifier = pipeline("audio-classification", model=str(folder))
    heard = [samples(sound, 16_000) for sound in test["audio"][:120]]
    answers = [answer[0]["label"] for answer in classifier(heard)]
    assert np.mean([answer == kinds[n] for answer, n in zip(answers, test["label"][:120], strict=True)]) > 0.7
