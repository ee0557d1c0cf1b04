"""Names of a checkpoint and names of a model."""

from __future__ import annotations

import pytest

from hf_transfer.weights.naming import Candidate, candidates, match
from hf_transfer.weights.slots import slots
from hf_transfer.weights.source import open_source
from tests.models import tiny_bert, tiny_vit


def found(*names: str) -> list[Candidate]:
    return [Candidate(name, (name,), (1,), how="same name") for name in names]


class Bert:
    base_model_prefix = "bert"


@pytest.mark.parametrize(("name", "prefix", "expected"), [
    ("bert.x.weight", "bert", "bert.x.weight"),
    ("x.weight", "", "bert.x.weight"),
    ("roberta.x.weight", "roberta", "bert.x.weight"),
    ("roberta.x.weight", "", "bert.x.weight"),  # a state dict does not say its prefix
    ("bert.y", "bert", "y"),
    ("y", "", "y"),
])  # fmt: skip
def test_prefixes(name, prefix, expected):
    (pair,) = match(found(name), prefix, Bert(), {"bert.x.weight", "y"}).items()  # type: ignore[arg-type]
    assert pair[0] == expected and pair[1].sources == (name,)
    assert pair[1].how == ("same name" if name == expected else "another base-model prefix")


def test_the_same_name_comes_before_one_with_another_prefix():
    matched = match(found("x.weight", "bert.x.weight"), "", Bert(), {"bert.x.weight"})  # type: ignore[arg-type]
    assert matched["bert.x.weight"].sources == ("bert.x.weight",)
    matched = match(found("bert.x.weight", "x.weight"), "", Bert(), {"bert.x.weight"})  # type: ignore[arg-type]
    assert matched["bert.x.weight"].sources == ("bert.x.weight",)


def test_what_has_no_place_has_no_match():
    assert match(found("z", "a.b"), "", Bert(), {"bert.x.weight"}) == {}  # type: ignore[arg-type]
    assert match([], "", Bert(), {"x"}) == {}  # type: ignore[arg-type]


def test_guessing_a_prefix_is_for_checkpoints_without_any_match():
    matched = match(found("roberta.x", "roberta.y", "bert.z"), "", Bert(), {"bert.x", "bert.z"})  # type: ignore[arg-type]
    assert list(matched) == ["bert.z"]


@pytest.mark.parametrize("make", [tiny_bert, tiny_vit])
def test_candidates_of_a_file_are_named_as_the_module_names_them(tmp_path, make):
    model = make()
    model.save_pretrained(tmp_path)
    names, prefix = candidates(open_source(tmp_path), model, slots(model))
    assert {candidate.name for candidate in names} == set(model.state_dict())
    assert prefix == model.base_model_prefix and all(candidate.tensor is None for candidate in names)


def test_layers_that_only_the_checkpoint_has_are_renamed_too(tmp_path):
    tiny_vit().save_pretrained(tmp_path)
    model = tiny_bert()  # of another type: the names are those of a ViT of the checkpoint's own configuration
    names, prefix = candidates(open_source(tmp_path), model, slots(model))
    assert "vit.layers.1.attention.q_proj.weight" in {candidate.name for candidate in names} and prefix == "vit"
