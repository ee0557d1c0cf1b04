"""Names for the public: no path, no user, no token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hf_transfer.data.source_models import source_model
from hf_transfer.model_card.naming import is_user_name, public_name, scrubbed, shown
from hf_transfer.schedules import linear
from hf_transfer.teacher import Teacher
from tests import models


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_hub_ids_stay(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("bert-base-uncased", "google/vit-base-patch16-224", "user/a.b_c"):
        assert public_name(name) == (name, name, None)


def test_folder_that_looks_like_a_hub_id_is_a_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user" / "mine").mkdir(parents=True)
    assert public_name("user/mine") == ("mine", None, None)


@pytest.mark.parametrize(
    "path", ["/data/secret/mine", "./secret/mine", "~/secret/mine", "../mine", "C:\\secret\\mine"]
)
def test_paths_are_shown_by_their_last_part(path):
    assert public_name(path) == ("mine", None, None)


def test_folder_of_the_hub_cache_is_the_model_at_its_commit():
    folder = f"/home/me/.cache/huggingface/hub/models--user--x/snapshots/{COMMIT}"
    assert public_name(folder) == ("user/x", "user/x", COMMIT)


def test_folder_of_an_embedded_model_has_its_name():
    assert public_name(source_model("text")) == ("embedded:text", None, None)
    assert public_name("embedded:digits/shifted") == ("embedded:digits/shifted", None, None)


@pytest.mark.parametrize("nothing", [None, ""])
def test_nothing_has_no_name(nothing):
    assert public_name(nothing) == (None, None, None)


@pytest.mark.parametrize(
    "value, text",
    [
        (1, "1"),
        (2.5e-5, "2.5e-05"),
        (True, "True"),
        (None, "None"),
        ("all", "all"),
        ("/data/secret/mine", "mine"),
        ("C:\\secret\\mine", "mine"),
        (Path("/data/secret/mine"), "mine"),
        (linear(0.0, 2.0), "linear(start=0.0, end=2.0)"),
        ((1, 0.5), "[1, 0.5]"),
        ({"b", "a"}, "[a, b]"),
        ({"r": 8, "at": "/data/secret/mine"}, "{r: 8, at: mine}"),
        (torch.nn.Linear(1, 1), "Linear(in_features=1, out_features=1, bias=True)"),
    ],
)
def test_settings_are_shown_plainly(value, text):
    assert shown(value) == text


def test_objects_without_a_name_of_their_own_show_no_address():
    assert shown(lambda progress: progress) == "<lambda>"
    assert shown(object()) == "object"
    assert shown("x" * 1000) == "x" * 200 + "..."


def test_teacher_is_shown_by_its_model():
    model = models.tiny_bert()
    model.config._name_or_path = "/data/secret/large"  # pyright: ignore
    count = sum(p.numel() for p in model.parameters())
    assert shown(Teacher(model)) == f"large (BertForSequenceClassification, {count:,} parameters)"
    assert "secret" not in shown([Teacher(model)])


def test_tokens_and_the_home_folder_are_scrubbed(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    text = scrubbed(f"{tmp_path}/models/mine and hf_dummyTokenOfTheTests, made with hf_transfer")
    assert text == "models/mine and hf_..., made with hf_transfer"


def test_user_name_is_known(monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "alice")
    assert is_user_name("alice") and not is_user_name("mine")


def test_machine_without_a_user_has_no_name(monkeypatch):
    def nobody():
        raise OSError("no user")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert not is_user_name("alice")
