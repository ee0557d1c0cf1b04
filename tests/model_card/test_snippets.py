"""Code of cards, for every task; that it runs is tested with whole cards."""

from __future__ import annotations

import pytest

from hf_transfer.model_card import RunFacts
from hf_transfer.model_card.snippets import hub_task, snippets


TASKS = ("image-classification", "text-classification", "token-classification", "audio-classification", "regression")


def facts(**options) -> RunFacts:
    return RunFacts(**{"processor": "Any", "library": "transformers", "label_names": ["a", "b"], **options})


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("library", ["transformers", "peft"])
@pytest.mark.parametrize("processor", ["Any", None])
def test_code_compiles_and_names_the_model(task, library, processor):
    made = snippets(facts(task=task, library=library, processor=processor, base_hub_id="user/base"), "user/x")
    assert len(made) == (2 if library == "peft" else 1)
    for needs, code in made:
        compile(code, needs, "exec")
        assert '"user/x"' in code and hub_task(task) is not None


def test_regression_keeps_its_numbers():
    assert 'function_to_apply="none"' in snippets(facts(task="regression"), "x")[0][1]


def test_pairs_of_texts_are_given_as_pairs():
    code = snippets(facts(task="text-classification", inputs=["text", "text_pair"]), "x")[0][1]
    assert '"text_pair": "Another."' in code


def test_peft_alone_needs_a_base_on_the_hub():
    assert len(snippets(facts(task="text-classification", library="peft", base_model="embedded:text"), "x")) == 1


def test_base_in_a_folder_is_named_by_whoever_loads():
    made = snippets(facts(task="text-classification", library="peft", base_model="mine"), "x")
    assert len(made) == 1 and 'load_adapter("x", base_model="mine")' in made[0][1]


def test_base_is_taken_at_its_commit():
    options = {"library": "peft", "base_hub_id": "user/base", "base_revision": "abc"}
    assert 'revision="abc"' in snippets(facts(task="text-classification", **options), "x")[1][1]


@pytest.mark.parametrize("task", [None, "object-detection"])
def test_for_other_tasks_there_is_no_code(task):
    assert snippets(facts(task=task), "x") == []
