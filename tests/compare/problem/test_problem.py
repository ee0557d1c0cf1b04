from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hf_transfer import mix_domains
from hf_transfer.compare.cells import CellKey
from hf_transfer.compare.problem.pretrained import Pretrained
from hf_transfer.compare.problem.problem import Problem
from hf_transfer.recipe_arguments import DataArguments
from tests.compare.tiny_problems import (
    NAMES,
    image_data,
    image_processor,
    loop,
    regression_data,
    text_data,
    texts,
    token_data,
    tokenizer,
)
from tests.models import tiny_bert, tiny_vit


def base(data, label="m", **options) -> Pretrained:
    return Pretrained(label, None, data, model=tiny_bert(**options), processor=tokenizer())


@cache
def any_base() -> Pretrained:
    """A model that reads text; what it answers is not asked here."""
    return base(text_data())


def problem(data, **options) -> Problem:
    return Problem(data, [any_base()], **options)


# --- who validates


def test_a_validation_split_validates_every_seed():
    data = text_data(validation=8)
    found = problem(data)
    assert not found.by_folds and found.metric == "accuracy" and found.label_names == NAMES
    for seed in (0, 1, 7):
        assert found.validation_ids(seed).tolist() == list(range(8))
        assert found.train_ids(seed).tolist() == list(range(20))


def test_seeds_validate_on_one_fold_after_the_other():
    found = problem(text_data(), folds=4, seed=10)
    parts = [found.validation_ids(seed) for seed in range(10, 14)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(20))  # each row once
    labels = np.array(found.data.train["label"])
    for seed, rows in zip(range(10, 14), parts, strict=True):
        assert set(labels[rows]) == {0, 1} and abs(int(labels[rows].sum()) * 2 - len(rows)) <= 1
        assert sorted([*rows, *found.train_ids(seed)]) == list(range(20))
    again = [found.validation_ids(seed) for seed in range(14, 18)]
    assert sorted(np.concatenate(again).tolist()) == list(range(20))
    assert {frozenset(rows) for rows in parts}.isdisjoint({frozenset(rows) for rows in again})  # another cut
    assert (problem(text_data(), folds=4, seed=10).validation_ids(12) == parts[2]).all()
    other = problem(text_data(), folds=4, seed=11).validation_ids(11)
    assert set(other) != set(parts[0]) and set(other) != set(parts[1])


def test_a_share_is_taken_of_the_rows_that_train():
    found = problem(text_data(24), folds=3)
    for seed in (0, 1):
        rows = found.train_ids(seed)
        half, quarter = found.train_ids(seed, 0.5), found.train_ids(seed, 0.25)
        assert set(quarter) < set(half) < set(rows) and (len(half), len(quarter)) == (8, 4)
        assert set(half).isdisjoint(found.validation_ids(seed))
        assert found.train_ids(seed, full=True).tolist() == list(range(24))


def test_regressions_and_tokens_are_cut_without_classes():
    data = regression_data()
    assert sorted(map(len, (problem(data).validation_ids(seed) for seed in range(5)))) == [4] * 5
    found = problem(token_data(), folds=3)
    assert len(found.validation_ids(0)) == 4 and found.metric == "accuracy" and not found.regression


# --- a target


def target_of(rows=20, **options):
    return text_data(rows, **options)


def test_the_target_validates_and_tests_and_its_labels_do_not_train(tmp_path):
    data = text_data(12, validation=4, test=4)
    target = replace(target_of(16, validation=6, test=10), eval=texts(6, seed=7), test=texts(10, seed=8))
    found = problem(data, target=target)
    assert found.data.eval is not None and found.data.eval["text"][:] == texts(6, seed=7)["text"][:]
    assert found.data.test is not None and found.data.test["text"][:] == texts(10, seed=8)["text"][:]
    assert found.target is not None and found.target.column_names == ["text"] and len(found.target) == 16
    setup = found.setup(CellKey("m", "dann", 0), loop(tmp_path))
    assert setup.target is not None and "labels" not in setup.target.column_names
    mixed = mix_domains(setup.train, setup.target)
    assert mixed["labels"][12:] == [-100] * 16 and mixed["labels"][:12] == data.train["label"][:]
    assert found.describe()["validation"] == "validation split of the target" and not found.by_folds


def test_a_fifth_of_the_target_validates_and_is_not_among_the_unlabelled_rows():
    target = target_of(20, test=0)
    rows = [f"{text} {number}" for number, text in enumerate(target.train["text"])]  # each is another
    target = replace(target, train=target.train.remove_columns("text").add_column("text", rows))  # pyright: ignore
    found = problem(text_data(), target=target)
    assert found.data.eval is not None and found.target is not None and found.data.test is None
    held = set(found.data.eval["text"])
    assert len(held) == 4 and held.isdisjoint(found.target["text"]) and len(found.target) == 16
    assert held | set(found.target["text"]) == set(rows)


