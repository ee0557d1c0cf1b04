"""`TransferTrainer`: scaling, logging, rates, checkpoints, search, and what it refuses."""

from __future__ import annotations

import inspect
import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import RandomSampler, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_transfer import (
    L2SP,
    DomainAdversarial,
    DomainHealth,
    FreezeBackbone,
    GradualUnfreezing,
    Objective,
    TargetValidation,
    TransferArguments,
    TransferTrainer,
    mix_domains,
)
from hf_transfer.checkpoint import OBJECTIVES_NAME
from tests import models
from tests.invariants.run import rows


QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def arguments(folder, *, of=TransferArguments, **options):
    defaults = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "max_steps": 4,
        "learning_rate": 0.01,
        "report_to": "none",
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
    }
    return of(**{**defaults, **options})


def mixed(image=False):
    return mix_domains(rows(16, 0, True, image), rows(12, 1, False, image))


def labelled(image=False):
    return rows(16, 0, True, image)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        key: value.detach().clone() for key, value in model.state_dict().items() if "transfer_objectives" not in key
    }


def seeded(make, **options):
    torch.manual_seed(0)
    return make(**options)


def train(cls, make, folder, data, *, arguments_of=TransferArguments, objectives=None, model_options=QUIET, **options):
    model = seeded(make, **model_options)
    extra = {} if objectives is None else {"objectives": objectives}
    trainer = cls(model, arguments(folder, of=arguments_of, **options), train_dataset=data, **extra)
    trainer.train()
    return trainer


def terms(trainer) -> list[dict]:
    return [entry for entry in trainer.state.log_history if "loss" in entry]


# --- equal to the stock Trainer where it should be


@pytest.mark.parametrize(("make", "image"), [(models.tiny_bert, False), (models.tiny_vit, True)], ids=["bert", "vit"])
def test_weight_zero_is_the_stock_trainer_bit_for_bit(tmp_path, make, image):
    dropout = {}  # on: the random numbers of the run must not be disturbed either
    stock = train(Trainer, make, tmp_path, labelled(image), arguments_of=TrainingArguments, model_options=dropout)
    data = labelled(image).add_column("domain", [0, 1] * 8)
    # one alternating pass and one shuffled pass see other rows: compare on the stock sampler's order
    ours = seeded(make)
    trainer = StockOrder(
        ours, arguments(tmp_path), train_dataset=data, objectives=[DomainAdversarial(weight=0), L2SP(weight=0)]
    )
    trainer.train()
    theirs, mine = weights(stock.model), weights(trainer.model)
    assert theirs.keys() == mine.keys()
    assert all(torch.equal(theirs[key], mine[key]) for key in theirs)


class StockOrder(TransferTrainer):
    def _get_train_sampler(self, train_dataset=None):
        return Trainer._get_train_sampler(self, train_dataset)


def test_without_objectives_it_is_the_stock_trainer_bit_for_bit(tmp_path):
    stock = train(Trainer, models.tiny_bert, tmp_path, labelled(), arguments_of=TrainingArguments, model_options={})
    ours = train(TransferTrainer, models.tiny_bert, tmp_path, labelled(), model_options={})
    assert all(torch.equal(value, weights(ours.model)[key]) for key, value in weights(stock.model).items())


def first_gradient(cls, make, folder, image, steps):
    """The norm of the first gradient over 16 rows in `steps` micro-batches."""
    of = TransferArguments if cls is TransferTrainer else TrainingArguments
    trainer = train(
        cls,
        make,
        folder,
        labelled(image),
        arguments_of=of,
        per_device_train_batch_size=16 // steps,
        gradient_accumulation_steps=steps,
        max_steps=1,
        max_grad_norm=1e9,
        optim="sgd",
    )
    return terms(trainer)[0]["grad_norm"]


@pytest.mark.parametrize(("make", "image"), [(models.tiny_bert, False), (models.tiny_vit, True)], ids=["bert", "vit"])
def test_gradient_does_not_grow_with_accumulation(tmp_path, make, image):
    ratio = first_gradient(TransferTrainer, make, tmp_path, image, 4) / first_gradient(
        TransferTrainer, make, tmp_path, image, 1
    )
    assert ratio == pytest.approx(1.0, rel=1e-4)


def test_the_stock_trainer_still_multiplies_it_for_bert(tmp_path):
    """The reason for `loss_is_scaled_for_ga = False`; when this fails, upstream has mended it."""
    whole, parts = (first_gradient(Trainer, models.tiny_bert, tmp_path, False, steps) for steps in (1, 4))
    assert parts / whole == pytest.approx(4.0, rel=1e-3)


