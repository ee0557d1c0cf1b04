"""`MetaTrainer`: what it trains, that resume and accumulation change nothing, what it saves and refuses."""

from __future__ import annotations

import inspect
import shutil

import pytest
import torch
from transformers import AutoModelForImageClassification, Trainer

from hf_transfer import L2SP, MetaTrainer
from hf_transfer.adapters import add_adapter
from hf_transfer.meta.head import give_episode_head
from tests.meta.rows import arguments, batch_of, model_of, rows, state_of, trainer_of


ALL = [("maml", "all"), ("fomaml", "lora"), ("anil", "scale_shift"), ("reptile", "all"), ("meta_sgd", ["block.-1"])]


def model_for(parameters):
    return add_adapter(model_of()) if parameters == "lora" else model_of()


@pytest.mark.parametrize(("algorithm", "parameters"), ALL)
def test_it_trains_what_was_chosen_and_resumes_bit_for_bit(tmp_path, algorithm, parameters):
    options = {"algorithm": algorithm, "parameters": parameters, "max_steps": 4, "save_strategy": "steps"}
    straight = trainer_of(tmp_path / "a", model=model_for(parameters), save_steps=2, **options)
    before = state_of(straight.model)
    chosen = set(straight.selection.trained)
    straight.train()
    names = {name for name, value in straight.model.named_parameters() if not torch.equal(value, before[name])}
    rates = {name for name in names if "inner_rates" in name}
    assert names - rates == chosen and bool(rates) is (algorithm == "meta_sgd")
    assert all(parameter.grad is None for parameter in straight.model.parameters())
    shutil.rmtree(tmp_path / "a" / "checkpoint-4")
    resumed = trainer_of(tmp_path / "a", model=model_for(parameters), save_steps=2, **options)
    resumed.train(resume_from_checkpoint=True)
    expected, found = state_of(straight.model), state_of(resumed.model)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    logged = [entry for entry in resumed.state.log_history if "loss" in entry]
    assert all(("query_accuracy" in entry) is (algorithm != "reptile") for entry in logged) and logged


@pytest.mark.parametrize(("algorithm", "kind"), [("maml", "bert"), ("anil", "vit"), ("reptile", "vit")])
def test_accumulation_and_vectorizing_change_nothing(tmp_path, algorithm, kind):
    states = []
    for number, options in enumerate(({}, {"gradient_accumulation_steps": 4}, {"vectorize": False})):
        trainer = trainer_of(
            tmp_path / str(number),
            kind,
            algorithm=algorithm,
            parameters="all",
            optim="sgd",
            learning_rate=0.1,
            **options,
        )
        assert trainer.args.per_device_train_batch_size == (9 if number == 1 else 36)
        trainer.train()
        states.append(state_of(trainer.model))
    for other in states[1:]:
        for name, value in states[0].items():
            torch.testing.assert_close(value, other[name], atol=1e-5, rtol=1e-3, msg=name)


def test_one_inner_step_of_reptile_is_sgd_on_the_rows(tmp_path):
    trainer = trainer_of(
        tmp_path,
        algorithm="reptile",
        parameters="all",
        inner_steps=1,
        inner_lr=0.1,
        episodes_per_step=1,
        optim="sgd",
        learning_rate=0.5,
        max_steps=1,
        max_grad_norm=0.0,
    )
    model = give_episode_head(model_of(), 3).eval()
    batch = next(iter(trainer.get_train_dataloader()))
    classes = torch.tensor([0, 1, 2, 0, 0, 1, 1, 2, 2])
    model(pixel_values=batch["pixel_values"], labels=classes).loss.backward()
    trainer.train()
    for (name, value), start in zip(trainer.model.named_parameters(), model.parameters(), strict=True):
        expected = start.detach() - 0.5 * 0.1 * start.grad
        torch.testing.assert_close(value.detach(), expected, atol=1e-6, rtol=1e-4, msg=name)


def test_labels_are_renumbered_by_episode(tmp_path):
    data = rows(classes=5).map(lambda row: {"labels": 1000 + 7 * row["labels"]})
    trainer = trainer_of(tmp_path, train_dataset=data, algorithm="anil", parameters="all")
    assert trainer.train().training_loss < 2


@pytest.mark.parametrize("parameters", ["scale_shift", "all"])
def test_what_is_saved_is_an_ordinary_model(tmp_path, parameters):
    trainer = trainer_of(tmp_path, algorithm="anil", parameters=parameters)
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    inputs = batch_of(rows(), [0, 9, 20])
    expected = trainer.model.eval()(**inputs).logits
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "model").eval()
    torch.testing.assert_close(loaded(**inputs).logits, expected)
    plain = AutoModelForImageClassification.from_pretrained(
        tmp_path / "model", num_labels=7, ignore_mismatched_sizes=True
    )
    assert plain.config.num_labels == 7 and plain(**inputs).logits.shape == (3, 7)
    assert all(value.requires_grad for name, value in trainer.model.named_parameters()) is (parameters == "all")


