"""Cards of data sets that a model has made."""

from __future__ import annotations

import pytest
import yaml
from huggingface_hub import DatasetCard

from hf_transfer.model_card import DataCardFacts, write_data_card
from tests.hub_server import HubServer


def facts(**options) -> DataCardFacts:
    defaults = {
        "name": "mine",
        "source": "user/rows",
        "model": "/data/secret/net",
        "settings": {"pooling": "mean", "from": "/data/secret/rows"},
        "columns": {"features": "what the head is given"},
        "splits": {"train": 1200, "test": 300},
        "label_names": ["no", "yes"],
        "repo_id": "user/mine",
        "limits": ["A limit."],
    }
    return DataCardFacts(**{**defaults, **options})


def test_everything_is_told_and_no_path(tmp_path):
    text = write_data_card(facts(), tmp_path).read_text(encoding="utf-8")
    for said in ("| train | 1,200 |", "| `features` | what the head is given |", "`net`", "| `pooling` | mean |"):
        assert said in text
    assert "secret" not in text and "[user/rows](https://huggingface.co/datasets/user/rows)" in text
    assert 'load_dataset("user/mine")' in text and "2 classes: `no`, `yes`." in text and "- A limit." in text


def test_header_names_source_and_size(tmp_path):
    text = write_data_card(facts(), tmp_path).read_text(encoding="utf-8")
    header = yaml.safe_load(text.split("---")[1])
    assert header["source_datasets"] == ["user/rows"] and header["size_categories"] == "1K<n<10K"
    assert header["tags"] == ["hf_transfer", "features"]


def test_what_is_missing_is_left_out(tmp_path):
    text = write_data_card(DataCardFacts("mine", kind="Rows of my own."), tmp_path).read_text(encoding="utf-8")
    assert "Rows of my own." in text and "##" not in text and "None" not in text


@pytest.mark.parametrize("rows, size", [(999, "n<1K"), (1000, "1K<n<10K"), (10**8, "n>10M")])
def test_size_is_that_of_all_splits(tmp_path, rows, size):
    text = write_data_card(facts(splits={"train": rows - 1, "test": 1}), tmp_path).read_text(encoding="utf-8")
    assert yaml.safe_load(text.split("---")[1])["size_categories"] == size


def test_words_of_a_person_are_kept(tmp_path):
    (tmp_path / "README.md").write_text("# My words\n")
    text = write_data_card(facts(), tmp_path).read_text(encoding="utf-8")
    assert "# My words" in text and "hf_transfer" in text.split("---")[1]


def test_the_hub_takes_the_header(tmp_path):
    card = DatasetCard.load(write_data_card(facts(), tmp_path))
    with HubServer() as hub, hub.connected(tmp_path / "home"):
        card.validate()
