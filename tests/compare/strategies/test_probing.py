"""The probe as a strategy: on shared features, without running the model again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch

from hf_transfer.anatomy import anatomy
from hf_transfer.compare.problem import setup as setups
from hf_transfer.compare.problem import shared_rows
from hf_transfer.compare.problem.pretrained import Pretrained
from hf_transfer.compare.problem.problem import Problem
from hf_transfer.compare.strategies import STANDARD, LinearProbe
from tests.compare.strategies.problems import data, problem, processor, setup_of
from tests.models import tiny_bert


PROBE = LinearProbe(name="probe")


@pytest.mark.parametrize("kind", ["bert", "resnet", "gpt2", "tokens"])
def test_its_logits_are_those_of_the_folded_model(place, kind):
    setup = setup_of(problem(kind, place), place)
    fitted = PROBE.fit(setup)
    assert set(fitted.logits) == {"validation", "test"}
    for split, logits in fitted.logits.items():
        assert logits.dtype == np.float32
        own = setup.predict(cast(Any, fitted.model), cast(Any, split))
        labels = setup.labels(cast(Any, split))
        assert own.shape == logits.shape and logits.shape[:-1] == labels.shape
        counted = labels != -100
        np.testing.assert_allclose(logits[counted], own[counted], atol=2e-3, rtol=1e-3)


def test_a_regression_gets_values(place):
    setup = setup_of(problem("bert", place, regression=True), place)
    fitted = PROBE.fit(setup)
    assert fitted.logits["test"].shape == (6, 1) and "ridge" in fitted.note
    np.testing.assert_allclose(fitted.logits["test"], setup.predict(cast(Any, fitted.model), "test"), atol=1e-3)


def test_nothing_but_the_head_is_changed(texts, place):
    setup = setup_of(texts, place)
    fitted, start = PROBE.fit(setup), setup.fresh()
    model: Any = fitted.model
    head = anatomy(start).head
    changed = {
        name
        for (name, own), old in zip(model.state_dict().items(), start.state_dict().values(), strict=True)
        if not torch.equal(own.cpu(), old)
    }
    assert changed == {f"{head}.weight", f"{head}.bias"}
    assert fitted.trained_parameters == 2 * 16 + 2 and fitted.steps == 0


def test_features_and_probe_are_made_once_for_all_that_need_them(place, monkeypatch):
    extracted, fits = [], []
    extract, fit = shared_rows.extract_features, setups.fit_probe

    def extracting(model: Any, split: Any, *args: Any, **options: Any) -> Any:
        extracted.append(len(split))
        return extract(model, split, *args, **options)

    def fitting(*args: Any, **options: Any) -> Any:
        fits.append(1)
        return fit(*args, **options)

    monkeypatch.setattr(shared_rows, "extract_features", extracting)
    monkeypatch.setattr(setups, "fit_probe", fitting)
    made = problem("vit", place)
    for name in ("probe", "lp_ft", "probe"):
        STANDARD[name].fit(setup_of(made, place, name))
    assert extracted == [20, 8, 6] and len(fits) == 1
    STANDARD["probe"].fit(setup_of(made, place, "probe", share=0.5))
    assert extracted == [20, 8, 6] and len(fits) == 2


def test_the_probe_of_a_part_of_the_rows_is_that_part_s_own(place):
    made = problem("vit", place)
    whole = setup_of(made, place, "lp_ft")
    part = whole.part(range(12))
    assert len(part.features("train")) == 12 and part.probe() is not whole.probe()
    assert part.probe() is whole.part(range(12)).probe() and whole.probe() is setup_of(made, place, "probe").probe()


def test_where_folds_validate_the_logits_are_of_the_fold(place):
    own = replace(data("bert"), eval=None)
    base = Pretrained("tiny", None, own, model=tiny_bert(), processor=processor("bert"))
    setup = setup_of(Problem(own, [base], cache_dir=place / "folds"), place)
    fitted = PROBE.fit(setup)
    assert fitted.logits["validation"].shape == (4, 2)
    np.testing.assert_allclose(
        fitted.logits["validation"], setup.predict(cast(Any, fitted.model), "validation"), atol=2e-3, rtol=1e-3
    )


def test_the_card_is_told(texts, place):
    fitted = PROBE.fit(setup_of(texts, place, seed=3))
    assert fitted.trainer is not None and fitted.trainer.model is fitted.model
    facts = fitted.trainer.facts
    assert facts.task == "text-classification" and facts.seeds == [3] and facts.inputs == ["text"]
    assert "a logistic probe of strength 100 was fitted to them" in facts.strategy[0]
    assert fitted.note == "logistic probe of strength 100"
