"""The lists that hold the blocks, and what makes two blocks of one kind."""

from __future__ import annotations

import pytest
from torch import nn

from hf_transfer.anatomy import anatomy
from hf_transfer.students.stacks import difference, origin, origins, signature, stacks_of
from tests.models import tiny_bert
from tests.students import cut


def stacks(model):
    return stacks_of(model, anatomy(model))


@pytest.mark.parametrize(
    ("name", "lengths"),
    [("bert", [6]), ("bart", [4, 4]), ("swin", [2, 4]), ("resnet", [3, 4]), ("xlm", [4]), ("convnext", [2, 1, 3, 2])],
)
def test_the_stacks_hold_the_blocks_in_order(name, lengths):
    model = getattr(cut, name)()
    found = stacks(model)
    assert [len(stack) for stack in found] == lengths
    assert [number for stack in found for number in stack.numbers] == list(range(sum(lengths)))
    blocks = anatomy(model).blocks
    for stack in found:
        for position, number in enumerate(stack.numbers):
            assert stack.block(model, position)[0] is model.get_submodule(blocks[number])


def test_lists_in_lockstep_are_one_stack():
    (stack,) = stacks(cut.xlm())
    assert set(stack.lists) == {f"transformer.{key}" for key in ("attentions", "layer_norm1", "ffns", "layer_norm2")}
    assert [stack.lists for stack in stacks(cut.swin())] == [
        ("swin.encoder.layers.0.blocks",),
        ("swin.encoder.layers.1.blocks",),
    ]


def test_a_block_run_repeatedly_is_a_stack_of_itself():
    (stack,) = stacks(cut.albert())
    assert stack.repeated and len(stack) == 6 and set(stack.keys) == {"0"}


def test_where_a_module_of_the_student_comes_from():
    teacher, student = tiny_bert(num_hidden_layers=4), tiny_bert(num_hidden_layers=2)
    moved = origins(teacher, student, stacks(teacher), [[1, 3]])
    assert moved == {"bert.encoder.layer.0": "bert.encoder.layer.1", "bert.encoder.layer.1": "bert.encoder.layer.3"}
    assert origin("bert.encoder.layer.1.output.dense", moved) == "bert.encoder.layer.3.output.dense"
    assert origin("bert.encoder.layer.1", moved) == "bert.encoder.layer.3"
    assert origin("bert.pooler.dense.weight", moved) == "bert.pooler.dense.weight"


class Block(nn.Module):
    def __init__(self, width=2, window=0, layer_idx=0, rate=0.1):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.drop_path = nn.Dropout(rate) if rate else nn.Identity()
        self.window, self.layer_idx, self.hidden_dropout = window, layer_idx, rate
        self.sizes = (window, 1)


def test_blocks_of_one_kind_differ_in_place_values_and_dropout_only():
    first = Block(layer_idx=0, rate=0.0)
    other = Block(layer_idx=7, rate=0.3).eval()
    assert difference(signature([first]), signature([other])) == ""


@pytest.mark.parametrize(("options", "name"), [({"width": 3}, "0.dense"), ({"window": 4}, "0.window")])
def test_widths_and_settings_tell_kinds_apart(options, name):
    found = difference(signature([Block()]), signature([Block(**options)]))
    assert found.startswith(name)
    assert difference(signature([Block(**options)]), signature([Block(**options)])) == ""


def test_a_module_more_is_another_kind():
    more = Block()
    more.norm = nn.LayerNorm(2)
    assert difference(signature([Block()]), signature([more])).startswith("0.norm")
    assert difference(signature([more]), signature([Block()])).startswith("0.norm")
