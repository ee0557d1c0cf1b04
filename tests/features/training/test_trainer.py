"""Training on cached features is training with the backbone frozen; the model is whole at every moment."""

from __future__ import annotations

import copy
import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, Trainer

from hf_transfer import (
    DELTA,
    L2SP,
    ClassBalanced,
    CutMix,
    DomainAdversarial,
    FocalLoss,
    FreezeBackbone,
    LabelSmoothing,
    LearningWithoutForgetting,
    RDrop,
    SupervisedContrastive,
    TransferTrainer,
)
from hf_transfer.features.extraction.extract import extract_features
from hf_transfer.features.extraction.kwargs import ExtractionKwargs
from hf_transfer.features.training.trainer import FeatureExtractionTrainer
from hf_transfer.lr_find import lr_find
from tests import models
from tests.features.training.feature_ranks import outcome, trained
from tests.hub_server import HubServer
from tests.invariants.run import rows
from tests.launching import launch
from tests.test_trainer import QUIET, arguments, mixed, seeded, terms, weights


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_transfer.features.cache.entry.default_cache_dir", lambda: tmp_path / "cache")


def labelled(image=False, count=16):
    return rows(count, 0, True, image)


def padded(count=16):
    """Rows of different lengths, as a tokenizer leaves them, and a collator that pads them."""
    data = labelled(count=count)
    return data.map(
        lambda row, number: {name: row[name][: 3 + number % 4] for name in ("input_ids", "attention_mask")},
        with_indices=True,
    )


def pad(batch):
    longest = max(len(row["input_ids"]) for row in batch)
    padded = {
        name: torch.tensor([list(row[name]) + [0] * (longest - len(row[name])) for row in batch])
        for name in ("input_ids", "attention_mask")
    }
    if "labels" in batch[0]:
        if isinstance(batch[0]["labels"], list):
            labels = [row["labels"] + [-100] * (longest - len(row["labels"])) for row in batch]
        else:
            labels = [row["labels"] for row in batch]
        padded["labels"] = torch.tensor(labels)
    return padded


def cached(model, folder, data=None, *, options=None, **kwargs):
    args = arguments(folder, **(options or {}))
    return FeatureExtractionTrainer(model, args, train_dataset=labelled() if data is None else data, **kwargs)


def frozen(model, folder, data=None, *, options=None, **kwargs):
    args = arguments(folder, **(options or {}))
    data = labelled() if data is None else data
    return TransferTrainer(model, args, train_dataset=data, callbacks=[FreezeBackbone()], **kwargs)


def losses(trainer):
    return [{name: value for name, value in entry.items() if "loss" in name} for entry in terms(trainer)]


def assert_same_run(first, second, *, atol=1e-5):
    assert len(losses(first)) == len(losses(second)) > 2
    for one, other in zip(losses(first), losses(second), strict=True):
        assert one == pytest.approx(other, abs=10 * atol)
    theirs = weights(second.model)
    for name, value in weights(first.model).items():
        torch.testing.assert_close(value, theirs[name], atol=atol, rtol=1e-3, msg=lambda m, name=name: f"{name}: {m}")


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


# --- the same run as with the backbone frozen


QUIETLY = {
    "bert": QUIET,
    "vit": QUIET,
    "resnet": {},
    "llama": {},
}


@pytest.mark.parametrize("kind", QUIETLY)
def test_it_is_the_run_with_the_backbone_frozen(kind, tmp_path):
    image = kind in ("vit", "resnet")
    make, options = models.TINY[kind], {"max_steps": 6}
    data, collator = (labelled(True), None) if image else (padded(), pad)
    ours = cached(seeded(make, **QUIETLY[kind]), tmp_path, data, options=options, data_collator=collator)
    theirs = frozen(seeded(make, **QUIETLY[kind]), tmp_path, data, options=options, data_collator=collator)
    before = weights(ours.model)
    ours.train(), theirs.train()
    assert_same_run(ours, theirs)
    moved = {name for name, value in weights(ours.model).items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith(("classifier", "score")) for name in moved)


