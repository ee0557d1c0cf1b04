"""What a strategy made, in a folder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from hf_transfer.compare.execution.saved_models import save_fitted
from hf_transfer.compare.strategies.fine_tune import FineTune
from hf_transfer.compare.strategies.strategy import Fitted
from hf_transfer.model_card.storage import load_facts
from tests.compare.tiny_cells import TinySetup
from tests.models import lora


SCORES = {"validation_accuracy": 0.5, "test_accuracy": None}


def test_a_trained_model_opens_again_with_the_facts_of_its_run(tmp_path):
    setup: Any = TinySetup(tmp_path / "run", 3)
    fitted = FineTune(name="full", about="All weights.").fit(setup)
    folder = save_fitted(fitted, setup, tmp_path / "model", method="full", scores=SCORES)
    assert fitted.model is not None and fitted.trainer is not None
    assert fitted.trainer.args.output_dir == str(tmp_path / "run")
    again = AutoModelForSequenceClassification.from_pretrained(folder)
    for (name, one), two in zip(again.named_parameters(), fitted.model.parameters(), strict=True):
        assert torch.equal(one, two), name
    facts = load_facts(folder)
    assert facts is not None and facts.complete and facts.task == "text-classification"
    assert (facts.method, facts.seeds, len(facts.label_names)) == ("full", [3], 3)
    assert [(score.split, score.metric, score.value) for score in facts.scores] == [("validation", "accuracy", 0.5)]
    assert (folder / "tokenizer.json").is_file() and not (folder / "objectives.safetensors").exists()


def test_a_model_without_a_trainer_and_an_adapter(tmp_path):
    setup: Any = TinySetup(tmp_path, 1)
    folder = save_fitted(Fitted(setup.fresh(), trained_parameters=51), setup, tmp_path / "plain", method="own")
    assert AutoModelForSequenceClassification.from_pretrained(folder).num_labels == 3
    facts = load_facts(folder)
    assert facts is not None and (facts.trained_parameters, facts.base_model) == (51, "tiny") and not facts.complete
    adapted = lora(setup.fresh(), ["query", "value"], "classifier")
    folder = save_fitted(Fitted(adapted), setup, tmp_path / "adapter")
    assert (folder / "adapter_model.safetensors").is_file() and not (folder / "model.safetensors").exists()
    assert (folder / "tokenizer.json").is_file() and (folder / "task_config.json").is_file()


def test_what_cannot_be_saved_is_refused(tmp_path):
    setup: Any = TinySetup(tmp_path)
    with pytest.raises(TypeError, match=r"`Linear` has no `save_pretrained`.*Let `fit` of the strategy return"):
        save_fitted(Fitted(torch.nn.Linear(2, 3)), setup, tmp_path / "model")
