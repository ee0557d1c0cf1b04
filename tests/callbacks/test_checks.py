from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau, StepLR
from transformers import RoFormerConfig, RoFormerForSequenceClassification
from transformers.training_args import ParallelMode

from hf_transfer.callbacks.checks import (
    check_arguments,
    check_checkpointing,
    check_evaluation,
    check_metrics,
    check_scheduler,
    check_thawable,
)
from hf_transfer.callbacks.phases import parse_phases
from tests.callbacks.harness import seeded
from tests.models import lora


def stub(**options) -> SimpleNamespace:
    """The training arguments that the checks read."""
    defaults = {
        "deepspeed": None,
        "fsdp": [],
        "n_gpu": 0,
        "parallel_mode": ParallelMode.NOT_PARALLEL,
        "gradient_checkpointing": False,
        "ddp_find_unused_parameters": None,
        "ddp_static_graph": None,
        "eval_strategy": "no",
    }
    return SimpleNamespace(**{**defaults, **options})


def checkpointed(model: nn.Module, *, reentrant: bool) -> nn.Module:
    # The second name is that of transformers before 5.23.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})
    return model


DDP = {"parallel_mode": ParallelMode.DISTRIBUTED}


@pytest.mark.parametrize(
    "options",
    [
        {},
        DDP,
        {**DDP, "ddp_find_unused_parameters": True, "gradient_checkpointing": True},
        {**DDP, "fsdp": ["full_shard"]},
    ],
)
def test_what_works_is_let_through(options):
    check_arguments(stub(**options), seeded())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deepspeed": "zero2.json"}, "DeepSpeed .* use DDP or FSDP2"),
        ({"parallel_mode": ParallelMode.NOT_DISTRIBUTED, "n_gpu": 2}, "`nn.DataParallel` on 2 devices .* `torchrun`"),
        (
            {**DDP, "ddp_find_unused_parameters": False},
            r"\(it is set to False\) .* pass ddp_find_unused_parameters=True\.",
        ),
        (
            {**DDP, "gradient_checkpointing": True},
            r"checkpointing turns it off\) .* pass ddp_find_unused_parameters=True and .*use_reentrant': False",
        ),
        ({**DDP, "ddp_static_graph": True}, "static graph .* leave `ddp_static_graph` out"),
    ],
)
def test_arguments_under_which_thawing_fails_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        check_arguments(stub(**options), seeded())


def test_deepspeed_is_seen_in_the_environment_of_accelerate(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ValueError, match="DeepSpeed"):
        check_arguments(stub(), seeded())


def test_checkpointing_switched_on_by_hand_is_seen_under_ddp():
    with pytest.raises(ValueError, match="activation checkpointing turns it off"):
        check_arguments(stub(**DDP), checkpointed(seeded(), reentrant=False))


def test_the_trainer_looks_for_unused_parameters_of_peft_models_whatever_the_checkpointing():
    check_arguments(stub(**DDP, gradient_checkpointing=True), lora(seeded(), ["query"], "classifier"))


def test_only_reentrant_checkpointing_is_refused():
    check_checkpointing(seeded())
    check_checkpointing(checkpointed(seeded(), reentrant=False))
    model = checkpointed(seeded(), reentrant=True)
    with pytest.raises(
        ValueError, match=r"use_reentrant=True .* pass \w+_checkpointing_kwargs=.'use_reentrant': False"
    ):
        check_checkpointing(model)
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.gradient_checkpointing = False
    check_checkpointing(model)


def test_schedulers_that_compute_a_rate_from_the_last_are_refused():
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    scheduler = LambdaLR(optimizer, lambda step: 1.0)
    assert check_scheduler(scheduler) is scheduler
    for other in (StepLR(optimizer, 1), ReduceLROnPlateau(optimizer)):
        with pytest.raises(ValueError, match=rf"but {type(other).__name__} computes .* use an `lr_scheduler_type`"):
            check_scheduler(other)


def test_waiting_for_a_metric_needs_evaluations():
    waiting = parse_phases([{"train": "head"}, {"when": "loss", "train": "all"}])
    check_evaluation(stub(eval_strategy="steps"), waiting)
    check_evaluation(stub(), waiting[:1])
    with pytest.raises(ValueError, match="waits for eval_loss plateau .* eval_strategy is 'no' .* set eval_strategy"):
        check_evaluation(stub(), waiting)


def test_a_metric_that_is_not_reported_is_refused_at_the_first_evaluation():
    phases = parse_phases([{"train": "head"}, {"when": "f1", "train": "all"}])
    check_metrics(phases, [{"loss": 1.0, "step": 1}])
    evaluated = [{"loss": 1.0, "step": 1}, {"eval_loss": 1.0, "step": 2}, {"eval_accuracy": 0.5, "step": 2}]
    with pytest.raises(KeyError, match="waits for eval_f1, but evaluation reports eval_accuracy, eval_loss"):
        check_metrics(phases, evaluated)
    check_metrics(phases, [*evaluated, {"eval_f1": 0.3, "step": 2}])


def thawable(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    parameters = dict(model.named_parameters())
    check_thawable(model, parameters, optimizer, parameters)


def test_a_parameter_frozen_by_hand_is_refused_and_named():
    model = seeded()
    model.bert.embeddings.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    with pytest.raises(ValueError, match=r"`bert.embeddings.LayerNorm.bias` \(and 4 more\) had requires_grad=False"):
        thawable(model, optimizer)


def test_a_parameter_in_no_group_is_refused_by_identity_not_by_value():
    model = seeded()
    weights = dict(model.named_parameters())
    # Two biases with equal values: comparing values would take one for the other.
    assert torch.equal(model.bert.pooler.dense.bias, model.bert.encoder.layer[0].attention.self.key.bias)
    del weights["bert.pooler.dense.bias"]
    with pytest.raises(ValueError, match="`bert.pooler.dense.bias` is scheduled to train but in no group of AdamW"):
        thawable(model, torch.optim.AdamW(weights.values()))
    thawable(model, torch.optim.AdamW(model.parameters()))


def test_what_peft_froze_is_not_asked_to_thaw():
    model = lora(seeded(), ["query"], "classifier")
    thawable(model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad]))


def test_what_the_model_class_itself_freezes_is_not_asked_to_thaw():
    config = RoFormerConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        embedding_size=16,
    )
    model = RoFormerForSequenceClassification(config)
    assert not all(parameter.requires_grad for parameter in model.parameters()), "choose another model for this test"
    thawable(model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad]))