def test_tokens(tmp_path):
    data = padded().remove_columns("labels")
    data = data.map(lambda row: {"labels": [-100, *[number % 3 for number in row["input_ids"][1:]]]})
    ours = cached(seeded(models.tiny_token_bert, **QUIET), tmp_path, data, data_collator=pad)
    theirs = frozen(seeded(models.tiny_token_bert, **QUIET), tmp_path, data, data_collator=pad)
    ours.train(), theirs.train()
    assert_same_run(ours, theirs)


@pytest.mark.parametrize(
    "chosen",
    [
        lambda: [LabelSmoothing(smoothing=0.2), FocalLoss(gamma=1.5), ClassBalanced(), L2SP(weight=0.1)],
        lambda: [SupervisedContrastive(weight=0.3), DomainAdversarial(hidden_size=4)],
    ],
    ids=["task", "terms"],
)
def test_objectives(chosen, tmp_path):
    ours = cached(seeded(models.tiny_bert, **QUIET), tmp_path, mixed(), objectives=chosen())
    theirs = frozen(seeded(models.tiny_bert, **QUIET), tmp_path, mixed(), objectives=chosen())
    ours.train(), theirs.train()
    assert_same_run(ours, theirs)
    assert losses(ours)[0].keys() == losses(theirs)[0].keys() and len(losses(ours)[0]) > 1


def test_adapters(tmp_path):
    def make():
        return models.lora(seeded(models.tiny_bert, **QUIET), ["query"], "classifier")

    torch.manual_seed(1)
    ours = cached(make(), tmp_path)
    torch.manual_seed(1)
    theirs = frozen(make(), tmp_path)
    before = weights(ours.model)
    ours.train(), theirs.train()
    assert_same_run(ours, theirs)
    moved = {name for name, value in weights(ours.model).items() if not torch.equal(value, before[name])}
    assert moved == {f"base_model.model.classifier.modules_to_save.default.{name}" for name in ("weight", "bias")}


def test_several_labels_and_regression(tmp_path):
    several = labelled().remove_columns("labels").add_column("labels", [[float(i % 2), 1.0, 0.0] for i in range(16)])
    real = labelled().remove_columns("labels").add_column("labels", [i / 8 for i in range(16)])
    for data, options in ((several, {}), (real, {"num_labels": 1})):
        ours = cached(seeded(models.tiny_bert, **QUIET, **options), tmp_path, data)
        theirs = frozen(seeded(models.tiny_bert, **QUIET, **options), tmp_path, data)
        ours.train(), theirs.train()
        assert_same_run(ours, theirs)
        assert ours.model.config.problem_type == theirs.model.config.problem_type is not None


def test_dropout_before_the_head_takes_no_part(tmp_path):
    """As the docstring says: the dropout that is left out is that before the head."""
    make = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.0}
    ours = cached(seeded(models.tiny_bert, **make), tmp_path)
    theirs = frozen(seeded(models.tiny_bert, **make, classifier_dropout=0.0), tmp_path)
    ours.train(), theirs.train()
    assert_same_run(ours, theirs)


def test_running_statistics_rest_and_the_backbone_does_not_run(tmp_path, monkeypatch):
    model = seeded(models.tiny_resnet)
    trainer = cached(model, tmp_path, labelled(True))
    monkeypatch.setattr(model.resnet, "forward", None)
    before = weights(model)
    trainer.train()
    after = weights(model)
    assert all(torch.equal(value, before[name]) for name, value in after.items() if not name.startswith("classifier"))


# --- the model at every moment


def test_the_model_is_as_it_was_but_for_its_head(tmp_path):
    model = seeded(models.tiny_bert)
    model.bert.embeddings.requires_grad_(False)  # the user's own
    asked = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    hooks = [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules()]
    with cached(model, tmp_path) as trainer:
        trainer.train()
        assert trainer.model is model and trainer.model_wrapped is model
        assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == asked
        assert model(features=torch.zeros(1, 16)).logits.shape == (1, 3)
    assert "forward" not in vars(model)
    assert [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules()] == hooks
    trainer.restore()