# --- logging


@pytest.mark.parametrize("accumulate", [1, 2])
def test_logged_loss_is_the_sum_of_the_logged_terms(tmp_path, accumulate):
    trainer = train(
        TransferTrainer,
        models.tiny_bert,
        tmp_path,
        mixed(),
        objectives=[DomainAdversarial(hidden_size=8, weight=0.5), L2SP(weight=0.1)],
        gradient_accumulation_steps=accumulate,
        logging_steps=2,
    )
    assert len(terms(trainer)) == 2
    for entry in terms(trainer):
        total = entry["loss_task"] + 0.5 * entry["loss_domain_adversarial"] + 0.1 * entry["loss_l2sp"]
        assert entry["loss"] == pytest.approx(total, rel=1e-5)
        assert 0 <= entry["domain_adversarial_accuracy"] <= 1


def test_objectives_print_as_the_total_loss(tmp_path):
    trainer = TransferTrainer(
        models.tiny_bert(), arguments(tmp_path), objectives=[DomainAdversarial(), L2SP(weight=0.01)]
    )
    assert str(trainer.objectives) == "loss = task + domain_adversarial + 0.01 * l2sp"
    assert str(TransferTrainer(models.tiny_bert(), arguments(tmp_path)).objectives) == "loss = task"


def test_progress_follows_the_optimizer_steps(tmp_path):
    seen = []

    class Probe(L2SP):
        def forward(self, batch):
            seen.append(float(batch.progress))
            return super().forward(batch)

    train(TransferTrainer, models.tiny_bert, tmp_path, labelled(), objectives=[Probe()], gradient_accumulation_steps=2)
    assert seen == [0, 0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75]


def test_every_batch_holds_every_domain(tmp_path):
    seen = []

    class Probe(DomainAdversarial):
        def forward(self, batch):
            seen.append(sorted(batch.domain.tolist()))
            return super().forward(batch)

    train(TransferTrainer, models.tiny_bert, tmp_path, mixed(), objectives=[Probe(hidden_size=4)])
    assert seen == [[0, 0, 1, 1]] * 4


# --- learning rates


def rates_of(trainer) -> dict[str, float]:
    trainer.create_optimizer()
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    return {names[id(p)]: group["lr"] for group in trainer.optimizer.param_groups for p in group["params"]}


class Ordered(Objective):
    """Wants the last rows, backwards."""

    def sampler(self, dataset, *, batch_size, ranks, seed):
        self.asked = batch_size, ranks, seed
        return SequentialSampler(range(len(dataset) - 1)) if self.weight else None  # type: ignore[arg-type]

    def forward(self, batch):
        return 0 * batch.features.sum()


def test_an_objective_may_order_the_rows(tmp_path):
    first, second = Ordered(weight=0.0), Ordered()
    train = labelled()
    args = arguments(tmp_path, data_seed=3)
    trainer = TransferTrainer(models.tiny_bert(), args, train_dataset=train, objectives=[first, second])
    assert list(trainer._get_train_sampler(train) or ()) == list(range(len(train) - 1))
    assert first.asked == second.asked == (4, 1, 3)
    other = TransferTrainer(models.tiny_bert(), args, train_dataset=train, objectives=[Ordered(weight=0.0)])
    assert isinstance(other._get_train_sampler(train), RandomSampler)


def test_rates_by_part(tmp_path):
    args = arguments(tmp_path, head_lr=0.5, objective_lr=0.7, layer_decay=0.5)
    trainer = TransferTrainer(models.tiny_bert(), args, objectives=[DomainAdversarial(hidden_size=4)])
    rates = rates_of(trainer)
    assert rates.keys() == dict(trainer.model.named_parameters()).keys()
    assert rates["classifier.weight"] == 0.5
    assert rates["bert.pooler.dense.weight"] == 0.01
    assert [rates[f"bert.encoder.layer.{i}.output.dense.bias"] for i in range(3)] == [0.00125, 0.0025, 0.005]
    assert rates["bert.embeddings.word_embeddings.weight"] == 0.000625
    assert rates["transfer_objectives.domain_adversarial.discriminator.0.weight"] == 0.7


def test_objectives_train_at_the_rate_of_the_head_by_default(tmp_path):
    args = arguments(tmp_path, head_lr=0.5)
    rates = rates_of(TransferTrainer(models.tiny_bert(), args, objectives=[DomainAdversarial(hidden_size=4)]))
    assert rates["transfer_objectives.domain_adversarial.discriminator.0.weight"] == 0.5


