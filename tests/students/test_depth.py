"""The config of fewer blocks: which fields change, and that nothing else does."""

from __future__ import annotations

import pytest
import torch

from hf_transfer.anatomy import anatomy
from hf_transfer.students.depth import build_empty, resized
from hf_transfer.students.stacks import Stack, stacks_of
from tests.architectures import architecture, build
from tests.models import tiny_bert
from tests.students import cut


def changed(teacher, kept, **options):
    """The fields of the config that differ, with their new values."""
    student = resized(teacher, stacks_of(teacher, anatomy(teacher)), kept, **options)
    assert not isinstance(student, Stack)
    assert all(tensor.is_meta for tensor in (*student.parameters(), *student.buffers()))
    before, after = teacher.config.to_dict(), student.config.to_dict()
    return {key: after[key] for key in after if after[key] != before.get(key)}


@pytest.mark.parametrize(
    ("name", "kept", "fields"),
    [
        ("bert", [[0, 5]], {"num_hidden_layers": 2}),
        ("distilbert", [[0, 5]], {"n_layers": 2}),
        ("xlm", [[0, 3]], {"n_layers": 2}),
        ("albert", [[0, 1]], {"num_hidden_layers": 2}),
        ("bart", [[0, 1, 2, 3], [0]], {"decoder_layers": 1}),
        ("bart", [[0, 1], [0, 1, 2]], {"encoder_layers": 2, "decoder_layers": 3}),
        ("t5", [[0, 1, 2, 3], [0]], {"num_decoder_layers": 1}),
        ("resnet", [[0, 1, 2], [0]], {"depths": [3, 1]}),
        ("convnext", [[0, 1], [0], [0], [0]], {"depths": [2, 1, 1, 1]}),
        (
            "gemma2",
            [[1, 2, 5]],
            {"num_hidden_layers": 3, "layer_types": ["full_attention", "sliding_attention", "full_attention"]},
        ),
    ],
)
def test_only_the_number_of_blocks_changes(name, kept, fields):
    assert changed(getattr(cut, name)(), kept) == fields


def test_in_pattern_the_lists_begin_as_the_teachers_do():
    kinds = changed(cut.gemma2(), [[1, 3, 5]], in_pattern=True)["layer_types"]
    assert kinds == ["sliding_attention", "full_attention", "sliding_attention"]
    assert changed(cut.gemma2(), [[1, 3, 5]])["layer_types"] == ["full_attention"] * 3


def test_the_tower_that_has_the_blocks_is_the_one_that_changes():
    found = changed(build(architecture("CLIPForImageClassification")), [[0, 1]])
    assert set(found) == {"vision_config"} and found["vision_config"]["num_hidden_layers"] == 2


def test_numbers_of_blocks_in_a_config_are_counted_anew():
    teacher = build(architecture("Qwen2MoeForSequenceClassification"), num_hidden_layers=6, mlp_only_layers=[1, 4])
    found = changed(teacher, [[0, 4, 5]])
    assert found["num_hidden_layers"] == 3 and found["mlp_only_layers"] == [1]


def test_what_no_field_shortens_is_named():
    teacher = build(architecture("MobileNetV1ForImageClassification"))
    stacks = stacks_of(teacher, anatomy(teacher))
    assert resized(teacher, stacks, [[0, 1]]) is stacks[0]


def test_building_takes_no_random_numbers_and_leaves_the_values_alone():
    teacher = tiny_bert()
    values = {**teacher.config.to_dict(), "num_hidden_layers": 1}
    before, state = dict(values), torch.random.get_rng_state()
    assert len(build_empty(teacher, values).bert.encoder.layer) == 1
    assert values == before and state.equal(torch.random.get_rng_state())
