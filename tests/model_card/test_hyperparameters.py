"""Options of the loop in a card."""

from __future__ import annotations

from types import SimpleNamespace

from transformers import TrainingArguments

from hf_transfer.model_card.hyperparameters import hyperparameters
from tests.model_card.runs import arguments


STATE = SimpleNamespace(global_step=10, epoch=2.5)


def test_usual_options_and_what_was_changed(tmp_path):
    found = hyperparameters(arguments(tmp_path, head_lr=0.1, layer_decay=0.75, gradient_accumulation_steps=2), STATE)
    assert found["learning_rate"] == "0.01" and found["head_lr"] == "0.1" and found["layer_decay"] == "0.75"
    assert found["rows of a step"] == "8" and found["steps"] == "10" and found["epochs"] == "2.5"
    assert found["lr_scheduler_type"] == "linear" and not {"warmup_steps", "bf16", "output_dir"} & set(found)


def test_curve_of_ones_own_replaces_that_of_the_trainer(tmp_path):
    found = hyperparameters(arguments(tmp_path, lr_schedule="slanted_triangular"), STATE)
    assert found["lr_schedule"] == "slanted_triangular" and "lr_scheduler_type" not in found


def test_stock_arguments_do_as_well(tmp_path):
    args = arguments(tmp_path, of=TrainingArguments, hub_token="hf_dummyTokenOfTheTests", weight_decay=0.01)
    found = hyperparameters(args, STATE)
    assert found["weight_decay"] == "0.01" and "dummy" not in str(found)
