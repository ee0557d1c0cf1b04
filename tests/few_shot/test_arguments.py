"""The options of the few-shot recipe: defaults, what follows from them, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from hf_transfer.adapter_arguments import AdapterOptions
from hf_transfer.few_shot.arguments import (
    SAMPLES_PER_CLASS,
    FewShotArguments,
    FewShotFeatureArguments,
    FewShotLoopArguments,
)
from hf_transfer.few_shot.methods import FEW_LABELS, ON_FEATURES
from hf_transfer.recipe_arguments import DataArguments


def recipe(**options) -> FewShotArguments:
    return FewShotArguments("data", **options)


def loop(tmp_path, **options) -> FewShotLoopArguments:
    return FewShotLoopArguments(str(tmp_path), use_cpu=True, **options)


def test_by_default_all_methods_that_train_nothing():
    assert recipe().methods == list(ON_FEATURES) and not recipe().trained
    assert recipe(mode="classes").methods == list(FEW_LABELS)[:3]


def test_the_reference_comes_first_and_names_may_be_joined():
    own = recipe(methods=["tim,protonet", "anil"], base_classes=4)
    assert own.methods == ["nearest_mean", "tim", "protonet", "anil"]
    assert own.on_features == ["nearest_mean", "tim"] and own.trained == ["protonet", "anil"]


def test_training_takes_the_most_shots_and_a_meta_learner_the_ways_of_the_test():
    own = recipe(methods=["protonet", "anil"], base_classes=9, k_shot=[5, 1, 5], train_n_way=8, train_queries=3)
    assert own.k_shot == [1, 5] and own.shots == 5
    assert own.ways("protonet") == 8 and own.ways("anil") == 5
    assert own.episode_rows("protonet") == 8 * (5 + 3) and own.episode_rows("anil") == 5 * (5 + 3)
    assert recipe(train_k_shot=2, k_shot=[5]).shots == 2


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"methods": ["protonett"], "base_classes": 3}, "did you mean protonet.*nothing could be run.*Choose from"),
        ({"methods": ["probe"]}, "for `--mode classes`, and this is `--mode episodes`.*different questions.*pass"),
        ({"methods": ["tim"], "mode": "classes"}, "for `--mode episodes`, and this is `--mode classes`"),
        ({"methods": ["anil"]}, "anil` without base classes.*says nothing of new ones.*`--base_classes`"),
        ({"base_classes": 3, "base_dataset_name": "other"}, "both say which classes.*Pass one"),
        ({"base_classes": 3, "mode": "classes"}, "none is held back.*ignored.*Leave it out"),
        ({"n_way": 1}, "`--n_way 1` leaves nothing.*Give 2 or more"),
        ({"k_shot": [0, 1]}, "`--k_shot 0` leaves nothing"),
        ({"episodes": 0}, "`--episodes 0`"),
        ({"seeds": 0}, "`--seeds 0`"),
        ({"inner_lr": -0.1}, "`--inner_lr -0.1` learns nothing.*more than 0"),
        ({"temperature": 0.0}, "`--temperature 0.0`"),
    ],
)
def test_what_contradicts_itself_is_refused(options, match):
    with pytest.raises(ValueError, match=match):
        recipe(**options)


def test_labels_of_a_class_are_for_the_mode_of_all_classes(tmp_path):
    data = DataArguments()
    recipe(mode="classes").check(data, loop(tmp_path))
    assert data.samples_per_class == SAMPLES_PER_CLASS
    recipe(mode="classes").check(data := DataArguments(samples_per_class=3), loop(tmp_path))
    assert data.samples_per_class == 3
    with pytest.raises(ValueError, match="`--samples_per_class 3` with `--mode episodes`.*its own `--k_shot`.*Leave"):
        recipe().check(data, loop(tmp_path))


def test_all_train_to_the_end(tmp_path):
    assert not loop(tmp_path).load_best_model_at_end
    with pytest.raises(ValueError, match="`--eval_strategy epoch`.*another problem.*Leave it out"):
        loop(tmp_path, eval_strategy="epoch")
    with pytest.raises(ValueError, match="resume_from_checkpoint` with several runs.*Leave it out"):
        recipe().check(DataArguments(), loop(tmp_path, resume_from_checkpoint="there"))


@pytest.mark.parametrize(
    ("pooling", "columns", "expected"),
    [(None, ("text",), False), ("mean", ("text", "text_pair"), True), ("mean", ("image",), False)],
)
def test_models_of_texts_pool_themselves(pooling, columns, expected):
    data = SimpleNamespace(input_columns=columns)
    features = FewShotFeatureArguments(pooling=pooling)
    assert features.pools_in_model(cast(Any, data)) is expected
    for adapter, learned in ((AdapterOptions("lora"), None), (AdapterOptions(), "lora")):
        if expected:
            with pytest.raises(ValueError, match="`--(adapter|meta_parameters)` with `--pooling mean`.*names the"):
                features.check_adapter(adapter, learned, cast(Any, data))
        else:
            features.check_adapter(adapter, learned, cast(Any, data))
