"""The strategies that a comparison knows by name."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from hf_transfer.compare.problem.problem import Problem
from hf_transfer.compare.strategies import STANDARD, FineTune, Majority, Strategy, strategies_for
from hf_transfer.distillation.methods import VOCABULARY as TEACHING
from hf_transfer.domain_adaptation.methods import VOCABULARY as ADAPTING
from tests.compare.strategies.problems import STEPS, problem, setup_of
from tests.models import tiny_bert


ALWAYS = ["majority", "scratch", "probe", "full", "gradual", "l2sp", "lora", "lp_ft"]


def given(**needs: Any) -> Any:
    return SimpleNamespace(**{"teacher": None, "target": None, **needs})


def names(strategies: list[Strategy]) -> list[str]:
    return [strategy.name for strategy in strategies]


def test_the_order_of_the_table():
    always = [*ALWAYS[:4], "frozen_bn", *ALWAYS[4:]]
    assert list(STANDARD) == [*always, "distillation", "dann", "coral"]
    assert all(name == strategy.name for name, strategy in STANDARD.items())


def test_every_one_is_told_in_words_and_groups():
    for strategy in STANDARD.values():
        assert strategy.title and strategy.about.endswith(".") and len(strategy.about) < 120
        assert not strategy.paper or strategy.paper.startswith("https://huggingface.co/papers/")
    rates = {name: strategy.rate for name, strategy in STANDARD.items()}
    assert rates == {**dict.fromkeys(STANDARD, "whole"), **{"majority": None, "probe": None}} | {
        "scratch": "scratch",
        "frozen_bn": "fixed_statistics",
        "lora": "adapter",
        "lp_ft": "probed",
    }
    assert [name for name, strategy in STANDARD.items() if strategy.baseline] == ["majority", "scratch"]


def test_settings_tell_all_of_them_apart_beside_their_names():
    seen = [
        json.dumps({**strategy.settings(), "name": "", "rate": None}, sort_keys=True) for strategy in STANDARD.values()
    ]
    assert len(set(seen)) == len(seen)


def test_terms_are_those_of_the_recipes():
    def setup(column: str) -> Any:
        return SimpleNamespace(problem=SimpleNamespace(data=SimpleNamespace(input_columns=(column,))))

    for name in ("dann", "coral"):
        (term,) = STANDARD[name].objectives(setup("image"))  # pyright: ignore[reportAttributeAccessIssue]
        (recipe,) = ADAPTING.parse(name).objectives(num_domains=2)
        assert type(term) is type(recipe) and term.weight == recipe.weight == 1.0
    (term,) = STANDARD["dann"].objectives(setup("text"))  # pyright: ignore[reportAttributeAccessIssue]
    assert term.weight == 0.1  # at 1 the adversary wins before the task is learned
    (part,) = TEACHING.parse("kd").parts
    assert part.make.__name__ == "LogitDistillation" and not part.options
    (l2sp,) = STANDARD["l2sp"].objectives(None)  # pyright: ignore[reportAttributeAccessIssue]
    assert l2sp.weight == 0.01


def test_by_default_all_whose_needs_are_met():
    assert names(strategies_for(given())) == ALWAYS
    assert names(strategies_for(given(batch_norm=True)))[4] == "frozen_bn"
    assert names(strategies_for(given(teacher="t"))) == [*ALWAYS, "distillation"]
    assert names(strategies_for(given(target="t"))) == [*ALWAYS, "dann", "coral"]


def test_words_and_own_strategies_in_the_order_they_are_named():
    own = FineTune(name="own", options={"weight_decay": 0.1})
    assert names(strategies_for(given(), ["full", own, "majority", "full"])) == ["full", "own", "majority"]
    assert names(strategies_for(given(), ["standard", own])) == [*ALWAYS, "own"]


def test_an_unknown_word_is_told_its_neighbour():
    with pytest.raises(ValueError, match=r"`gradul` is no strategy.*Did you mean `gradual`"):
        strategies_for(given(), ["gradul"])


@pytest.mark.parametrize(("name", "said"), [("distillation", "--teacher"), ("dann", "--target_dataset")])
def test_what_lacks_its_needs_is_refused(name, said):
    with pytest.raises(ValueError, match=rf"`{name}` needs a \w+, and none is given.*{said}"):
        strategies_for(given(), [name])


def test_batch_norm_that_no_model_has_is_refused():
    with pytest.raises(ValueError, match=r"`frozen_bn` is about batch normalisation, which no model.*Leave it out"):
        strategies_for(given(), ["frozen_bn"])


def test_two_by_one_name_are_refused():
    with pytest.raises(ValueError, match=r"Two different strategies are called `full`.*another name"):
        strategies_for(given(), ["standard", FineTune(name="full")])


def test_none_at_all_is_refused():
    with pytest.raises(ValueError, match="No strategy is named.*Choose from majority"):
        strategies_for(given(), [])


def test_a_strategy_of_ones_own_needs_no_entry():
    assert names(strategies_for(given(), [Majority(name="most")])) == ["most"]


# --- runs


@pytest.fixture(scope="module")
def said() -> dict[str, dict[str, np.ndarray]]:
    """Test logits of the strategies before, by problem."""
    return defaultdict(dict)


def logits_of(name: str, made: Problem, place: Path) -> tuple[Any, dict[str, np.ndarray]]:
    torch.rand(1)  # what was drawn before a run is nothing to it
    setup = setup_of(made, place, name)
    fitted = STANDARD[name].fit(setup)
    found = {split: fitted.logits.get(split) for split in ("validation", "test")}
    return fitted, {
        split: setup.predict(fitted.model, split) if own is None else own  # pyright: ignore
        for split, own in found.items()
    }


@pytest.mark.parametrize("kind", ["texts", "images"])
@pytest.mark.parametrize("name", [name for name in STANDARD if name != "frozen_bn"])  # which has a test of its own
def test_every_one_trains_equal_steps_and_the_same_again(request, place, kind, name, said):
    if kind == "images" and name == "distillation":
        kind = "taught_images"
    if STANDARD[name].needs & {"target"}:
        kind = f"shifted_{kind}"
    made = request.getfixturevalue(kind)
    fitted, logits = logits_of(name, made, place)
    assert fitted.steps == (0 if name in ("majority", "probe") else STEPS)
    assert (fitted.trained_parameters > 0) == (fitted.model is not None) == (name != "majority")
    assert logits["validation"].shape == (8, 2) and logits["test"].shape == (6, 2)
    assert all(np.isfinite(own).all() for own in logits.values())
    assert fitted.note
    if kind.endswith("texts") or name in ("full", "gradual"):
        again = logits_of(name, made, place)[1]
        for split, own in logits.items():
            np.testing.assert_array_equal(own, again[split])
    # no two of them do the same
    assert not any(np.array_equal(logits["test"], own) for own in said[kind].values())
    said[kind][name] = logits["test"]


def test_another_seed_is_another_run(texts, place):
    setups = [setup_of(texts, place, seed=seed) for seed in (0, 1)]
    one, two = (setup.predict(cast(Any, STANDARD["full"].fit(setup).model), "test") for setup in setups)
    assert not np.array_equal(one, two)


def test_a_network_of_statistics_is_thawed_in_stages(place):
    made = problem("resnet", place)
    fitted, logits = logits_of("gradual", made, place)
    assert fitted.steps == STEPS and np.isfinite(logits["test"]).all()


@pytest.mark.parametrize("name", ["frozen_bn", "lp_ft"])
def test_statistics_stay_those_of_the_pretrained_model(place, name):
    made = problem("resnet", place)
    assert made.batch_norm
    before = {name: value.clone() for name, value in made.models[0].model.named_buffers() if "running" in name}
    fitted, logits = logits_of(name, made, place)
    after = dict(cast(Any, fitted.model).named_buffers())
    assert fitted.steps == STEPS and before and all(torch.equal(after[name], value) for name, value in before.items())
    assert not np.array_equal(logits["test"], logits_of("full", made, place)[1]["test"])
    assert problem("bert", place).batch_norm is None


@pytest.mark.parametrize(("blocks", "stages"), [(1, 2), (2, 3), (3, 4), (6, 4)])
def test_no_more_stages_than_there_are_blocks_to_thaw(blocks, stages):
    setup: Any = SimpleNamespace(base=SimpleNamespace(model=tiny_bert(num_hidden_layers=blocks)))
    (callback,) = STANDARD["gradual"].callbacks(setup)  # pyright: ignore[reportAttributeAccessIssue]
    assert callback.stages == stages


@pytest.mark.parametrize("name", ["majority", "full"])
def test_tags_of_tokens(place, name):
    made = problem("tokens", place)
    setup = setup_of(made, place, name)
    fitted = STANDARD[name].fit(setup)
    found = fitted.logits.get("test")
    own = setup.predict(cast(Any, fitted.model), "test") if found is None else found
    assert own.shape == (*setup.labels("test").shape, 2)


@pytest.mark.parametrize("name", ["majority", "lp_ft"])
def test_regressions(place, name):
    fitted, logits = logits_of(name, problem("bert", place, regression=True), place)
    assert logits["test"].shape == (6, 1)


def test_the_saved_model_says_the_same(texts, place, tmp_path):
    setup = setup_of(texts, place)
    fitted = STANDARD["l2sp"].fit(setup)
    model: Any = fitted.model
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    np.testing.assert_array_equal(setup.predict(loaded, "test"), setup.predict(model, "test"))
