from __future__ import annotations

import pytest

from hf_transfer.anatomy import anatomy
from hf_transfer.callbacks import GradualUnfreezing, UnfreezingSchedule
from hf_transfer.callbacks.selection import select_parameters
from tests.models import TINY, tiny_bert


def parts(blocks: int, *others: str) -> dict[str, list[str]]:
    return {other: [f"{other}.weight"] for other in others} | {f"block.{i}": [f"b{i}.weight"] for i in range(blocks)}


def thaw_stage(schedule: GradualUnfreezing, of: dict[str, list[str]]) -> dict[str, int]:
    """Stage, from 1, at which each part first trains."""
    first: dict[str, int] = {}
    for stage, phase in enumerate(schedule.plan(of), start=1):
        for name in select_parameters(of, phase.train):
            first.setdefault(name.removesuffix(".weight"), stage)
    return first


def test_top_down_thaws_the_block_next_to_the_head_first_and_embeddings_last():
    stages = thaw_stage(GradualUnfreezing(stages=4), parts(6, "embeddings", "neck", "head"))
    assert stages == {"head": 1, "neck": 1, "b5": 2, "b4": 2, "b3": 3, "b2": 3, "b1": 4, "b0": 4, "embeddings": 4}


def test_bottom_up_thaws_embeddings_and_lower_blocks_first():
    stages = thaw_stage(GradualUnfreezing(stages=3, order="bottom_up"), parts(4, "embeddings", "head"))
    assert stages == {"head": 1, "embeddings": 2, "b0": 2, "b1": 2, "b2": 3, "b3": 3}


@pytest.mark.parametrize("order", ["top_down", "bottom_up"])
@pytest.mark.parametrize("blocks", [1, 2, 3, 5, 12, 13, 48])
def test_groups_are_equal_within_one_block_and_the_last_stage_trains_all(blocks, order):
    for stages in range(2, blocks + 2):
        whole = parts(blocks, "embeddings", "neck", "head")
        schedule = GradualUnfreezing(stages=stages, order=order)
        first = thaw_stage(schedule, whole)
        sizes = [sum(first[f"b{i}"] == stage for i in range(blocks)) for stage in range(2, stages + 1)]
        assert sum(sizes) == blocks and min(sizes) >= 1 and max(sizes) - min(sizes) <= 1
        everything = {name for names in whole.values() for name in names}
        assert select_parameters(whole, schedule.plan(whole)[-1].train) == everything


def test_stages_are_equally_long_unless_told():
    of = parts(3, "head")
    assert [p.fraction for p in GradualUnfreezing(stages=4).plan(of)] == [0, 0.25, 0.5, 0.75]
    assert [p.fraction for p in GradualUnfreezing(stages=3, fractions=[0, 0.1, 0.2]).plan(of)] == [0, 0.1, 0.2]
    assert [p.epoch for p in GradualUnfreezing(stages=3, every=1).plan(of)] == [0, 1, 2]


def test_learning_rates_decay_by_stage():
    phases = GradualUnfreezing(stages=3, lr_decay=0.5).plan(parts(2, "head"))
    assert [phase.lr_scale for phase in phases] == [1.0, 0.5, 0.25]
    assert not any(phase.sets_rate for phase in GradualUnfreezing(stages=3).plan(parts(2, "head")))


def test_it_is_an_unfreezing_schedule_and_writes_one_down():
    model = tiny_bert()
    gradual = GradualUnfreezing(stages=3)
    assert isinstance(gradual, UnfreezingSchedule)
    import yaml

    written = UnfreezingSchedule(yaml.safe_load(gradual.to_yaml(model)))
    assert written.phases == gradual.plan(anatomy(model).parts())
    assert "train: [head, neck, block.2]" not in gradual.to_yaml(model)
    assert "train: [head, neck, block.1-2]" in gradual.to_yaml(model)


def test_without_a_model_there_is_nothing_to_write_down():
    with pytest.raises(ValueError, match=r"depends on the model's number .* pass it: to_yaml\(model\)"):
        GradualUnfreezing().to_yaml()


@pytest.mark.parametrize("name", TINY)
def test_every_kind_of_model_ends_with_everything_training(name):
    model = TINY[name]()
    of = anatomy(model).parts()
    phases = GradualUnfreezing(stages=3).plan(of)
    assert select_parameters(of, phases[-1].train) == {name for name, _ in model.named_parameters()}
    assert select_parameters(of, phases[0].train) == {*of["head"], *of.get("neck", [])}


def test_it_prints_as_the_call():
    assert str(GradualUnfreezing(3, order="bottom_up")) == "GradualUnfreezing(stages=3, order='bottom_up')"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "sideways"}, "order='sideways' is unknown .* use 'top_down' .* or 'bottom_up'"),
        ({"stages": 1}, r"stages=1 thaws nothing .* use stages >= 2, or `FreezeBackbone\(\)`"),
        ({"stages": 3, "fractions": [0, 0.5]}, r"fractions=\[0, 0.5\] .* give 3 fractions"),
        ({"stages": 2, "fractions": [0, 0.5], "every": 1}, "exactly one entry point"),
        ({"stages": 3, "fractions": [0, 0.5, 0.4]}, "Phase 3 enters at fraction 0.4, not after 0.5"),
        ({"stages": 3, "fractions": [0.1, 0.5, 0.7]}, "The first phase enters at fraction 0.1"),
        ({"every": 0}, "Phase 2 enters at epoch 0, not after 0"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GradualUnfreezing(**options)


def test_more_stages_than_blocks_are_refused():
    with pytest.raises(
        ValueError, match=r"stages=5 needs 4 groups of blocks, .* `block.0` to `block.2`.* use stages <= 4"
    ):
        GradualUnfreezing(stages=5).plan(parts(3, "head"))
