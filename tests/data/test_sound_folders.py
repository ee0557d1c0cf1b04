from __future__ import annotations

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
from datasets import Audio, DatasetDict, load_dataset
from PIL import Image

from hf_transfer.data.loading import load_splits
from hf_transfer.data.reading import read_splits
from hf_transfer.data.sound import samples
from hf_transfer.data.sound_folders import load_without_torchcodec, needs_torchcodec


def write(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.full(800, 0.1 * (number + 1)), 8000)
    return folder


def test_recordings_in_class_folders(tmp_path):
    write(
        tmp_path, *(f"{split}/{kind}/{n}.wav" for split in ("train", "test") for kind in ("dog", "cat") for n in "ab")
    )
    data = load_splits(tmp_path)
    assert data.task == "audio-classification" and data.input_columns == ("audio",)
    assert data.label_names == ("cat", "dog") and len(data.train) == 4 and data.test is not None
    row = data.train[0]["audio"]
    assert row["bytes"] is None and Path(row["path"]).is_file()
    kept = data.with_validation(0.5, seed=0)
    assert kept.eval is not None and sorted(kept.eval["label"][:]) == [0, 1]


def test_recordings_listed_in_a_file(tmp_path):
    write(tmp_path, "a.wav", "b.flac")
    rows = [{"file_name": "a.wav", "mood": "sad"}, {"file_name": "b.flac", "mood": "gay"}]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = load_splits(tmp_path, label_column="mood")
    assert data.label_names == ("gay", "sad") and [row["label"] for row in data.train] == [1, 0]


def test_a_set_that_was_saved_and_one_in_parquet(tmp_path):
    splits = read_splits(write(tmp_path / "wavs", "dog/a.wav", "cat/b.wav"))
    assert isinstance(splits["train"].features["audio"], Audio)
    stored = splits["train"].cast_column("audio", Audio(decode=False))
    DatasetDict(train=stored).save_to_disk(tmp_path / "saved")
    stored.to_parquet(tmp_path / "parquet.parquet")
    for path in ("saved", "parquet.parquet"):
        data = load_splits(tmp_path / path)
        assert data.task == "audio-classification" and len(samples(data.train[0]["audio"], 8000)) == 800


def test_images_and_sound_in_one_folder_are_refused(tmp_path):
    write(tmp_path, "dog/a.wav", "dog/b.wav", "cat/c.wav")
    Image.new("RGB", (4, 4)).save(tmp_path / "cat" / "c.png")
    message = r"holds 1 files of images \(`c.png`\) and 3 files of sound .*left out without a word. Put them into"
    with pytest.raises(ValueError, match=message):
        load_splits(tmp_path)


def test_a_folder_of_files_with_other_endings_is_refused(tmp_path):
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "a.m4a").touch()
    with pytest.raises(FileNotFoundError, match="no file that is read; the endings in it are `.m4a`.*to WAV or FLAC"):
        load_splits(tmp_path)


@pytest.mark.skipif(datasets.config.TORCHCODEC_AVAILABLE, reason="datasets reads folders of sound itself")
def test_the_reason_for_reading_them_otherwise_is_still_there(tmp_path):
    """When this fails, `sound_folders` may go."""
    with pytest.raises(datasets.exceptions.DatasetGenerationError) as error:
        load_dataset(str(write(tmp_path, "dog/a.wav", "cat/b.wav")))
    assert needs_torchcodec(error.value) and not needs_torchcodec(ValueError("torchcodec"))


def test_other_data_are_not_read_that_way(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na,0\n")
    with pytest.raises(ImportError, match=r"holds sound in a form \(Csv\) for which `datasets` takes torchcodec.*Run"):
        load_without_torchcodec("csv", data_files=str(tmp_path / "a.csv"))