def test_classes_of_the_target_are_told_by_name():
    swapped = texts(10).map(lambda row: {"label": 1 - row["label"]})
    swapped = swapped.cast_column("label", ClassLabel(names=["good", "bad"]))
    target = replace(target_of(10), train=swapped, eval=swapped, test=None, label_names=("good", "bad"))
    found = problem(text_data(), target=target)
    assert found.data.eval is not None and found.data.eval["label"][:] == texts(10)["label"][:]
    assert found.data.eval.features["label"].names == list(NAMES)


def test_targets_that_cannot_judge_are_refused():
    data, target = text_data(), target_of()
    blind = replace(target, train=target.train.remove_columns("label"))
    with pytest.raises(ValueError, match=r"no labels.*could not be told.*recipes/domain_adaptation.py"):
        problem(data, target=blind)
    with pytest.raises(ValueError, match=r"classes `c`, which the source does not know.*Name a target"):
        problem(data, target=text_data(classes=3))
    with pytest.raises(ValueError, match=r"image-classification of `image`, the data for text-classification"):
        problem(data, target=image_data())


# --- what is refused


def test_one_class_is_no_problem_to_compare_on():
    train = texts(10).filter(lambda row: row["label"] == 1)
    with pytest.raises(ValueError, match=r"one class only \(`?good`?\).*always right.*at least two"):
        problem(replace(text_data(), train=train))
    values = Dataset.from_dict(
        {"text": texts(6)["text"][:], "label": [2.0] * 6},
        features=Features({"text": Value("string"), "label": Value("float32")}),
    )
    with pytest.raises(ValueError, match=r"one value only \(.*2.0.*\)"):
        problem(replace(regression_data(), train=values))


def test_classes_with_fewer_rows_than_folds_are_named():
    train = texts(20).select([*range(0, 20, 2), 1, 3, 5])
    data = replace(text_data(), train=train)
    with pytest.raises(ValueError, match=r"1 of 2 classes have fewer rows than the 5 folds.*good 3.*--folds 3"):
        problem(data)
    assert problem(data, folds=3).by_folds
    with pytest.raises(ValueError, match=r"`folds=1` leaves no row.*Give 2 or more"):
        problem(data, folds=1)
    with pytest.raises(ValueError, match=r"all rows 20.*--folds 20"):
        problem(regression_data(), folds=21)


def test_a_class_without_a_validation_row_is_named():
    held = texts(10).filter(lambda row: row["label"] == 0)
    with pytest.raises(ValueError, match=r"The validation split has no row of 1 of 2 classes.*good.*Raise"):
        problem(replace(text_data(), eval=held))


def test_models_have_labels_of_their_own():
    data = text_data()
    one = any_base()
    with pytest.raises(ValueError, match=r"`m` names 2 models.*could not be told apart.*once"):
        Problem(data, [one, one])
    with pytest.raises(ValueError, match="No model is given"):
        Problem(data, [])


def test_models_that_cannot_read_the_data_are_refused():
    data = image_data()
    model = Pretrained("m", None, data, model=tiny_vit(), processor=image_processor())
    with pytest.raises(ValueError, match=r"holds text, but the model came with ViTImageProcessor"):
        Problem(text_data(), [model])
    with pytest.raises(ValueError, match=r"`--augmentation light` with data for text-classification"):
        problem(text_data(), data_args=DataArguments(augmentation="light"))


def test_a_teacher_that_is_not_there_is_told_at_once(tmp_path):
    with pytest.raises(OSError, match="does not exist"):
        problem(text_data(), teacher=str(tmp_path / "no" / "teacher"))


# --- fingerprints


def test_the_fingerprint_tells_what_runs_depend_on():
    data = text_data(24)
    model = any_base()
    whole = Problem(data, [model], folds=3).fingerprint("m")
    assert Problem(data, [model, base(data, "other")], folds=3, seeds=9).fingerprint("m") == whole
    changed = {
        "folds": Problem(data, [model], folds=4),
        "seed": Problem(data, [model], folds=3, seed=1),
        "rows": Problem(replace(data, train=data.train.select(range(23))), [model], folds=3),
        "test": Problem(replace(data, test=None), [model], folds=3),
        "length": Problem(data, [model], folds=3, data_args=DataArguments(max_length=4)),
        "target": Problem(data, [model], folds=3, target=target_of()),
        "teacher": Problem(data, [model], folds=3, teacher=tiny_bert()),
        "model": Problem(data, [base(data)], folds=3),
    }
    found = {name: other.fingerprint("m") for name, other in changed.items()}
    assert whole not in found.values() and len(set(found.values())) == len(found)
    assert changed["model"].fingerprint() == Problem(data, [model], folds=3).fingerprint()


def test_a_seed_counts_only_where_it_cuts():
    data = text_data(validation=6)
    model = any_base()
    first, second = (Problem(data, [model], seed=seed).fingerprint() for seed in (0, 1))
    assert first == second


def test_the_description_says_how_validation_rows_were_had():
    found = problem(text_data(24), folds=3).describe()
    assert found["rows"] == {"train": 24, "test": 6} and found["classes"] == 2
    assert found["validation"] == "3 folds of the training rows, another one for each seed"
    assert found["models"]["m"]["parameters"] > 1000 and found["teacher"] is None