def test_a_crash_leaves_nothing_frozen(tmp_path, monkeypatch):
    model = seeded(models.tiny_bert)
    trainer = cached(model, tmp_path)
    monkeypatch.setattr(trainer, "training_step", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_it_goes_on_to_fine_tuning(tmp_path):
    model = seeded(models.tiny_bert)
    cached(model, tmp_path).train()
    before = weights(model)
    TransferTrainer(model, arguments(tmp_path), train_dataset=labelled()).train()
    assert all(not torch.equal(value, before[name]) for name, value in weights(model).items() if "query" in name)


def test_a_second_trainer_takes_over(tmp_path):
    model = seeded(models.tiny_bert)
    first = cached(model, tmp_path)
    second = cached(model, tmp_path, objectives=[])
    first.train()
    first.restore()
    second.train()


# --- evaluation


def test_features_and_inputs_are_evaluated_alike(tmp_path):
    model = seeded(models.tiny_bert)
    data = padded()
    options = {"eval_strategy": "epoch", "num_train_epochs": 2, "max_steps": -1, "include_for_metrics": ["loss"]}
    trainer = cached(
        model, tmp_path, data, options=options, data_collator=pad, eval_dataset=data, compute_metrics=accuracy
    )
    trainer.train()
    assert len([entry for entry in trainer.state.log_history if "eval_accuracy" in entry]) == 2
    on_features, on_inputs = trainer.evaluate(), trainer.evaluate(data)
    for name in ("eval_loss", "eval_accuracy"):
        assert on_features[name] == pytest.approx(on_inputs[name], abs=1e-5)
    mine, theirs = trainer.predict(trainer.eval_dataset), trainer.predict(data)
    np.testing.assert_allclose(mine.predictions, theirs.predictions, atol=1e-5)
    assert mine.label_ids.tolist() == theirs.label_ids.tolist() == data["labels"][:]
    stock = Trainer(model, arguments(tmp_path), eval_dataset=data, data_collator=pad, compute_metrics=accuracy)
    assert stock.evaluate()["eval_loss"] == pytest.approx(on_inputs["eval_loss"])


def test_several_evaluation_sets(tmp_path):
    evaluation = {"first": labelled(), "second": labelled(count=5)}
    trainer = cached(seeded(models.tiny_bert), tmp_path, eval_dataset=evaluation)
    assert {name: len(data) for name, data in trainer.eval_dataset.items()} == {"first": 16, "second": 5}
    assert {"eval_first_loss", "eval_second_loss"} <= trainer.evaluate().keys()


def test_evaluation_alone(tmp_path):
    args = arguments(tmp_path)
    trainer = FeatureExtractionTrainer(seeded(models.tiny_bert), args, eval_dataset=labelled())
    assert trainer.train_dataset is None and trainer.evaluate()["eval_loss"] > 0


# --- data sets


def test_features_may_be_given(tmp_path):
    model = seeded(models.tiny_bert, **QUIET)
    features = extract_features(model, labelled(), progress=False)
    ours = cached(seeded(models.tiny_bert, **QUIET), tmp_path, features, eval_dataset=features)
    theirs = cached(model, tmp_path)
    assert ours.train_dataset is features
    ours.train(), theirs.train()
    assert all(torch.equal(value, weights(theirs.model)[name]) for name, value in weights(ours.model).items())


def test_cold_and_warm_runs_are_equal(tmp_path):
    first = cached(seeded(models.tiny_bert), tmp_path, objectives=[DomainAdversarial()], data=mixed())
    first.train()
    torch.manual_seed(123)
    second = cached(seeded(models.tiny_bert), tmp_path, objectives=[DomainAdversarial()], data=mixed())
    second.train()
    assert losses(first) == losses(second)
    assert len(list((tmp_path / "cache").iterdir())) == 1  # the adversary's random weights are no part of the key


def test_options_reach_the_extraction(tmp_path):
    trainer = cached(seeded(models.tiny_bert), tmp_path, extraction={"dtype": "float16", "batch_size": 3})
    assert trainer.train_dataset.features["features"].feature.dtype == "float16"
    trainer.train()
    assert set(ExtractionKwargs.__annotations__) < set(inspect.signature(extract_features).parameters)


def test_views_are_for_training(tmp_path):
    from PIL import Image
    from transformers import ViTImageProcessor

    pictures = [Image.fromarray(np.full((8, 8, 3), 20 * i, np.uint8)) for i in range(6)]
    data = Dataset.from_dict({"image": pictures, "label": [0, 1, 2] * 2})
    processor = ViTImageProcessor(size={"height": 8, "width": 8})
    trainer = cached(
        seeded(models.tiny_vit),
        tmp_path,
        data,
        eval_dataset=data,
        processing_class=processor,
        extraction={"views": 3, "augment": lambda pixels: pixels + torch.randn_like(pixels)},
    )
    assert len(trainer.train_dataset) == 18 and len(trainer.eval_dataset) == 6
    trainer.train()
    assert (tmp_path / "cache").is_dir()
    trainer.save_model(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "preprocessor_config.json").is_file()


def test_columns_nobody_reads_do_not_reach_the_model(tmp_path):
    trainer = cached(seeded(models.tiny_bert), tmp_path, mixed())
    assert "domain" in trainer.train_dataset.column_names and "id" in trainer.train_dataset.column_names
    batch = next(iter(trainer.get_train_dataloader()))
    assert set(batch) == {"features", "labels"}
    adversarial = cached(seeded(models.tiny_bert), tmp_path, mixed(), objectives=[DomainAdversarial()])
    batch = next(iter(adversarial.get_train_dataloader()))
    assert set(batch) == {"features", "labels", "domain"} and set(batch["domain"].tolist()) == {0, 1}
    keeping = cached(seeded(models.tiny_bert), tmp_path, mixed(), options={"remove_unused_columns": False})
    assert keeping.train().global_step == 4


def test_the_work_of_a_step_is_counted_for_the_head(tmp_path):
    trainer = cached(seeded(models.tiny_bert), tmp_path, options={"max_steps": 2})
    trainer.train()
    assert trainer.state.total_flos == 2 * 6 * 4 * (16 * 3 + 3)
    assert trainer.floating_point_ops({"input_ids": torch.zeros(2, 3)}) > 10_000


# --- checkpoints


SAVING = {"save_strategy": "steps", "save_steps": 2, "logging_steps": 1}


@pytest.mark.parametrize("adapted", [False, True], ids=["full", "lora"])
def test_a_resumed_run_is_the_straight_one_bit_for_bit(tmp_path, adapted):
    def make():
        model = seeded(models.tiny_bert)
        return models.lora(model, ["query"], "classifier") if adapted else model

    def trainer(folder):
        return cached(
            make(), folder, options={**SAVING, "max_steps": 6}, objectives=[DomainAdversarial()], data=mixed()
        )

    straight = trainer(tmp_path / "a")
    straight.train()
    again = trainer(tmp_path / "b")
    again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    assert again.state.global_step == 6
    assert terms(straight)[2:] == terms(again)[2:]
    first = {**weights(straight.model), **straight.objectives.state_dict()}
    second = {**weights(again.model), **again.objectives.state_dict()}
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_checkpoints_hold_the_whole_model_and_the_best_is_loaded(tmp_path):
    options = {**SAVING, "eval_strategy": "steps", "eval_steps": 2, "max_steps": 6, "learning_rate": 5.0}
    options.update(load_best_model_at_end=True, metric_for_best_model="loss", greater_is_better=False)
    trainer = cached(seeded(models.tiny_bert), tmp_path, options=options, eval_dataset=labelled())
    trainer.train()
    history = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(set(history)) == 3
    best = Path(trainer.state.best_model_checkpoint)
    assert best.name == f"checkpoint-{2 * (int(np.argmin(history)) + 1)}"
    loaded, report = AutoModelForSequenceClassification.from_pretrained(best, output_loading_info=True)
    assert not any(report.values())
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(history), abs=1e-6)
    batch = models.batch_for(loaded, labelled=False)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    assert torch.equal(loaded.eval()(**inputs).logits, trainer.model.eval()(**inputs).logits)


