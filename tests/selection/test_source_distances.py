"""Several sources in the order of their distances."""

from __future__ import annotations

import numpy as np
import pytest

from hf_transfer.selection.distance import domain_distance
from hf_transfer.selection.source_distances import compare_domains, distance_table


def normal(rows, seed, shift=0.0):
    return np.random.default_rng(seed).normal(size=(rows, 4)) + shift


TARGET = normal(40, 9)
SOURCES = {"far": normal(40, 0, 6.0), "near": normal(40, 1, 0.3), "middle": normal(40, 2, 3.0)}


@pytest.mark.parametrize("by", ["frechet", "mmd"])
def test_the_nearest_is_first(by):
    assert list(compare_domains(SOURCES, TARGET, by=by, figure=False)) == ["near", "middle", "far"]


def test_equal_distances_are_in_the_order_of_names():
    found = compare_domains(SOURCES, TARGET, by="a_distance", figure=False)
    assert list(found) == ["near", "far", "middle"]  # both far ones are always told apart
    assert found["far"].a_distance.distance == found["middle"].a_distance.distance == 2.0


def test_each_is_what_domain_distance_finds():
    for name, found in compare_domains(SOURCES, TARGET, seed=4).items():
        assert found == domain_distance(SOURCES[name], TARGET, seed=4)
        assert found.projection is not None


def test_sources_are_cut_to_the_smallest():
    found = compare_domains({"large": normal(60, 0), "small": normal(16, 1)}, TARGET, figure=False)
    assert {one.frechet_rows for one in found.values()} == {(16, 40)}
    fewer = compare_domains({"large": normal(60, 0), "small": normal(16, 1)}, TARGET, max_rows=12, figure=False)
    assert {one.frechet_rows for one in fewer.values()} == {(12, 12)}


def test_by_the_task_sources_without_labels_are_last():
    labels = {name: (SOURCES[name][:, 0] > SOURCES[name][:, 0].mean()).astype(int) for name in ("far", "middle")}
    labels["middle"] = (SOURCES["middle"][:, 3] > SOURCES["middle"][:, 3].mean()).astype(int)
    own = (TARGET[:, 0] > 0).astype(int)
    found = compare_domains(SOURCES, TARGET, source_labels=labels, target_labels=own, by="task", figure=False)
    assert list(found) == ["far", "middle", "near"] and found["near"].task is None
    expected = domain_distance(SOURCES["far"], TARGET, source_labels=labels["far"], target_labels=own)
    assert found["far"].task == expected.task
    lines = distance_table(found).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| far", "| middle", "| near"]
    assert lines[-1].endswith("|  |") and f"{expected.task:.3f} |" in lines[2]
    assert len({line.count("|") for line in lines}) == 1


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"No source was given.*Pass `{name: features}`"):
        compare_domains({}, TARGET)
    with pytest.raises(ValueError, match=r"labels of other, but sources far, near, middle.*same names"):
        compare_domains(SOURCES, TARGET, source_labels={"other": [0, 1]})
    with pytest.raises(ValueError, match=r'by="size" is no distance.*Choose one of frechet'):
        compare_domains(SOURCES, TARGET, by="size")
    with pytest.raises(ValueError, match=r'by="task" was given without labels.*`source_labels=`'):
        compare_domains(SOURCES, TARGET, by="task")
    with pytest.raises(ValueError, match=r"width 2, the target of width 4"):
        compare_domains({**SOURCES, "narrow": normal(9, 0)[:, :2]}, TARGET)
