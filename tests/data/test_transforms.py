from __future__ import annotations

import pytest
import torch

from hf_transfer.data.transforms import DomainTransform, DomainTransforms


BATCH = {"x": [1, 2, 3], "y": [7, 8, 9], "label": [0, -100, 1], "domain": [0, 1, 0]}


def double(batch):
    return {"x": [2 * x for x in batch["x"]]}


def negate(batch):
    return {"x": [-x for x in batch["x"]]}


def test_every_row_goes_through_its_own_transform_in_place():
    both = DomainTransforms([DomainTransform(double, ("x",)), DomainTransform(negate, ("x",))], "label")
    assert both(BATCH) == {"x": [2, -2, 6], "label": [0, -100, 1], "domain": [0, 1, 0]}


def test_a_transform_gets_its_columns_and_the_labels_only():
    seen = []

    def look(batch):
        seen.append(sorted(batch))
        return {"x": batch["x"]}

    DomainTransforms([DomainTransform(look, ("x",)), None], "label")({name: v[:1] for name, v in BATCH.items()})
    assert seen == [["domain", "label", "x"]]


def test_output_all_columns_and_rows_left_alone():
    one = DomainTransforms([DomainTransform(double, ("x",), True), None], "label")
    assert one(BATCH) == {"x": [2, 2, 6], "y": [7, 8, 9], "label": [0, -100, 1], "domain": [0, 1, 0]}


def test_labels_handed_on_under_another_name_are_not_added_twice():
    def rename(batch):
        return {"x": batch["x"], "labels": batch["label"]}

    output = DomainTransforms([DomainTransform(rename, ("x",))] * 2, "label")(BATCH)
    assert output == {"x": [1, 2, 3], "labels": [0, -100, 1], "domain": [0, 1, 0]}


def test_a_transform_cannot_change_the_domain():
    def lie(batch):
        return {"x": batch["x"], "domain": [5] * len(batch["x"])}

    assert DomainTransforms([DomainTransform(lie, ("x",))] * 2, "label")(BATCH)["domain"] == [0, 1, 0]


def test_tensors_come_out_row_by_row():
    def stack(batch):
        return {"x": torch.tensor(batch["x"]).reshape(-1, 1)}

    output = DomainTransforms([DomainTransform(stack, ("x",))] * 2, "label")(BATCH)
    assert [row.tolist() for row in output["x"]] == [[1], [2], [3]]


def test_other_columns_per_domain_are_refused():
    def other(batch):
        return {"z": batch["x"]}

    with pytest.raises(ValueError, match=r"give different columns: `x`.*and `z`.*\(domain 1\).*same columns"):
        DomainTransforms([DomainTransform(double, ("x",)), DomainTransform(other, ("x",))], "label")(BATCH)


def test_a_changed_number_of_rows_is_refused():
    def shrink(batch):
        return {"x": batch["x"][:1]}

    with pytest.raises(ValueError, match="domain 0 made 1 values of `x` out of 2 rows.*one value per row"):
        DomainTransforms([DomainTransform(shrink, ("x",)), None], "label")(BATCH)