# huggingface_hub 2.4 gives LFS files to httpx2 as `data=`; drop when it gives them as `content=`.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_a_push_holds_the_ordinary_model(tmp_path):
    with HubServer() as hub, hub.connected(tmp_path / "home"):
        options = {"push_to_hub": True, "hub_model_id": "user/head", "hub_token": hub.token}
        trainer = cached(seeded(models.tiny_bert), tmp_path / "out", options=options, eval_dataset=labelled())
        trainer.train()
        trainer.push_to_hub()
        files = hub.files("user/head")
        loaded = AutoModelForSequenceClassification.from_pretrained("user/head", token=hub.token)
    assert files.keys() == {
        ".gitattributes",
        "README.md",
        "config.json",
        "model.safetensors",
        "training_arguments.yaml",
    }
    card = files["README.md"].decode()
    assert "datasets:" not in card.split("---")[1] and "FeatureForward" not in card
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in weights(trainer.model).items())


# --- with the rest of the house


def test_learning_rate_range_test_changes_nothing(tmp_path):
    swept, plain = (cached(seeded(models.tiny_bert), tmp_path, options={"head_lr": 0.1}) for _ in range(2))
    before = weights(swept.model)
    result = lr_find(swept, start=1e-4, end=1.0, steps=5)
    assert len(result.losses) >= 3
    assert all(torch.equal(value, before[name]) for name, value in weights(swept.model).items())
    swept.train(), plain.train()
    assert losses(swept) == losses(plain)


