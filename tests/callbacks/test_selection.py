from __future__ import annotations

import pytest

from hf_transfer.anatomy import anatomy
from hf_transfer.callbacks.selection import describe_parts, select_parameters
from tests.models import tiny_bert


PARTS = {
    "embeddings": ["net.embed.weight"],
    **{f"block.{i}": [f"net.layer.{i}.weight", f"net.layer.{i}.norm.bias"] for i in range(12)},
    "neck": [],
    "head": ["score.weight", "score.bias"],
}


def blocks(*indices: int) -> set[str]:
    return {name for index in indices for name in PARTS[f"block.{index}"]}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("head", {"score.weight", "score.bias"}),
        ("neck", set()),
        ("block.3", blocks(3)),
        ("block.-1", blocks(11)),
        ("block.8-11", blocks(8, 9, 10, 11)),
        ("block.-2--1", blocks(10, 11)),
        ("block.10--1", blocks(10, 11)),
        ("block.1", blocks(1)),
        ("block.1?", blocks(10, 11)),
        ("block.*", blocks(*range(12))),
        ("*.norm.*", {f"net.layer.{i}.norm.bias" for i in range(12)}),
        ("net.layer.[02].weight", {"net.layer.0.weight", "net.layer.2.weight"}),
        ("score.bias", {"score.bias"}),
        ("all", {name for names in PARTS.values() for name in names}),
    ],
)
def test_each_kind_of_pattern(pattern, expected):
    assert select_parameters(PARTS, [pattern]) == expected


def test_selection_is_a_union_less_what_is_left_out():
    selected = select_parameters(PARTS, ["head", "block.0-1"], without=["*.bias"])
    assert selected == {"score.weight", "net.layer.0.weight", "net.layer.1.weight"}


def test_patterns_are_case_sensitive():
    with pytest.raises(ValueError, match=r"`\*\.Norm\.\*` is no part of this model and matches none"):
        select_parameters(PARTS, ["*.Norm.*"])


@pytest.mark.parametrize("pattern", ["haed", "blocks", "net.layer.12.*", "", "block"])
def test_a_pattern_that_selects_nothing_is_refused_with_the_parts(pattern):
    with pytest.raises(
        ValueError, match=r"is no part .* left out silently .* `block.0` to `block.11`, `neck`, `head`"
    ):
        select_parameters(PARTS, ["head", pattern])


def test_a_pattern_that_takes_nothing_out_is_refused_too():
    with pytest.raises(ValueError, match="`\\*.typo` is no part"):
        select_parameters(PARTS, ["all"], without=["*.typo"])


@pytest.mark.parametrize("pattern", ["block.12", "block.-13", "block.8-12", "block.9-8", "block.-1--2"])
def test_a_block_out_of_range_is_refused(pattern):
    with pytest.raises(ValueError, match=rf"`{pattern}` is no range of blocks .* at most `block.11`"):
        select_parameters(PARTS, [pattern])


def test_the_parts_of_a_real_model_are_selected():
    model = tiny_bert()
    parts = anatomy(model).parts()
    everything = {name for name, _ in model.named_parameters()}
    assert select_parameters(parts, ["all"]) == everything
    assert select_parameters(parts, ["*.LayerNorm.*"]) == {name for name in everything if ".LayerNorm." in name}
    assert select_parameters(parts, ["all"], without=["block.*", "embeddings", "neck"]) == set(parts["head"])


def test_describe_parts_abbreviates_only_runs_of_blocks():
    assert describe_parts(PARTS) == "`embeddings`, `block.0` to `block.11`, `neck`, `head`"
    assert describe_parts(["block.0", "head"]) == "`block.0`, `head`"
