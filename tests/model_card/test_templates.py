"""Templates are found in a checkout and in a wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, ModelCardData

from hf_transfer.model_card import templates
from hf_transfer.model_card.templates import render, template_text


ROOT = Path(templates.__file__).parents[2]
SHIPPED = {"model.md.jinja", "data.md.jinja"}


def test_every_template_is_shipped():
    assert {path.name for path in (ROOT / "model_cards").glob("*.jinja")} == SHIPPED
    assert all(template_text(name) for name in ("model", "data"))


def test_checkout_without_links_takes_the_folder_beside_the_package(tmp_path, monkeypatch):
    package = tmp_path / "hf_transfer"
    package.mkdir()
    (package / "model_cards").write_text("../model_cards")  # what git leaves where there are no links
    shutil.copytree(ROOT / "model_cards", tmp_path / "model_cards")
    monkeypatch.setattr(templates, "PACKAGE", package)
    assert template_text("model") == (ROOT / "model_cards" / "model.md.jinja").read_text(encoding="utf-8")


def test_gaps_are_closed():
    card = render(
        ModelCard, ModelCardData(license="mit"), "---\n{{ card_data }}\n---\n\n\n\n# {{ name }}\n\n\n", {"name": "x"}
    )
    assert str(card) == "---\nlicense: mit\n---\n\n# x\n"


def test_without_jinja_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r'`jinja2` is not installed.*pip install "hf-transfer-learning\[recipes\]"'):
        render(ModelCard, ModelCardData(), "", {})


@pytest.mark.slow
def test_templates_are_in_the_wheel(tmp_path):
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("hf_transfer", "model_cards"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, checkout / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-build-isolation",
        "--no-deps",
        "--no-index",
        "-w",
        "wheels",
        ".",
    ]
    done = subprocess.run(build, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = (checkout / "wheels").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"hf_transfer/model_cards/{name}" for name in SHIPPED} <= names
    assert "hf_transfer/py.typed" in names
