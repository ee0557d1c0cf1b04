"""What is read off a trainer, and what is left to those who know better."""

from __future__ import annotations

import pytest
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments

from hf_transfer import L2SP, FreezeBackbone, Mixout, UnfreezingSchedule
from hf_transfer.model_card import DataFacts, RunFacts
from hf_transfer.model_card.parameters import count
from hf_transfer.model_card.reading import read_run
from tests import models
from tests.invariants.run import rows
from tests.model_card.runs import arguments, tokenizer, trained, trainer


def test_facts_of_a_run(tmp_path):
    made = trained(tmp_path / "mine", processing_class=tokenizer(tmp_path / "words"), objectives=[L2SP(weight=0.1)])
    facts = read_run(made)
    assert facts.complete and facts.model_name == "mine" and facts.task == "text-classification"
    assert (facts.model_class, facts.library, facts.relation) == (
        "BertForSequenceClassification",
        "transformers",
        None,
    )
    assert facts.parameters == facts.trained_parameters == count(made.model)
    assert facts.label_names == ["LABEL_0", "LABEL_1", "LABEL_2"] and facts.inputs == ["text"]
    assert facts.formula == "loss = task + 0.1 * l2sp\ntask = cross-entropy" and len(facts.terms) == 1
    assert facts.seeds == [42] and facts.hyperparameters["steps"] == "2"
    assert facts.seconds is not None and facts.seconds > 0 and facts.running_statistics is False
    assert facts.data == [DataFacts("", splits={"train": 8})] and "1802.01483" in facts.papers[0]


def test_base_is_what_the_weights_come_from(tmp_path):
    models.tiny_bert().save_pretrained(tmp_path / "base")  # pyright: ignore[reportCallIssue]
    model = type(models.tiny_bert()).from_pretrained(tmp_path / "base")  # pyright: ignore[reportAttributeAccessIssue]
    facts = read_run(trained(tmp_path / "mine", model))
    assert (facts.base_model, facts.base_hub_id, facts.relation) == ("base", None, "finetune")
    assert facts.strategy[0] == "It starts from `base`."


def test_folder_of_the_run_is_no_base(tmp_path):
    models.tiny_bert().save_pretrained(tmp_path)  # pyright: ignore[reportCallIssue]
    model = type(models.tiny_bert()).from_pretrained(tmp_path)  # pyright: ignore[reportAttributeAccessIssue]
    assert read_run(trainer(tmp_path, model)).base_model is None


def test_license_and_language_are_those_of_the_base(tmp_path):
    models.tiny_bert().save_pretrained(tmp_path / "base")  # pyright: ignore[reportCallIssue]
    (tmp_path / "base" / "README.md").write_text("---\nlicense: mit\nlanguage: fr\n---\n# x")
    model = type(models.tiny_bert()).from_pretrained(tmp_path / "base")  # pyright: ignore[reportAttributeAccessIssue]
    facts = read_run(trainer(tmp_path / "mine", model))
    assert (facts.license, facts.language) == ("mit", ["fr"])
    assert read_run(trainer(tmp_path / "mine")).license is None


def test_what_is_given_wins_and_is_not_changed(tmp_path):
    made = trained(tmp_path)
    made.facts = RunFacts(task="regression", strategy=["Mine."], papers=["A paper"], hyperparameters={"mixout": "0.9"})
    facts = read_run(made)
    assert facts.task == "regression" and facts.strategy[-1] == "Mine." and len(facts.strategy) > 1
    assert facts.papers == ["A paper"] and facts.hyperparameters["mixout"] == "0.9" and "seed" in facts.hyperparameters
    assert made.facts == RunFacts(
        task="regression", strategy=["Mine."], papers=["A paper"], hyperparameters={"mixout": "0.9"}
    )


def test_complete_facts_are_taken_as_they_are(tmp_path):
    facts = read_run(trained(tmp_path / "mine"), RunFacts(formula="loss = other", complete=True))
    assert facts.formula == "loss = other" and facts.strategy == [] and facts.model_name == "mine"


def test_trainer_that_only_saves_claims_no_training(tmp_path):
    facts = read_run(trainer(tmp_path))
    assert facts.formula is None and facts.hyperparameters == {} and facts.seeds == [] and facts.seconds is None
    assert facts.strategy == ["It starts from random weights."] and facts.trained_parameters is None


def test_frozen_backbone_trains_its_head(tmp_path):
    facts = read_run(trained(tmp_path, callbacks=[FreezeBackbone(), Mixout(probability=0.5)]))
    assert facts.trained_parameters == 16 * 3 + 3 and facts.unfreezing is not None
    assert any("only the head trained" in said for said in facts.strategy)
    assert any(said.startswith("Mixout:") and "probability 0.5" in said for said in facts.strategy)


def test_phases_of_ones_own_are_counted(tmp_path):
    schedule = UnfreezingSchedule([{"train": ["head"]}, {"step": 1, "train": ["head", "block.-1"]}])
    facts = read_run(trained(tmp_path, callbacks=[schedule]))
    assert any("in 2 phases" in said for said in facts.strategy)


def test_choice_of_an_epoch_is_told_and_its_scores_are_those_of_the_best(tmp_path):
    args = arguments(
        tmp_path, eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, load_best_model_at_end=True
    )
    callbacks = [EarlyStoppingCallback(early_stopping_patience=3)]
    made = trained(tmp_path, args=args, eval_dataset=rows(6, 1, True, False), callbacks=callbacks)
    facts = read_run(made)
    assert any("the best loss was kept; training stops after 3" in said for said in facts.strategy)
    (loss,) = [own for own in facts.scores if own.metric == "loss"]
    assert loss.value == pytest.approx(min(e["eval_loss"] for e in made.state.log_history if "eval_loss" in e))


def test_stock_trainer_is_read_too(tmp_path):
    facts = read_run(trained(tmp_path, of=Trainer, args=arguments(tmp_path, of=TrainingArguments, warmup_steps=1)))
    assert facts.formula == "loss = cross-entropy" and facts.hyperparameters["warmup_steps"] == "1"


def test_batch_norm_is_noticed(tmp_path):
    assert read_run(trainer(tmp_path, models.tiny_resnet(), train_dataset=rows(8, 0, True, True))).running_statistics


def test_user_name_is_no_title(tmp_path, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "alice")
    assert read_run(trainer(tmp_path / "alice")).model_name is None