def test_model_init_with_another_backbone_each_time(tmp_path):
    made = []

    def make():
        torch.manual_seed(len(made))
        made.append(models.tiny_bert(**QUIET))
        return made[-1]

    trainer = FeatureExtractionTrainer(
        args=arguments(tmp_path), model_init=make, train_dataset=labelled(), eval_dataset=labelled()
    )
    trainer.train()
    assert trainer.model is made[-1] and len(made) == 2
    fresh = extract_features(trainer.model, labelled(), progress=False)
    assert trainer.train_dataset["features"][:] == fresh["features"][:]
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())
    expected = trainer.evaluate(labelled())["eval_loss"]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-5)


def test_mixed_precision(tmp_path):
    model = seeded(models.tiny_bert)
    trainer = cached(model, tmp_path, options={"bf16": True})
    trainer.train()
    batch = models.batch_for(model)
    batch.pop("domain")
    assert trainer.evaluate(labelled())["eval_loss"] == pytest.approx(
        trainer.evaluate(trainer.train_dataset)["eval_loss"], abs=0.05
    )
    trainer.restore()
    assert model(**batch).logits.shape == (4, 3)


# --- refusals


def after_the_head(module, args, output):
    output.logits = output.logits * 2
    return output


def test_what_follows_the_head(tmp_path):
    model = seeded(models.tiny_bert)
    model.register_forward_hook(after_the_head)
    with pytest.raises(ValueError, match="differ by .* at most: the model does something after.*FreezeBackbone"):
        cached(model, tmp_path)
    assert "forward" not in vars(model)


def test_the_wrong_layer_as_head(tmp_path):
    with pytest.raises(ValueError, match=r"`bert.pooler.dense`.*differ by shapes \(1, 3\) and \(1, 16\).*head=\.\.\."):
        cached(seeded(models.tiny_bert), tmp_path, head="bert.pooler.dense")


