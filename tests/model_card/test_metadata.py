"""The header of a card: names that the Hub knows, and nothing that it would look up in vain."""

from __future__ import annotations

import math

import pytest
import yaml
from huggingface_hub import ModelCard

from hf_transfer.model_card import DataFacts, RunFacts, write_card
from hf_transfer.model_card.metadata import card_data
from tests.hub_server import HubServer
from tests.model_card.test_storage import full


def facts(**options) -> RunFacts:
    return RunFacts(**{"task": "text-classification", "model_name": "mine", **options})


def header(made: RunFacts) -> dict:
    return yaml.safe_load(card_data(made).to_yaml())


def test_base_and_data_on_the_hub_are_linked():
    data = [DataFacts("imdb", hub_id="user/imdb", config="plain")]
    made = facts(base_model="user/base", base_hub_id="user/base", relation="adapter", library="peft", data=data)
    made.add_scores({"test_accuracy": 0.5})
    found = header(made)
    assert (found["base_model"], found["base_model_relation"]) == ("user/base", "adapter")
    assert found["datasets"] == ["user/imdb"] and found["library_name"] == "peft"
    assert found["model-index"][0]["results"][0]["dataset"] == {
        "name": "imdb",
        "type": "user/imdb",
        "config": "plain",
        "split": "test",
    }


def test_names_that_are_not_on_the_hub_are_not_linked():
    found = header(facts(base_model="embedded:text", relation="finetune", data=[DataFacts("embedded:reviews")]))
    assert not {"base_model", "base_model_relation", "datasets", "license", "language"} & set(found)


def test_metrics_have_the_names_of_the_hub():
    made = facts(data=[DataFacts("mine")])
    scores = {"test_macro_f1": 0.5, "test_pearson": 0.4, "test_loss": 0.1, "test_precision": 0.3}
    made.add_scores(scores)
    assert header(made)["metrics"] == ["f1", "pearsonr", "precision"]


def test_scores_stand_under_the_data_of_their_role():
    made = facts(data=[DataFacts("books", "source"), DataFacts("kitchen", "target")])
    made.add_scores({"source_accuracy": 0.9, "target_accuracy": 0.8, "eval_accuracy": 0.7})
    results = header(made)["model-index"][0]["results"]
    found = [(own["dataset"]["name"], own["dataset"]["split"], own["metrics"][0]["value"]) for own in results]
    assert found == [("books (source)", "test", 0.9), ("kitchen (target)", "test", 0.8), ("books", "validation", 0.7)]


def test_several_targets_are_told_apart():
    made = facts(data=[DataFacts("a", "source"), DataFacts("b", "target"), DataFacts("c", "target")])
    made.add_scores({"target_0_accuracy": 0.9, "target_1_accuracy": 0.8})
    names = [own["dataset"]["name"] for own in header(made)["model-index"][0]["results"]]
    assert names == ["b (target)", "c (target)"]


def test_without_a_data_set_or_a_task_there_is_no_index():
    made = facts()
    made.add_scores({"test_accuracy": 0.9})
    assert "model-index" not in header(made)
    assert "model-index" not in header(facts(task=None, data=[DataFacts("mine")]))


def test_score_that_is_not_finite_is_left_out():
    made = facts(data=[DataFacts("mine")])
    made.add_scores({"test_accuracy": 0.9})
    made.scores[0].value = math.nan
    assert "model-index" not in header(made)


def test_regression_is_a_text_classification_of_the_hub():
    assert header(facts(task="regression"))["pipeline_tag"] == "text-classification"


def test_kind_of_adapter_is_a_tag():
    assert header(facts(adapters={"type": "LoRA with DoRA"}))["tags"][2:] == ["lora"]


@pytest.mark.parametrize("made", [RunFacts(), full()])
def test_the_hub_takes_the_header(made, tmp_path):
    card = ModelCard.load(write_card(made, tmp_path))
    with HubServer() as hub, hub.connected(tmp_path / "home"):
        card.validate()
        assert hub.routes() == ["validate_yaml"]
