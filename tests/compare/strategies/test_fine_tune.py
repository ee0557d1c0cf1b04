"""Training by gradient as a strategy: what it refuses, what it depends on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers import SchedulerType, TrainerCallback

from hf_transfer.anatomy import anatomy
from hf_transfer.compare.problem.problem import Problem
from hf_transfer.compare.problem.setup import Setup
from hf_transfer.compare.strategies import STANDARD, FineTune
from hf_transfer.objectives import L2SP, DeepCORAL
from tests.compare.strategies.problems import STEPS, data, problem, setup_of


def test_the_group_of_its_rate_follows_from_what_it_trains():
    assert FineTune(name="a").rate == "whole"
    assert FineTune(name="a", start="scratch").rate == "scratch"
    assert FineTune(name="a", adapter={"method": "lora"}).rate == "adapter"
    assert FineTune(name="a", adapter={"method": "lora"}, rate="whole").rate == "whole"


def test_mixed_batches_need_a_target():
    assert FineTune(name="a", mixed=True).needs == {"target"}
    assert FineTune(name="a", mixed=True, needs=frozenset({"teacher"})).needs == {"target", "teacher"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "random"}, "`start='random'` of the strategy `a` is unknown.*Choose from pretrained"),
        ({"start": "scratch", "adapter": {"method": "lora"}}, "adapter on random weights.*leave the adapter out"),
        ({"options": {"layer_decy": 0.5}}, "sets `layer_decy`, which is no training argument.*mean `layer_decay`"),
        ({"options": {"max_steps": 5}}, "sets `max_steps`, which all strategies of a comparison share.*Leave it out"),
        ({"options": {"seed": 1}}, "sets `seed`, which all strategies"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FineTune(name="a", **options)


def test_settings_differ_where_the_result_does():
    weight = 0.1
    first = FineTune(name="a", objectives=lambda setup: [L2SP(weight=0.01)])
    changes = [
        {"start": "probe"},
        {"options": {"layer_decay": 0.5}},
        {"options": {"layer_decay": 0.6}},
        {"adapter": {"method": "lora"}},
        {"adapter": {"method": "lora", "r": 2}},
        {"mixed": True},
        {"objectives": lambda setup: [L2SP(weight=0.02)]},
        {"objectives": lambda setup: [L2SP(weight=weight)]},
        {"callbacks": lambda setup: []},
        {"rate": "scratch"},
    ]
    seen = [first.settings(), *(replace(first, **change).settings() for change in changes)]
    assert all(one != two for number, one in enumerate(seen) for two in seen[:number])


def test_settings_are_those_of_the_same_options_in_another_order():
    one = FineTune(name="a", options={"layer_decay": 0.5, "weight_decay": 0.1})
    two = FineTune(name="a", options={"weight_decay": 0.1, "layer_decay": 0.5})
    assert one.settings() == two.settings()


# --- runs


def recorded(setup: Setup) -> list[dict[str, Any]]:
    """The batches that will be trained on."""
    batches, collate = [], setup.collate

    def record(rows: list[dict[str, Any]]) -> Any:
        batch = collate(rows)
        batches.append({name: value.tolist() for name, value in batch.items()})
        return batch

    setup.collate = record  # pyright: ignore[reportAttributeAccessIssue]
    return batches


def test_every_strategy_sees_the_same_rows_in_the_same_order(texts, shifted_texts, place):
    def batches(name: str, made: Problem = texts, **options: Any) -> list[dict[str, Any]]:
        setup = setup_of(made, place, name, max_steps=3, **options)
        found = recorded(setup)
        assert STANDARD[name].fit(setup).steps == 3
        return found[-4:-1]  # one is fetched ahead; a teacher looks at the rows before

    full = batches("full")
    assert len(full) == 3 and all(len(batch["labels"]) == 4 for batch in full)
    for name in ("scratch", "l2sp", "lora", "lp_ft", "distillation"):
        assert batches(name) == full, name
    assert batches("full", shifted_texts) == full
    assert batches("full", seed=1) != full


def test_mixed_batches_hold_as_many_rows_of_both_domains_and_no_label_of_the_target(shifted_texts, place):
    setup = setup_of(shifted_texts, place)
    batches = recorded(setup)
    fitted = FineTune(name="both", mixed=True, objectives=lambda setup: [DeepCORAL()]).fit(setup)
    assert fitted.steps == STEPS and len(batches) >= STEPS
    for batch in batches:
        assert sorted(batch["domain"]) == [0] * 4 + [1] * 4
        assert all(
            (label == -100) == bool(domain) for label, domain in zip(batch["labels"], batch["domain"], strict=True)
        )
    assert setup.args.per_device_train_batch_size == 4


def test_labels_of_the_target_change_nothing(shifted_texts, place):
    target = data("bert", train=12, shift=1)
    labels = list(target.train["label"])
    other = target.train.remove_columns("label").add_column(
        "label", labels[1:] + labels[:1], feature=target.train.features["label"]
    )
    permuted = problem("bert", place, target=replace(target, train=other))
    logits = []
    for made in (shifted_texts, permuted):
        setup = setup_of(made, place)
        logits.append(setup.predict(cast(Any, STANDARD["dann"].fit(setup).model), "test"))
    np.testing.assert_array_equal(*logits)


class Recorder(TrainerCallback):
    """What changed in every step."""

    def __init__(self):
        self.before: dict[str, torch.Tensor] = {}
        self.changed: list[set[str]] = []

    def on_step_begin(self, args, state, control, model: Any = None, **kwargs):
        self.before = {name: own.detach().clone() for name, own in model.named_parameters()}

    def on_step_end(self, args, state, control, model: Any = None, **kwargs):
        own = dict(model.named_parameters())
        self.changed.append({name for name, old in self.before.items() if not torch.equal(old, own[name])})


def test_gradual_unfreezing_thaws_in_stages_and_lower_blocks_learn_slower(texts, place):
    setup = setup_of(texts, place, max_steps=8)
    recorder = Recorder()
    setup.callbacks = [recorder]  # pyright: ignore[reportAttributeAccessIssue]
    fitted = STANDARD["gradual"].fit(setup)
    parts = anatomy(setup.fresh()).parts()
    thawed = [
        {part for part, names in parts.items() if part != "neck" and changed & set(names)}
        for changed in recorder.changed
    ]
    stages = [{"head"}]
    for block in ("block.2", "block.1"):
        stages.append(stages[-1] | {block})
    stages.append(stages[-1] | {"block.0", "embeddings"})
    assert len(thawed) == 8
    # one step of the last stage has a learning rate of nearly zero, and the first row of every table may not occur
    assert thawed[::2] == stages
    assert fitted.trainer is not None and fitted.trainer.args.layer_decay == 0.75  # pyright: ignore
    assert setup.args.layer_decay == 1.0
    assert fitted.trained_parameters == sum(own.numel() for own in cast(Any, fitted.model).parameters())


def test_an_adapter_leaves_the_weights_below_it_alone(texts, place):
    setup = setup_of(texts, place)
    fitted = STANDARD["lora"].fit(setup)
    model: Any = fitted.model
    start = dict(setup.fresh().named_parameters())
    kept = {
        name.replace("base_model.model.", "").replace("base_layer.", ""): own
        for name, own in model.named_parameters()
        if "lora_" not in name and "modules_to_save" not in name
    }
    for name, own in kept.items():
        name = name.replace("original_module.", "")
        assert not own.requires_grad and torch.equal(own.cpu(), start[name]), name
    trained = [own for own in model.parameters() if own.requires_grad]
    assert (
        fitted.trained_parameters == sum(own.numel() for own in trained) < sum(own.numel() for own in start.values())
    )


def test_terms_are_attached_while_it_trains_and_gone_afterwards(texts, place):
    setup = setup_of(texts, place)
    trainer, _ = STANDARD["l2sp"].trainer(setup)  # pyright: ignore[reportAttributeAccessIssue]
    assert str(trainer.objectives) == "loss = task + 0.01 * l2sp"
    fitted = STANDARD["l2sp"].fit(setup)
    assert fitted.trainer is not None and fitted.trainer.model is fitted.model
    assert not [name for name in cast(Any, fitted.model).state_dict() if "transfer_objectives" in name]
    assert [term.method for term in fitted.trainer.facts.terms] == ["L2SP"]
    plain = STANDARD["full"].fit(setup_of(texts, place))
    assert any(
        not torch.equal(one, two)
        for one, two in zip(cast(Any, fitted.model).parameters(), cast(Any, plain.model).parameters(), strict=True)
    )


def test_rates_of_the_parts(texts, place):
    def trainer(strategy: Any, **options: Any) -> Any:
        return strategy.trainer(setup_of(texts, place, **options))[0]

    assert trainer(STANDARD["full"], learning_rate=1e-3).args.head_lr == 3e-3
    assert trainer(STANDARD["full"], learning_rate=1e-2).args.head_lr == 1e-2
    assert trainer(STANDARD["full"], head_lr=None).args.head_lr is None
    assert trainer(STANDARD["lp_ft"], learning_rate=1e-3).args.head_lr is None
    own = FineTune(name="own", options={"head_lr": 0.5, "lr_scheduler_type": "constant", "learning_rate": 0.1})
    args = trainer(own).args
    assert (args.head_lr, args.learning_rate, args.lr_scheduler_type) == (0.5, 0.1, SchedulerType.CONSTANT)


def test_the_head_of_a_probe_is_where_it_starts(texts, place):
    setup = setup_of(texts, place)
    trainer, told = STANDARD["lp_ft"].trainer(setup)  # pyright: ignore[reportAttributeAccessIssue]
    logits = setup.predict(trainer.model, "validation")
    np.testing.assert_allclose(logits, setup.probe().logits(setup.features("validation")), atol=1e-4, rtol=1e-4)
    assert told == ["head from a logistic probe of strength 100"]


def test_from_scratch_nothing_of_the_pretrained_model_is_left(texts, place):
    setup = setup_of(texts, place)
    trainer, _ = STANDARD["scratch"].trainer(setup)  # pyright: ignore[reportAttributeAccessIssue]
    start = dict(setup.fresh().named_parameters())
    assert all(not torch.equal(own, start[name]) for name, own in trainer.model.named_parameters() if own.std() > 1e-6)
    facts = STANDARD["scratch"].fit(setup).trainer.facts  # pyright: ignore[reportOptionalMemberAccess]
    assert facts.base_model is None and facts.strategy[0] == "It starts from random weights."


def test_callbacks_of_the_run_and_of_the_strategy_are_called(texts, place, capfd):
    setup = setup_of(texts, place, logging_strategy="steps", logging_steps=1)
    first, second = Recorder(), Recorder()
    setup.callbacks = [first]  # pyright: ignore[reportAttributeAccessIssue]
    fitted = FineTune(name="own", about="Mine.", callbacks=lambda setup: [second]).fit(setup)
    assert len(first.changed) == len(second.changed) == fitted.steps == STEPS
    assert "loss" not in capfd.readouterr().out  # the Trainer would print every log
    assert fitted.note == "learning rate 0.001, head 0.003"
    assert fitted.trainer is not None
    facts = fitted.trainer.facts
    assert facts.complete and facts.model_name is None and facts.method == "own"
    assert "Mine." in facts.strategy and facts.base_model == "tiny"


@pytest.mark.parametrize(("name", "need"), [("distillation", "teacher"), ("dann", "target"), ("coral", "target")])
def test_a_run_that_lacks_what_it_needs_is_refused(images, place, name, need):
    with pytest.raises(ValueError, match=rf"`{name}` needs a {need}, and the comparison has none.*Pass a {need}"):
        STANDARD[name].fit(setup_of(images, place))
