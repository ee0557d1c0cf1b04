from __future__ import annotations

import logging

import pytest
import torch

from hf_transfer.data.loading import load_splits
from hf_transfer.selection.candidates import (
    Candidate,
    load_candidate,
    load_for_target,
    named_candidates,
    with_controls,
)
from hf_transfer.selection.target import read_target
from tests.models import tiny_resnet, tiny_vit
from tests.selection.planted import PROCESSOR, shades


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    tiny_vit().save_pretrained(place)
    PROCESSOR.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def data():
    return read_target(shades()).data


def test_names_and_controls_are_read():
    found = named_candidates(["user/a", "user/a#reinit:2", "b#random"])
    assert [(own.checkpoint, own.control) for own in found] == [
        ("user/a", ""),
        ("user/a", "reinit:2"),
        ("b", "random"),
    ]
    assert named_candidates({"mine": "user/a"}) == [Candidate("mine", "user/a")]
    assert named_candidates("user/a") == [Candidate("user/a", "user/a")]
    assert with_controls(["a", "b#random"], ["reinit:1"]) == ["a", "b#random", "a#reinit:1"]


def test_a_folder_whose_name_has_a_mark_is_a_folder(tmp_path):
    (tmp_path / "c#sharp").mkdir()
    assert named_candidates([tmp_path / "c#sharp"])[0].checkpoint == str(tmp_path / "c#sharp")


@pytest.mark.parametrize(
    ("models", "error", "match"),
    [
        ([], ValueError, "There is no candidate.*Pass Hub ids"),
        (["a", "a"], ValueError, "Two candidates are called `a`.*give each a name"),
        (["a#half"], ValueError, "There is no control `half`.*Pass `random`"),
        (["a#reinit:x"], ValueError, "There is no control `reinit:x`"),
        ([3], TypeError, "A candidate is a int.*Pass a Hub id"),
    ],
)
def test_what_is_no_candidate_is_refused(models, error, match):
    with pytest.raises(error, match=match):
        named_candidates(models)


def test_a_trained_head_is_told_from_a_new_one(folder, data, tmp_path, caplog):
    own = load_candidate(Candidate("own", str(folder)), data)
    assert not own.no_head and not own.notes and own.model.config.num_labels == 3
    own.model.base_model.save_pretrained(tmp_path)
    PROCESSOR.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        base = load_candidate(Candidate("base", str(tmp_path)), data)
    assert "no head that was trained" in base.no_head and not base.notes
    assert not caplog.records  # a head that nothing is read off needs no report


def test_weights_that_the_checkpoint_lacks_below_the_head_are_told(folder, data, tmp_path):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    save_file(
        {k: v for k, v in state.items() if "layernorm" not in k}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    (note,) = load_candidate(Candidate("x", str(tmp_path)), data).notes
    assert "not in the checkpoint" in note and "layernorm" in note


def test_controls_draw_what_they_say_and_always_the_same(folder, data):
    plain = load_candidate(Candidate("a", str(folder)), data).model.state_dict()
    state = torch.random.get_rng_state()
    for control, kept in (("reinit:1", "layer.0."), ("random", None)):
        candidate = Candidate("a", str(folder), control)
        first, second = (load_candidate(candidate, data, seed=3).model.state_dict() for _ in range(2))
        weights = [name for name in plain if name.endswith("weight") and plain[name].dim() > 1 and "layer." in name]
        for name in weights:
            assert torch.equal(first[name], second[name])
            assert torch.equal(first[name], plain[name]) == (kept is not None and kept in name), name
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("control", ["", "reinit:1", "random"])
def test_the_model_for_the_target_has_the_backbone_that_was_scored(folder, data, control):
    candidate = Candidate("a", str(folder), control)
    scored = load_candidate(candidate, data, seed=1).model.state_dict()
    two = read_target(shades(20).filter(lambda row: row["label"] < 2)).data
    model, _ = load_for_target(candidate, data, seed=1)
    found = model.state_dict()
    assert all(torch.equal(found[name], scored[name]) for name in scored if not name.startswith("classifier"))
    assert set(model.config.label2id) == set(data.label_names) and two.num_labels == 3


def test_another_kind_of_model_and_a_model_in_memory_are_refused(text_model_folder, data):
    with pytest.raises((ValueError, OSError)):
        load_candidate(Candidate("t", str(text_model_folder)), data)
    with pytest.raises(ValueError, match="`m` was given as a model in memory.*pass the folder"):
        load_for_target(Candidate("m", pair=(tiny_resnet(), PROCESSOR)), data)


@pytest.fixture
def text_model_folder(tmp_path):
    from tests.models import tiny_bert

    tiny_bert().save_pretrained(tmp_path)
    return tmp_path


def test_embedded_names_are_candidates():
    data = load_splits("embedded:digits", samples_per_class=1)
    assert data.num_labels == 10 and named_candidates(["embedded:image#random"])[0].checkpoint == "embedded:image"