def test_features_of_another_width(tmp_path):
    data = Dataset.from_dict({"features": [[0.0] * 8] * 4, "labels": [0, 1] * 2})
    with pytest.raises(ValueError, match="features are 8 wide and the head `classifier` takes 16.*extract_features"):
        cached(seeded(models.tiny_bert), tmp_path, data)


def test_no_labels(tmp_path):
    with pytest.raises(ValueError, match="come with .*features.* no `labels`: there is no loss.*Give a training set"):
        cached(seeded(models.tiny_bert), tmp_path, labelled().remove_columns("labels"))


def test_a_head_that_would_not_be_saved(tmp_path):
    with pytest.raises(ValueError, match=r'No parameter of the head.*do not save.*modules_to_save=\["classifier"\]'):
        cached(models.lora(seeded(models.tiny_bert), ["query"]), tmp_path)


def test_schedules(tmp_path):
    with pytest.raises(ValueError, match="`FreezeBackbone` with cached features.*nothing else can.*`TransferTrainer`"):
        cached(seeded(models.tiny_bert), tmp_path, callbacks=[FreezeBackbone()])


def test_a_frozen_prefix(tmp_path):
    with pytest.raises(ValueError, match="`cache_frozen_prefix` with cached features: no block runs.*Leave it out"):
        cached(seeded(models.tiny_bert), tmp_path, options={"cache_frozen_prefix": True})


@pytest.mark.parametrize("make", [RDrop, DELTA])
def test_objectives_that_need_inputs(make, tmp_path):
    with pytest.raises(ValueError, match="(RDrop|DELTA) changes or looks inside.*has none.*FreezeBackbone"):
        cached(seeded(models.tiny_bert), tmp_path, objectives=[make()])


def test_objectives_with_a_second_model(tmp_path):
    objective = LearningWithoutForgetting(seeded(models.tiny_bert))
    with pytest.raises(ValueError, match="LearningWithoutForgetting runs a second model.*has none.*Leave it out"):
        cached(seeded(models.tiny_bert), tmp_path, objectives=[objective])


def test_mixed_images(tmp_path):
    with pytest.raises(ValueError, match="CutMix changes or looks inside"):
        cached(seeded(models.tiny_vit), tmp_path, labelled(True), objectives=[CutMix()])


def test_options_that_change_what_is_extracted(tmp_path):
    with pytest.raises(ValueError, match="'taps': .*is settled.*only batch_size, .*Leave `taps` out.*`extract_feat"):
        cached(seeded(models.tiny_bert), tmp_path, extraction={"taps": "blocks"})


def test_several_gpus_in_one_process(tmp_path):
    args = arguments(tmp_path)
    args._n_gpu = 2
    with pytest.raises(ValueError, match="2 GPUs in one process.*the head of the first.*accelerate launch"):
        FeatureExtractionTrainer(seeded(models.tiny_bert), args, train_dataset=labelled())


# --- ranks


@pytest.mark.slow
def test_two_ranks_are_one(tmp_path):
    done = launch("tests.features.training.feature_ranks", tmp_path / "two", 4, ranks=2)
    assert done.returncode == 0, done.stderr[-4000:]
    two = json.loads((tmp_path / "two" / "result.json").read_text())
    one = outcome(trained(tmp_path / "one", 8))
    assert one["features"] == pytest.approx(two["features"], abs=1e-6)
    assert one["losses"] == pytest.approx(two["losses"], abs=1e-4)
    assert one["head"] == pytest.approx(two["head"], abs=1e-5)


def test_the_trainer_can_be_copied_for_a_trial(tmp_path):
    """`lr_find` and others copy the trainer; what one freezes is not what the other thaws."""
    trainer = cached(seeded(models.tiny_bert), tmp_path)
    twin = copy.copy(trainer)
    trainer._freeze(trainer.model)
    assert twin._frozen == []
    trainer._thaw()
