"""What the words of the command line stand for, and how predictions are written."""

from __future__ import annotations

import csv
import json
import os
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import Wav2Vec2FeatureExtractor

from hf_transfer.adapters.saving import save_adapter
from hf_transfer.classify import ClassificationArguments, classify, read_inputs, write_predictions
from tests.models import tiny_wav2vec2


ROWS = [
    {"input": 'a "b", c', "label": "x|y", "probability": 0.75, "probabilities": {"x|y": 0.75, "ä": 0.25}},
    {"input": "line\nbreak", "label": "ä", "probability": 0.5, "probabilities": {"x|y": 0.5, "ä": 0.5}},
]


@pytest.fixture
def pictures(tmp_path):
    for name in ("b.png", "sub/a.JPG", "c.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name, format="PNG")
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_folder_of_images_in_order(pictures):
    found = read_inputs([str(pictures)], "images")
    assert found == [str(pictures / name) for name in ("b.png", "c.webp", "sub/a.JPG")]
    assert read_inputs([str(pictures / "c.webp"), str(pictures / "b.png")], "images") == [found[1], found[0]]


def test_sentences_and_files_of_them(tmp_path):
    (tmp_path / "more.txt").write_bytes("\ufeffGrün.\r\n\r\n  \nRot.\n".encode())
    found = read_inputs(["First.", str(tmp_path / "more.txt"), " ", "Is 3.5 more?"], "sentences")
    assert found == ["First.", "Grün.", "Rot.", "Is 3.5 more?"]


def test_folder_of_recordings_in_order(pictures):
    for name in ("b.wav", "a.FLAC", "notes.mid"):
        (pictures / name).touch()
    assert read_inputs([str(pictures)], "recordings") == [str(pictures / name) for name in ("a.FLAC", "b.wav")]
    with pytest.raises(FileNotFoundError, match="is no file and no folder, and the adapter classifies recordings"):
        read_inputs(["gone.wav"], "recordings")
    with pytest.raises(
        ValueError, match="the name of a recording, and the adapter classifies text.*adapter for sound"
    ):
        read_inputs(["bark.wav"], "sentences")


@pytest.mark.parametrize("kind", ["images", "recordings", "sentences"])
def test_nothing_to_classify(tmp_path, kind):
    words = [" "] if kind == "sentences" else [str(tmp_path)]
    with pytest.raises(ValueError, match=f"There are no {kind} in .*: nothing can be classified. Pass"):
        read_inputs(words, kind)


def test_what_does_not_fit_the_adapter(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no file and no folder, and the adapter classifies images"):
        read_inputs(["A fine pan."], "images")
    with pytest.raises(ValueError, match="is the name of an image, and the adapter classifies text"):
        read_inputs(["photo.png"], "sentences")
    with pytest.raises(FileNotFoundError, match="The file `missing.txt` does not exist"):
        read_inputs(["missing.txt"], "sentences")
    (tmp_path / "latin.txt").write_bytes("Grün".encode("latin-1"))
    with pytest.raises(ValueError, match="is no UTF-8 text .*Save it as UTF-8"):
        read_inputs([str(tmp_path / "latin.txt")], "sentences")


def test_json_lines(tmp_path):
    write_predictions(ROWS, tmp_path / "out.jsonl")
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == ROWS


def test_csv(tmp_path):
    write_predictions(ROWS, tmp_path / "deep" / "out.csv")
    with open(tmp_path / "deep" / "out.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["input"] for row in rows] == [row["input"] for row in ROWS]
    assert list(rows[0]) == ["input", "label", "probability", "probability of x|y", "probability of ä"]
    assert float(rows[1]["probability of ä"]) == 0.5


def test_csv_of_several_labels(tmp_path):
    write_predictions([{"input": "a", "labels": ["x", "y"]}, {"input": "b", "labels": []}], tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == b"input,labels\r\na,x|y\r\nb,\r\n"


def test_an_error_leaves_the_old_file(tmp_path, monkeypatch):
    write_predictions(ROWS, tmp_path / "out.csv")
    before = (tmp_path / "out.csv").read_bytes()

    def broken(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="No space"):
        write_predictions(ROWS[:1], tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_an_adapter_for_sound_classifies_a_folder_of_recordings(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_transfer.classify.show_messages", lambda: None)  # the handler would outlive the test
    torch.manual_seed(0)
    base: Any = tiny_wav2vec2()
    base.save_pretrained(tmp_path / "base")
    model: Any = get_peft_model(
        base, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["projector", "classifier"])
    )
    with torch.no_grad():
        model.base_model.model.classifier.modules_to_save["default"].bias.copy_(torch.tensor([0.0, 9.0, 0.0]))
    save_adapter(model, tmp_path / "adapter", processor=Wav2Vec2FeatureExtractor())
    (tmp_path / "heard").mkdir()
    for name in ("b.wav", "a.flac"):
        soundfile.write(tmp_path / "heard" / name, np.random.default_rng(0).uniform(-0.5, 0.5, 900), 16000)
    given = ClassificationArguments(
        str(tmp_path / "adapter"),
        [str(tmp_path / "heard")],
        base_model=str(tmp_path / "base"),
        output_file=str(tmp_path / "out.jsonl"),
    )
    rows = classify(given)
    assert [row["input"] for row in rows] == [str(tmp_path / "heard" / name) for name in ("a.flac", "b.wav")]
    assert [row["label"] for row in rows] == ["LABEL_1"] * 2 and rows[0]["probability"] > 0.9
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == rows


def test_options_are_checked_before_anything_is_loaded():
    with pytest.raises(ValueError, match="`--output_file out.xlsx` ends in `.xlsx`.*Name a .csv file"):
        ClassificationArguments("user/x", ["a"], output_file="out.xlsx")
    with pytest.raises(ValueError, match="`--batch_size 0` leaves no input"):
        ClassificationArguments("user/x", ["a"], batch_size=0)
