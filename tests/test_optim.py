"""Learning rates by part; what they do in a trainer is in test_trainer.py."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import nn
from transformers import TrainerCallback
from transformers.training_args import OptimizerNames

from hf_transfer import DomainAdversarial, TransferTrainer, anatomy, attach
from hf_transfer.attach import CHILD
from hf_transfer.lr_find import lr_find
from hf_transfer.optim import layer_decay_exponent, learning_rates, split_groups
from tests import models
from tests.test_trainer import arguments, labelled


@pytest.mark.parametrize("blocks", [1, 2, 12])
def test_exponents_count_the_blocks_from_the_head_down(blocks):
    parts = ["embeddings", *(f"block.{i}" for i in range(blocks))]
    assert [layer_decay_exponent(part, blocks) for part in parts] == list(range(blocks + 1, 0, -1))
    assert [layer_decay_exponent(part, blocks) for part in ("neck", "head", CHILD)] == [0, 0, 0]


def test_the_layer_above_has_the_rate_of_the_layer_below_over_the_decay():
    model = models.tiny_bert(num_hidden_layers=4)
    rates = learning_rates(model, anatomy(model), base=0.1, layer_decay=0.5)
    of = {part: {rates[name] for name in names} for part, names in anatomy(model).parts().items()}
    assert of["head"] == of["neck"] == {0.1}
    assert [of[f"block.{i}"] for i in (3, 2, 1, 0)] == [{0.1 * 0.5**power} for power in (1, 2, 3, 4)]
    assert of["embeddings"] == {0.1 * 0.5**5}


@pytest.mark.parametrize("name", sorted(models.TINY))
@pytest.mark.parametrize("attached", [False, True], ids=["bare", "attached"])
def test_every_parameter_of_every_model_has_a_rate(name, attached):
    model = models.TINY[name]()
    if attached:
        attach(model, [DomainAdversarial(hidden_size=4)])
    rates = learning_rates(model, anatomy(model), base=1.0, head=2.0, objective=3.0, layer_decay=0.9)
    assert rates.keys() == dict(model.named_parameters()).keys()
    objectives = {name for name in rates if name.startswith(CHILD)}
    assert bool(objectives) is attached and {rates[name] for name in objectives} <= {3.0}
    assert {name for name, rate in rates.items() if rate == 2.0} == set(anatomy(model).parts()["head"])


def test_under_lora_too():
    model = models.lora(models.tiny_bert(), ["query"], "classifier")
    rates = learning_rates(model, anatomy(model), base=1.0, head=2.0, layer_decay=0.5)
    trained = {name: rates[name] for name, parameter in model.named_parameters() if parameter.requires_grad}
    heads = {name: rate for name, rate in trained.items() if "classifier" in name}
    assert heads and set(heads.values()) == {2.0}
    assert {rate for name, rate in trained.items() if "lora" in name} == {0.5, 0.25, 0.125}


def test_defaults_are_the_base_rate_everywhere():
    model = models.tiny_vit()
    assert set(learning_rates(model, anatomy(model), base=0.3).values()) == {0.3}


def test_rates_by_name_are_put_over_the_objectives_too():
    model = models.tiny_bert()
    attach(model, [DomainAdversarial(hidden_size=4)])
    rates = learning_rates(model, anatomy(model), base=0.1, objective=0.2, by_name={f"{CHILD}.*bias": 0.9})
    for name, rate in rates.items():
        if name.startswith(CHILD):
            assert rate == (0.9 if name.endswith("bias") else 0.2)
    assert rates["classifier.bias"] == 0.1


def test_a_name_that_matches_nothing_is_refused():
    model = models.tiny_bert()
    with pytest.raises(ValueError, match="`block.9` is no range of blocks of this model"):
        learning_rates(model, anatomy(model), base=0.1, by_name={"block.9": 0.1})


# --- LoRA+


def lora_with_an_embedding(**options) -> nn.Module:
    return models.lora(models.tiny_bert(), ["query", "word_embeddings"], "classifier", **options)


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"bias": "all"}], ids=["lora", "dora", "biases"])
def test_lora_plus_gives_the_matrices_the_rates_of_peft(options):
    from peft.optimizers import create_loraplus_optimizer

    model = lora_with_an_embedding(**options)
    theirs = groups_by_name(
        create_loraplus_optimizer(model, torch.optim.AdamW, lr=0.01, loraplus_lr_ratio=16.0), model
    )
    ours = learning_rates(model, anatomy(model), base=0.01, lora_plus_ratio=16.0)
    different = {name for name, (group,) in theirs.items() if group["lr"] != pytest.approx(ours[name])}
    # what the docstring says is done otherwise: embeddings, and vectors that are no factor of LoRA
    vectors = {name for name in theirs if model.get_parameter(name).dim() == 1}
    assert different == {name for name in theirs if "lora_embedding" in name} | vectors
    assert {ours[name] for name in different} == {0.01}
    factors = {name: rate for name, rate in ours.items() if ".lora_" in name and "embedding" not in name}
    for name, rate in factors.items():
        assert rate == pytest.approx(0.16 if ".lora_B." in name else 0.01), name


def test_lora_plus_multiplies_what_all_other_options_give():
    model = lora_with_an_embedding()
    by_name = {"block.2": 0.5, "*.1.*.lora_A.*": 0.7, "*.lora_embedding_*": 1e-6}
    options = {"base": 0.1, "head": 0.3, "layer_decay": 0.5, "by_name": by_name}
    plain = learning_rates(model, anatomy(model), **options)
    plus = learning_rates(model, anatomy(model), lora_plus_ratio=4.0, **options)
    assert plain.keys() == plus.keys()
    ratios = {name: plus[name] / plain[name] for name in plain}
    assert {name for name, ratio in ratios.items() if ratio == 4.0} == {name for name in plain if ".lora_B." in name}
    assert set(ratios.values()) == {1.0, 4.0}
    prefix = "base_model.model.bert.encoder.layer."
    suffix = ".attention.self.query.lora_B.default.weight"
    assert [plus[f"{prefix}{block}{suffix}"] for block in range(3)] == [4 * 0.1 * 0.5**3, 4 * 0.1 * 0.5**2, 4 * 0.5]


def test_lora_plus_without_lora_is_refused():
    model = models.tiny_bert()
    with pytest.raises(ValueError, match="`lora_plus_ratio=16` for BertForSequenceClassification, which has no LoRA"):
        learning_rates(model, anatomy(model), base=0.1, lora_plus_ratio=16)


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("inf"), float("nan")])
def test_a_ratio_that_is_none_is_refused(tmp_path, ratio):
    with pytest.raises(ValueError, match="no factor on a learning rate.*Give a positive number such as 16"):
        arguments(tmp_path, lora_plus_ratio=ratio)


@pytest.mark.parametrize("schedule", [{}, {"lr_schedule": "one_cycle"}, {"lr_schedule": "slanted_triangular"}])
def test_lora_plus_holds_the_ratio_all_through_a_run(tmp_path, schedule):
    rates: list[dict[str, float]] = []

    class Note(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs):
            found = groups_by_name(optimizer, model)
            rates.append({name: group["lr"] for name, (group,) in found.items()})

    model = lora_with_an_embedding()
    args = arguments(tmp_path, lora_plus_ratio=16.0, head_lr=0.05, **schedule)
    TransferTrainer(model, args, train_dataset=labelled(), callbacks=[Note()]).train()
    assert len(rates) == 4 and len(
        {rate["base_model.model.classifier.modules_to_save.default.bias"] for rate in rates}
    )
    for at_step in rates:
        for name, rate in at_step.items():
            if ".lora_B." in name:
                assert rate == pytest.approx(16 * at_step[name.replace("lora_B", "lora_A")])


def test_lr_find_keeps_the_ratio(tmp_path):
    model = lora_with_an_embedding()
    trainer = TransferTrainer(model, arguments(tmp_path, lora_plus_ratio=16.0), train_dataset=labelled())
    swept: list[set[float]] = []
    step = torch.optim.AdamW.step

    def noting(self, closure=None):
        largest = max(group["lr"] for group in self.param_groups)
        swept.append({round(largest / group["lr"], 6) for group in self.param_groups})
        return step(self, closure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", noting)
        lr_find(trainer, start=1e-6, end=1e-3, steps=3)
    assert swept == [{1.0, 16.0}] * 3


# --- groups


def groups_by_name(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, list[dict]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, list[dict]] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            found.setdefault(names[id(parameter)], []).append(group)
    return found


def test_groups_are_split_by_rate_and_keep_everything_else():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    first, second, third = ([*layer.parameters()] for layer in model)
    optimizer = torch.optim.AdamW(
        [
            {"params": [*first, *second], "weight_decay": 0.7, "betas": (0.5, 0.6), "mine": "kept"},
            {"params": third, "eps": 1e-3},
        ],
        lr=0.1,
    )
    rates = {"0.weight": 0.1, "0.bias": 0.1, "1.weight": 0.2, "1.bias": 0.1, "2.weight": 0.2, "2.bias": 0.2}
    split_groups(optimizer, model.named_parameters(), rates)
    found = groups_by_name(optimizer, model)
    assert {name: [group["lr"] for group in groups] for name, groups in found.items()} == {
        name: [rate] for name, rate in rates.items()
    }
    assert len(optimizer.param_groups) == 3
    for name, (group,) in found.items():
        kept = (group["weight_decay"], group["betas"], group.get("mine"), group["eps"])
        assert kept == ((0.01, (0.9, 0.999), None, 1e-3) if name[0] == "2" else (0.7, (0.5, 0.6), "kept", 1e-8))


def test_a_parameter_without_a_rate_keeps_that_of_its_group():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD([{"params": [model.weight], "lr": 0.4}, {"params": [model.bias]}], lr=0.1)
    split_groups(optimizer, model.named_parameters(), {"bias": 0.2})
    assert [(len(group["params"]), group["lr"]) for group in optimizer.param_groups] == [(1, 0.4), (1, 0.2)]


def test_the_order_within_a_group_is_kept():
    """State is loaded by position: the same model must always give the same order."""
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(6)))
    orders = []
    for _ in range(2):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        rates = {name: 0.1 * (1 + int(name[0]) % 2) for name, _ in model.named_parameters()}
        split_groups(optimizer, model.named_parameters(), rates)
        orders.append([[id(parameter) for parameter in group["params"]] for group in optimizer.param_groups])
    position = {id(parameter): index for index, parameter in enumerate(model.parameters())}
    assert orders[0] == orders[1]
    assert all([position[key] for key in group] == sorted(position[key] for key in group) for group in orders[0])


# What the Trainer offers without a package of its own.
OPTIMIZERS = ["adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"]


@pytest.mark.parametrize("optim", OPTIMIZERS)
def test_every_optimizer_class_steps_at_the_rates_of_its_groups(tmp_path, optim):
    rates = {"block.1": 0.0, "embeddings": 0.0}
    args = arguments(tmp_path, optim=optim, head_lr=0.02, learning_rates=rates, max_steps=2, weight_decay=0.1)
    model = models.tiny_bert()
    trainer = TransferTrainer(model, args, train_dataset=labelled())
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer.train()
    found = groups_by_name(cast(torch.optim.Optimizer, trainer.optimizer), model)
    assert found.keys() == before.keys() and all(len(groups) == 1 for groups in found.values())
    still = set(anatomy(model).parts()["block.1"]) | set(anatomy(model).parts()["embeddings"])
    for name, parameter in model.named_parameters():
        if not name.endswith("key.bias"):  # softmax cancels it: its gradient is rounding only
            assert torch.equal(parameter, before[name]) is (name in still), name


def test_no_optimizer_of_the_trainer_is_forgotten():
    """Fails when transformers offers another one that needs no package: add it above."""
    packages = (
        "bnb",
        "8bit",
        "4bit",
        "lion",
        "paged",
        "ademamix",
        "galore",
        "lomo",
        "grok",
        "schedule_free",
        "apollo",
    )
    devices = ("xla", "npu", "anyprecision", "stable")
    own = [name.value for name in OptimizerNames if not any(word in name.value for word in (*packages, *devices))]
    assert own == OPTIMIZERS