def test_rates_by_name_win_and_the_later_over_the_earlier(tmp_path):
    args = arguments(
        tmp_path, layer_decay=0.5, learning_rates={"block.0-1": 0.3, "*layer.1.attention*": 0.4, "head": 0}
    )
    rates = rates_of(TransferTrainer(models.tiny_bert(), args))
    assert rates["bert.encoder.layer.0.output.dense.bias"] == 0.3
    assert rates["bert.encoder.layer.1.output.dense.bias"] == 0.3
    assert rates["bert.encoder.layer.1.attention.self.query.weight"] == 0.4
    assert rates["bert.encoder.layer.2.output.dense.bias"] == 0.005
    assert rates["classifier.bias"] == 0


def test_rates_as_json_on_the_command_line(tmp_path):
    from transformers import HfArgumentParser

    (args,) = HfArgumentParser(TransferArguments).parse_args_into_dataclasses(
        ["--output_dir", str(tmp_path), "--learning_rates", '{"head": 1e-3}', "--use_cpu", "--report_to", "none"]
    )
    assert args.learning_rates == {"head": 0.001}


def test_rates_as_yaml_reads_them(tmp_path):
    assert arguments(tmp_path, learning_rates={"head": "1e-3"}).learning_rates == {"head": 0.001}


def test_weight_decay_rules_and_the_schedule_hold_in_every_group(tmp_path):
    args = arguments(tmp_path, weight_decay=0.1, head_lr=0.5, layer_decay=0.5)
    trainer = TransferTrainer(models.tiny_bert(), args, train_dataset=labelled())
    trainer.create_optimizer_and_scheduler(4)
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    initial = [group["lr"] for group in trainer.optimizer.param_groups]
    for group in trainer.optimizer.param_groups:
        for parameter in group["params"]:
            plain = "bias" in names[id(parameter)] or "LayerNorm" in names[id(parameter)]
            assert group["weight_decay"] == (0.0 if plain else 0.1)
    trainer.optimizer.step()
    trainer.lr_scheduler.step()
    assert [group["lr"] for group in trainer.optimizer.param_groups] == pytest.approx([0.75 * lr for lr in initial])


def test_a_name_that_matches_nothing_is_refused(tmp_path):
    args = arguments(tmp_path, learning_rates={"*.no_such_layer.*": 0.1})
    with pytest.raises(ValueError, match="no_such_layer.*matches none of its parameter names.*`block.0` to `block.2`"):
        TransferTrainer(models.tiny_bert(), args).create_optimizer()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer_decay": 1.5}, r"`layer_decay=1.5` is outside \(0, 1\].*Give a factor"),
        ({"layer_decay": 0.0}, r"`layer_decay=0.0` is outside"),
        ({"head_lr": -1.0}, "learning rate -1.0 of `head_lr` is negative.*Give zero"),
        ({"learning_rates": {"head": -1.0}}, "learning rate -1.0 of `head` is negative"),
    ],
)
def test_rates_that_make_no_sense_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **options)


# --- checkpoints, best model, search


def test_checkpoint_holds_the_objectives_beside_the_model(tmp_path):
    trainer = train(
        TransferTrainer,
        models.tiny_bert,
        tmp_path,
        mixed(),
        objectives=[DomainAdversarial(hidden_size=4)],
        save_strategy="steps",
        save_steps=4,
    )
    folder = tmp_path / "checkpoint-4"
    saved = load_file(folder / OBJECTIVES_NAME)
    assert saved.keys() == trainer.objectives.state_dict().keys()
    assert not [key for key in load_file(folder / "model.safetensors") if "transfer_objectives" in key]
    trainer.save_model(str(tmp_path / "final"))
    assert not (tmp_path / "final" / OBJECTIVES_NAME).exists()