def test_the_best_checkpoint_brings_its_scale_and_shift_back(tmp_path):
    trainer = trainer_of(
        tmp_path,
        algorithm="anil",
        parameters="scale_shift",
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
    )
    trainer.train()
    scores = {e["step"]: e["eval_accuracy"] for e in trainer.state.log_history if "eval_accuracy" in e}
    assert trainer.evaluate()["eval_accuracy"] == max(scores.values())


def test_evaluation_is_repeatable_and_leaves_the_model_alone(tmp_path):
    trainer = trainer_of(tmp_path, algorithm="maml", parameters="all")
    before = state_of(trainer.model)
    first, second = trainer.evaluate(), trainer.evaluate({"new": rows(seed=2)})
    assert first == {**trainer.evaluate(), "eval_runtime": first["eval_runtime"]}
    assert first["eval_accuracy_low"] <= first["eval_accuracy"] <= first["eval_accuracy_high"]
    assert first["eval_episodes"] == 8 and "eval_new_accuracy" in second
    assert all(torch.equal(value, before[name]) for name, value in state_of(trainer.model).items())


def test_dropout_acts_only_if_asked(tmp_path):
    losses = []
    for dropout in (False, False, True):
        model = model_of(hidden_dropout_prob=0.5)
        trainer = trainer_of(tmp_path, model=model, parameters="all", dropout=dropout, max_steps=1)
        losses.append(trainer.train().training_loss)
    assert losses[0] == losses[1] != losses[2]


def test_running_statistics_stay(tmp_path):
    trainer = trainer_of(tmp_path, "resnet", parameters="all", dropout=True)
    before = {name: value.clone() for name, value in trainer.model.named_buffers()}
    trainer.train()
    assert before and all(torch.equal(value, before[name]) for name, value in trainer.model.named_buffers())


def test_decay_spares_scales_and_rates(tmp_path):
    trainer = trainer_of(tmp_path, parameters="scale_shift", algorithm="meta_sgd")
    names = trainer.get_decay_parameter_names(trainer.model)
    assert "classifier.weight" in names
    assert not [name for name in names if "inner_rates" in name or name.endswith((".scale", ".shift"))]


def test_overrides_have_the_signatures_of_the_trainer():
    for name in ("training_step", "evaluate", "save_model", "log", "get_decay_parameter_names", "_get_train_sampler"):
        ours, theirs = inspect.signature(getattr(MetaTrainer, name)), inspect.signature(getattr(Trainer, name))
        assert list(ours.parameters) == list(theirs.parameters), name


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"algorithm": "mtl"}, 'algorithm=\'mtl\'` is not known: .* "anil" with `parameters="scale_shift"`'),
        ({"inner_steps": 0}, "`inner_steps=0`: .* Pass 1 or more"),
        ({"inner_lr": 0.0}, "`inner_lr=0.0`: the inner loop would not descend.* Pass a positive"),
        ({"objectives": [L2SP()]}, "`objectives` with `MetaTrainer`: .* Leave it out"),
        ({"compute_metrics": len}, "`compute_metrics` with `MetaTrainer`: .* Leave it out"),
        (
            {"episodes_per_step": 3, "gradient_accumulation_steps": 2},
            "cannot be dealt out .* of 2",
        ),
        ({"n_way": 9}, "of 6 classes, an episode has `n_way=9`: .* Pass `n_way=6`"),
        ({"k_shot": 5}, "takes 7 rows of a class .* have fewer: class 0 .* Lower `queries`"),
        ({"parameters": "lora"}, r"has none that train: .* `model = add_adapter\(model\)`"),
    ],
)
def test_what_cannot_work_is_refused_at_once(tmp_path, options, match):
    with pytest.raises(ValueError, match=match):
        trainer_of(tmp_path, **options)


@pytest.mark.parametrize("option", [{"torch_compile": True}, {"label_smoothing_factor": 0.1}])
def test_options_of_the_loop_that_do_not_go_are_refused(tmp_path, option):
    with pytest.raises(ValueError, match=f"`{next(iter(option))}` does not go with `MetaTrainer`: .* Leave it out"):
        MetaTrainer(model_of(), arguments(tmp_path, **option), train_dataset=rows(), queries=1)


def test_a_weight_column_and_a_missing_eval_dataset_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has a column `sample_weight`: .* Remove the column"):
        trainer_of(tmp_path, train_dataset=rows().add_column("sample_weight", [1.0] * 36))
    with pytest.raises(ValueError, match="There is no `eval_dataset`: .* Pass rows of classes"):
        trainer_of(tmp_path, eval_dataset=None).evaluate()


def test_a_model_that_looks_into_its_inputs_is_refused_only_if_it_must_be_batched(tmp_path):
    with pytest.raises(ValueError, match=r"looks into its inputs .* Pass `vectorize=False`"):
        trainer_of(tmp_path, "bert", parameters="all", vectorize=True).train()
    assert trainer_of(tmp_path, "bert", parameters="all").train().global_step == 2


def test_a_collator_that_changes_the_order_is_refused(tmp_path):
    from transformers import default_data_collator

    trainer = trainer_of(tmp_path, data_collator=lambda features: default_data_collator(features[::-1]))
    with pytest.raises(ValueError, match="do not lie class by class .* Use a collator that keeps the order"):
        trainer.train()
