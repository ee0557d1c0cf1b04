"""The filled cards of `model_cards/`: what the default runs of the recipes leave, as the templates are now."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hf_transfer.model_card.templates import template_text
from hf_transfer.model_card.writing import is_ours


ROOT = Path(__file__).parents[2]
DATA_CARD = ROOT / "model_cards" / "extract_features.md"
CARDS = sorted(path for path in (ROOT / "model_cards").glob("*.md") if path != DATA_CARD)
TRAINING_RECIPES = (
    "adapters",
    "compare",
    "distillation",
    "domain_adaptation",
    "feature_extraction",
    "few_shot",
    "finetune",
    "multitask",
    "select_source",
    "time_series",
)


def headings(text: str) -> list[str]:
    return re.findall(r"^#{2,3} (.+)$", text, flags=re.MULTILINE)


def test_every_recipe_that_trains_has_a_card():
    assert [path.stem for path in CARDS] == list(TRAINING_RECIPES)
    assert all((ROOT / "recipes" / f"{name}.yaml").is_file() for name in TRAINING_RECIPES)


@pytest.fixture(params=CARDS, ids=lambda path: path.stem)
def card(request) -> str:
    return request.param.read_text(encoding="utf-8")


def test_card_was_written_by_the_run_and_not_changed(card):
    assert is_ours(card)


def test_sections_are_those_of_the_template_in_their_order(card):
    known = headings(template_text("model"))
    found = headings(card)
    assert found == [heading for heading in known if heading in found]
    assert {"How to load it", "Results", "How it was transferred", "Data", "Training", "Limits"} <= set(found)


def test_header_is_read_back(card):
    data = ModelCard(card).data.to_dict()
    assert data["library_name"] in ("transformers", "peft") and data["model-index"][0]["results"]
    metric = {"image-classification": "accuracy", "text-classification": "accuracy", "time-series-forecasting": "mse"}
    assert metric[data["pipeline_tag"]] in data["metrics"]


def test_code_compiles(card):
    blocks = re.findall(r"^```python\n(.*?)^```", card, flags=re.MULTILINE | re.DOTALL)
    assert blocks
    for code in blocks:
        compile(code, "card", "exec")


def test_nothing_of_the_machine_is_told(card):
    assert not re.search(r"(?<![\w.])/(home|root|tmp|Users|work|data|var|mnt)\b|[A-Z]:\\", card)
    assert not re.search(r"0x[0-9a-f]{6}|\bhf_[A-Za-z0-9]{16}", card)


def test_no_line_is_a_gap(card):
    assert "nformation needed" not in card and "\n\n\n" not in card
    assert not re.search(r"\bNone\b|\[\]|\{\}|\bnan\b", card)


def test_features_have_the_card_of_a_data_set():
    text = DATA_CARD.read_text(encoding="utf-8")
    assert is_ours(text) and "| `features` | what enters the head |" in text and "| `id` |" in text
    known = headings(template_text("data"))
    assert headings(text) == [heading for heading in known if heading in headings(text)]
    test_nothing_of_the_machine_is_told(text)
