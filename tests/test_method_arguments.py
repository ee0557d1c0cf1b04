"""Options to objectives and callbacks, and the combinations that make no sense."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from transformers import EarlyStoppingCallback, TrainerControl, TrainerState

from hf_transfer import callbacks as C
from hf_transfer import objectives as O
from hf_transfer.method_arguments import MethodArguments
from hf_transfer.recipe_arguments import NEW_HEAD_LR, LoopArguments, ModelArguments
from tests.models import batch_for, tiny_bert, tiny_resnet


HERE = ModelArguments(model_name_or_path="somewhere")
SCRATCH = ModelArguments(model_type="bert")


def loop(tmp_path, **options) -> LoopArguments:
    return LoopArguments(output_dir=str(tmp_path), use_cpu=True, **options)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    tiny_bert(num_labels=5).save_pretrained(folder)
    return str(folder)


def test_everything_is_off_by_default():
    methods = MethodArguments()
    assert methods.objectives(HERE) == [] and methods.callbacks() == [] and methods.describe() == ""
    assert not methods.needs_validation


TERMS = {
    "l2sp": (O.L2SP, "weight"),
    "delta": (O.DELTA, "weight"),
    "bss": (O.BatchSpectralShrinkage, "weight"),
    "lwf": (O.LearningWithoutForgetting, "weight"),
    "co_tuning": (O.CoTuning, "weight"),
    "bi_tuning": (O.BiTuning, "weight"),
    "supervised_contrastive": (O.SupervisedContrastive, "weight"),
    "r_drop": (O.RDrop, "weight"),
    "label_smoothing": (O.LabelSmoothing, "smoothing"),
    "focal_gamma": (O.FocalLoss, "gamma"),
    "class_balanced": (O.ClassBalanced, "beta"),
    "mixup": (O.Mixup, "alpha"),
    "cutmix": (O.CutMix, "alpha"),
}


@pytest.mark.parametrize("option", TERMS)
def test_an_option_is_its_objective(option, source):
    kind, attribute = TERMS[option]
    (objective,) = MethodArguments(**{option: 0.3}).objectives(ModelArguments(model_name_or_path=source))
    assert type(objective) is kind and getattr(objective, attribute) == 0.3


RULES = {
    "freeze_batch_norm": (True, C.FreezeBatchNorm),
    "mixout": (0.5, C.Mixout),
    "stoch_norm": (0.5, C.StochNorm),
    "ema": (0.9, C.ExponentialMovingAverage),
    "freeze": ("gradual", C.GradualUnfreezing),
    "early_stopping_patience": (3, EarlyStoppingCallback),
}


@pytest.mark.parametrize("option", RULES)
def test_an_option_is_its_callback(option):
    value, kind = RULES[option]
    (callback,) = MethodArguments(**{option: value}).callbacks()
    assert isinstance(callback, kind)


def test_every_objective_for_fine_tuning_has_an_option():
    # those of other families have recipes of their own; rules are functions, which no option holds
    families = ("domain_adaptation", "distillation", "few_shot", "knowledge", "multitask")
    elsewhere = {name for name in O.__all__ if getattr(O, name).__module__.split(".")[2] in families}
    assert "DomainAdversarial" in elsewhere
    assert {kind.__name__ for kind, _ in TERMS.values()} | elsewhere == set(O.__all__)


def test_every_callback_has_an_option():
    plumbing = {"Phase", "Plateau", "TrackProgress", "UnfreezingSchedule", "FreezeBackbone"}
    plumbing |= {"AdaptBatchNorm"}  # in the recipe of domain adaptation
    plumbing |= {"AllocateRanks"}  # comes with the adapter
    assert {kind.__name__ for _, kind in RULES.values()} - {"EarlyStoppingCallback"} | plumbing == set(C.__all__)


def test_changes_of_the_targets_come_before_what_reads_them():
    methods = MethodArguments(l2sp=1.0, focal_gamma=2.0, label_smoothing=0.1, mixup=0.2)
    assert [type(o).__name__ for o in methods.objectives(HERE)] == ["Mixup", "LabelSmoothing", "FocalLoss", "L2SP"]


def test_options_that_differ_are_described():
    methods = MethodArguments(l2sp=0.01, probe_first=True, freeze="gradual")
    assert methods.describe() == "--freeze gradual --probe_first --l2sp 0.01"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "x.yaml", "freeze": "gradual"}, "two plans of what trains when"),
        ({"freeze_batch_norm": True, "stoch_norm": 0.5}, "one never looks at the batch.*Pass one of them"),
        ({"mixup": 0.2, "cutmix": 1.0}, "`--mixup 0.2` with `--cutmix 1.0`: images mixed twice.*Pass one of them"),
        ({"transfer_blocks": 2}, "without `--transfer_from`.*no checkpoint to take blocks from"),
    ],
)
def test_contradictions_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MethodArguments(**options)


@pytest.mark.parametrize("option", ["l2sp", "delta", "mixout", "wise_ft", "probe_first"])
def test_looking_back_at_random_weights_is_refused(tmp_path, option):
    value = True if isinstance(getattr(MethodArguments(), option), bool) else 0.5
    methods = MethodArguments(**{option: value})
    told = f"--{option}" if value is True else f"--{option} {value}"
    with pytest.raises(ValueError, match=f"`{told}` with `--model_type bert`: it would hold.*leave `--{option}`"):
        methods.check(SCRATCH, loop(tmp_path))
    dataclasses.replace(methods, transfer_from="elsewhere").check(SCRATCH, loop(tmp_path))


@pytest.mark.parametrize("option", ["lwf", "co_tuning"])
def test_a_source_must_be_there(tmp_path, option):
    with pytest.raises(ValueError, match="there is none.*--source_name_or_path"):
        MethodArguments(**{option: 1.0}).check(SCRATCH, loop(tmp_path))


def test_early_stopping_needs_checkpoints_to_go_back_to(tmp_path):
    args = loop(tmp_path, eval_strategy="no", save_strategy="no")
    with pytest.raises(ValueError, match="nothing tells when to stop"):
        MethodArguments(early_stopping_patience=2).check(HERE, args)


def test_initialise_does_what_the_options_say(tmp_path, source):
    batch = {key: value for key, value in batch_for(tiny_bert(), 12).items() if key != "domain"}
    torch.manual_seed(5)  # not the weights of the source
    model, args = tiny_bert(), loop(tmp_path)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    methods = MethodArguments(transfer_from=source, transfer_blocks=1, reinitialize_blocks=1, probe_first=True)
    methods.initialise(model, lambda: [batch], args)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert "bert.encoder.layer.0.attention.self.query.weight" in changed
    assert "bert.encoder.layer.1.attention.self.query.weight" not in changed
    assert "bert.encoder.layer.2.attention.self.query.weight" in changed
    assert "classifier.weight" in changed
    assert args.head_lr is None, "the head is no longer new"


def test_a_rate_of_the_head_that_was_asked_for_stays(tmp_path):
    model = tiny_resnet()
    batch = {key: value for key, value in batch_for(model, 12).items() if key != "domain"}
    args = loop(tmp_path, head_lr=0.5)
    MethodArguments(probe_first=True).initialise(model, lambda: [batch], args)
    assert args.head_lr == 0.5
    untouched = loop(tmp_path)
    MethodArguments().initialise(model, lambda: [batch], untouched)
    assert untouched.head_lr == NEW_HEAD_LR


def test_methods_that_ask_the_source_ask_the_same_one(source):
    methods = MethodArguments(lwf=1.0, co_tuning=2.0)
    first, second = methods.objectives(ModelArguments(model_name_or_path=source))
    assert getattr(first, "source", None) is getattr(second, "source", None) is not None


def test_weights_are_those_of_terms_not_of_the_task(source):
    methods = MethodArguments(l2sp=0.1, bss=0.2, label_smoothing=0.1, focal_gamma=2.0, lwf=3.0)
    weighted = methods.weighted(ModelArguments(model_name_or_path=source))
    assert {option: weight for option, (_, weight) in weighted.items()} == {"l2sp": 0.1, "bss": 0.2, "lwf": 3.0}


def test_the_probe_has_folds_of_its_own_seed(tmp_path, monkeypatch):
    seeds = []

    def fit_head(model, batches, *, seed):
        seeds.append(seed)
        return SimpleNamespace(strength=0.1, scores={}, rows=4)

    monkeypatch.setattr("hf_transfer.method_arguments.fit_head", fit_head)
    methods, args = MethodArguments(probe_first=True), loop(tmp_path, seed=3)
    methods.initialise(tiny_resnet(), list, args)
    methods.initialise(tiny_resnet(), list, args, seed=8)
    assert seeds == [3, 8]


def test_early_stopping_says_nothing_of_best_models_in_a_search(tmp_path, caplog):
    (callback,) = MethodArguments(early_stopping_patience=2).callbacks()
    args = loop(tmp_path, load_best_model_at_end=False)
    callback.on_train_begin(args, TrainerState(), TrainerControl())
    assert not caplog.records


def test_channel_weights_of_delta_can_be_left_out():
    (weighted,), (alike,) = (MethodArguments(delta=0.1, delta_attention=on).objectives(HERE) for on in (True, False))
    assert weighted.learns_from_data and not alike.learns_from_data
