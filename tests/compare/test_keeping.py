"""The model of one run, put into the output folder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoTokenizer

from hf_transfer.compare.keeping import keep_model
from hf_transfer.data.loading import TransferData
from hf_transfer.hub import push_result
from hf_transfer.recipe_arguments import LoopArguments
from hf_transfer.trainer import TransferTrainer
from tests.models import tiny_bert
from tests.test_models import saved, tokenizer


NAMES = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}, "num_labels": 2}


def data() -> TransferData:
    rows = Dataset.from_dict({"text": ["good"], "label": [0]})
    return TransferData(rows, rows, None, "text-classification", ("text",), ("no", "yes"))


@pytest.fixture
def pushes(monkeypatch):
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(TransferTrainer, "push_to_hub", lambda self, **options: found.append(options))
    return found


def loop(tmp_path, **options: Any) -> LoopArguments:
    return LoopArguments(output_dir=str(tmp_path / "out"), use_cpu=True, **options)


def test_the_model_and_its_processor_are_in_the_output_folder(tmp_path, pushes):
    model: Any = tiny_bert(**NAMES)
    run = saved(tmp_path / "out" / "kd" / "seed_0", model, tokenizer())
    args = loop(tmp_path, load_best_model_at_end=True)
    assert args.load_best_model_at_end and args.eval_strategy == "epoch"
    kept: Any = keep_model(run, data(), args).model
    assert not args.load_best_model_at_end and args.eval_strategy == "no"
    before, after = load_file(run / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert all(torch.equal(value, before[name]) for name, value in kept.state_dict().items() if name in before)
    assert kept.config.id2label == NAMES["id2label"] and next(kept.parameters()).device == args.device
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("good")["input_ids"] == [1]
    assert not pushes and not list((tmp_path / "out").glob("checkpoint-*"))


def test_it_is_pushed_where_that_is_asked_for(tmp_path, pushes, monkeypatch):
    monkeypatch.setattr(TransferTrainer, "init_hf_repo", lambda self, **options: None)
    run = saved(tmp_path / "run", tiny_bert(**NAMES), tokenizer())
    trainer = keep_model(run, data(), loop(tmp_path, push_to_hub=True, hub_model_id="a/b"))
    assert not pushes  # the reports are not written yet
    push_result(trainer, tasks="text-classification")
    assert pushes == [{"tasks": "text-classification"}]
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_run_whose_model_is_gone(tmp_path):
    with pytest.raises(FileNotFoundError, match="kd/seed_0` does not exist"):
        keep_model(tmp_path / "out" / "kd" / "seed_0", data(), loop(tmp_path))
    assert not (tmp_path / "out" / "config.json").exists()
