from __future__ import annotations

import pytest

from hf_transfer.selection.arguments import SelectSourceArguments


def made(**options) -> SelectSourceArguments:
    return SelectSourceArguments(**{"model_name_or_path": ["a", "b"], "dataset_name": "d", **options})


def test_controls_are_candidates_behind_those_named():
    assert made().candidates == ["a", "b"]
    assert made(controls=["random", "reinit:1"]).candidates == [
        "a", "b", "a#random", "b#random", "a#reinit:1", "b#reinit:1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"model_name_or_path": []}, "names no model: nothing can be ranked. Give one"),
        ({"scores": ["logmee"]}, "There is no score `logmee`.*Choose from"),
        ({"controls": ["none"]}, "There is no control `none`.*Pass `random`"),
        ({"source_dataset": ["x"], "source_dataset_of": ["c"]}, "`--source_dataset_of c` is no candidate.*a, b"),
        ({"source_dataset": ["x"], "source_dataset_of": ["a", "b"]}, "has 2 names for 1.*Give one for each"),
    ],
)
def test_what_means_nothing_is_refused_at_once(options, match):
    with pytest.raises(ValueError, match=match):
        made(**options)