def test_best_model_comes_back_with_its_objectives(tmp_path):
    data = mixed()
    trainer = TransferTrainer(
        seeded(models.tiny_bert),
        arguments(
            tmp_path,
            save_strategy="steps",
            eval_strategy="steps",
            save_steps=1,
            eval_steps=1,
            load_best_model_at_end=True,
            learning_rate=0.5,
            max_steps=3,
        ),
        train_dataset=data,
        eval_dataset=labelled(),
        objectives=[DomainAdversarial(hidden_size=4)],
    )
    trainer.train()
    best = trainer.state.best_model_checkpoint
    saved = load_file(f"{best}/{OBJECTIVES_NAME}")
    now = trainer.objectives.state_dict()
    assert all(torch.equal(value, now[key]) for key, value in saved.items())
    assert json.loads((tmp_path / "checkpoint-3" / "trainer_state.json").read_text())["best_metric"]


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_resuming_without_the_objectives_file_is_refused(tmp_path, adapter):
    def make():
        model = seeded(models.tiny_bert)
        return models.lora(model, ["query"], "classifier") if adapter else model

    options = {"save_strategy": "steps", "save_steps": 2}
    TransferTrainer(make(), arguments(tmp_path, **options), train_dataset=labelled()).train()
    trainer = TransferTrainer(
        make(), arguments(tmp_path, **options), train_dataset=mixed(), objectives=[DomainAdversarial(hidden_size=4)]
    )
    with pytest.raises(ValueError, match=f"has no {OBJECTIVES_NAME}: it was written without domain_adversarial"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_resuming_with_other_hyper_parameters_is_refused(tmp_path):
    def trainer(width):
        return TransferTrainer(
            seeded(models.tiny_bert),
            arguments(tmp_path, save_strategy="steps", save_steps=2),
            train_dataset=mixed(),
            objectives=[DomainAdversarial(hidden_size=width)],
        )

    trainer(4).train()
    with pytest.raises(ValueError, match="does not fit the objectives of this run; they differ in domain_adversarial"):
        trainer(8).train(resume_from_checkpoint=True)


def test_folder_that_is_no_checkpoint_is_refused(tmp_path):
    trainer = TransferTrainer(models.tiny_bert(), arguments(tmp_path), train_dataset=labelled())
    with pytest.raises(ValueError, match="is no checkpoint: it has no trainer_state.json.*`checkpoint-<step>`"):
        trainer.train(resume_from_checkpoint=str(tmp_path))
    with pytest.raises(ValueError, match="is no checkpoint: it does not exist"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-9"))


def test_hyperparameter_search_builds_the_objectives_anew_for_each_trial(tmp_path):
    pytest.importorskip("optuna")
    starts = []

    class Probe(DomainAdversarial):
        def build(self, spec):
            super().build(spec)
            starts.append(self.discriminator[0].weight.detach().clone())
            return self

    trainer = TransferTrainer(
        model_init=lambda: models.tiny_bert(**QUIET),
        args=arguments(tmp_path, eval_strategy="epoch", max_steps=2),
        train_dataset=mixed(),
        eval_dataset=labelled(),
        objectives=[Probe(hidden_size=4)],
    )
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {"head_lr": trial.suggest_float("head_lr", 1e-3, 1e-1)},
        n_trials=2,
        direction="minimize",
    )
    assert best.hyperparameters.keys() == {"head_lr"}
    assert len(starts) == 3 and torch.equal(starts[1], starts[2])


# --- refused at construction


def test_label_smoothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`label_smoothing_factor=0.1` with objectives.*Leave it at 0.0"):
        TransferTrainer(models.tiny_bert(), arguments(tmp_path, label_smoothing_factor=0.1), objectives=[L2SP()])


def test_compute_loss_func_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`compute_loss_func` with objectives.*as an `Objective`"):
        TransferTrainer(models.tiny_bert(), arguments(tmp_path), objectives=[L2SP()], compute_loss_func=lambda *_: 0)


def test_data_parallel_is_refused(tmp_path):
    args = arguments(tmp_path)
    args._n_gpu = 2
    with pytest.raises(ValueError, match="2 GPUs in one process.*accelerate launch"):
        TransferTrainer(models.tiny_bert(), args, objectives=[L2SP()])


def test_without_objectives_none_of_this_is_refused(tmp_path):
    TransferTrainer(
        models.tiny_bert(), arguments(tmp_path, label_smoothing_factor=0.1), train_dataset=labelled()
    ).train()


def test_stock_arguments_are_enough(tmp_path):
    trainer = train(
        TransferTrainer, models.tiny_bert, tmp_path, mixed(), arguments_of=TrainingArguments, objectives=[L2SP()]
    )
    assert {"loss_task", "loss_l2sp"} <= terms(trainer)[0].keys()


# --- the contract with the parent


OVERRIDES = [
    name
    for name, value in vars(TransferTrainer).items()
    if inspect.isfunction(value) and hasattr(Trainer, name) and name != "__init__"
]


@pytest.mark.parametrize("name", OVERRIDES)
def test_overrides_keep_the_parents_signature(name):
    ours, theirs = inspect.signature(getattr(TransferTrainer, name)), inspect.signature(getattr(Trainer, name))
    assert [(p.name, p.kind, p.default) for p in ours.parameters.values()] == [
        (p.name, p.kind, p.default) for p in theirs.parameters.values()
    ]
    # our card takes the place of the stock one
    assert name == "create_model_card" or f"super().{name}(" in inspect.getsource(getattr(TransferTrainer, name))


def test_trainer_kwargs_are_the_parents():
    from hf_transfer.trainer_kwargs import TrainerKwargs

    assert {"model", "args", *TrainerKwargs.__annotations__} == set(inspect.signature(Trainer).parameters)


def test_private_names_relied_on_exist():
    assert "loss_is_scaled_for_ga" in inspect.getsource(Trainer.training_step)
    assert "_internal_call=True" in inspect.getsource(Trainer._save_checkpoint)


# --- freezing


def test_a_crash_leaves_nothing_frozen(tmp_path):
    class Crash(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            raise RuntimeError("out of luck")

    model = models.tiny_bert()
    trainer = TransferTrainer(
        model, arguments(tmp_path), train_dataset=labelled(), callbacks=[FreezeBackbone(), Crash()]
    )
    with pytest.raises(RuntimeError, match="out of luck"):
        trainer.train()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(("callbacks", "expected"), [([], None), ([GradualUnfreezing(stages=2)], True)])
def test_ddp_looks_for_unused_parameters_where_a_schedule_freezes(tmp_path, callbacks, expected):
    trainer = TransferTrainer(models.tiny_bert(), arguments(tmp_path), callbacks=callbacks)
    assert trainer.args.ddp_find_unused_parameters is expected


class CountsRows(Objective):
    """Learns how many rows of each class there are, and uses up random numbers doing it."""

    learns_from_data = True

    def build(self, spec):
        self.register_buffer("counts", torch.zeros(spec.num_labels))
        return self

    def fit(self, model, batches):
        torch.rand(7)
        self.seen = [batch["labels"] for batch in batches]
        self.counts.copy_(torch.bincount(torch.cat(self.seen), minlength=len(self.counts)))

    def forward(self, batch):
        return 0 * batch.features.sum()


def test_objectives_learn_from_the_whole_training_set_in_its_order(tmp_path):
    data = labelled()
    for remove in (True, False):
        objective = CountsRows()
        trainer = TransferTrainer(
            models.tiny_bert(),
            arguments(tmp_path, max_steps=1, remove_unused_columns=remove),
            train_dataset=data.add_column("note", ["x"] * 16) if remove else data,
            objectives=[objective],
        )
        trainer.train()
        assert torch.cat(objective.seen).tolist() == data["labels"]
        assert len(objective.seen) == 4


def test_learning_from_data_does_not_move_the_random_numbers(tmp_path):
    class Idle(CountsRows):
        learns_from_data = False

    trained = [
        train(TransferTrainer, models.tiny_bert, tmp_path, labelled(), objectives=[kind()], model_options={})
        for kind in (CountsRows, Idle)
    ]
    first, second = (weights(trainer.model) for trainer in trained)
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_objectives_learn_anew_with_each_model_of_model_init(tmp_path):
    objective = CountsRows()
    trainer = TransferTrainer(
        args=arguments(tmp_path, max_steps=1),
        model_init=lambda: models.tiny_bert(),
        train_dataset=labelled(),
        objectives=[objective],
    )
    trainer.train()
    (attached_objective,) = trainer.objectives.by_name.values()
    assert attached_objective.counts.sum() == 16


def test_learning_from_a_stream_is_refused(tmp_path):
    data = labelled().to_iterable_dataset()
    trainer = TransferTrainer(models.tiny_bert(), arguments(tmp_path), train_dataset=data, objectives=[CountsRows()])
    with pytest.raises(ValueError, match="is a stream.*no end to wait for.*Give a data set of rows"):
        trainer.train()


def test_loggers_are_told_what_callbacks_measure(tmp_path):
    class Logger(TrainerCallback):
        told: list[dict] = []

        def on_log(self, args, state, control, logs=None, **kwargs):
            self.told.append(dict(logs or {}))

    source, target = rows(16, 0, True, False), rows(16, 1, False, False)
    trainer = TransferTrainer(
        models.tiny_bert(**QUIET),
        arguments(tmp_path, max_steps=1, eval_strategy="steps", eval_steps=1),
        train_dataset=mix_domains(source, target),
        eval_dataset=source,
        objectives=[DomainAdversarial(hidden_size=4)],
        # behind the logger, as those of `report_to` are in a stock Trainer
        callbacks=[
            Logger(),
            TargetValidation(target=target, validators=["snd"]),
            DomainHealth(source, target, permutations=9),
        ],
    )
    trainer.train()
    assert any("eval_snd" in logs for logs in Logger.told)
    assert any("eval_domain_proxy_a_distance" in logs for logs in Logger.told)
