"""Weights of a teacher in a student without any: each where it belongs, and what fits nowhere is noticed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hf_transfer.anatomy import anatomy
from hf_transfer.students.depth import resized
from hf_transfer.students.stacks import stacks_of
from hf_transfer.students.weights import fill, misfit
from tests.students import cut


def prepared(name, kept):
    teacher = cut.move_norms(getattr(cut, name)())
    stacks = stacks_of(teacher, anatomy(teacher))
    return teacher, resized(teacher, stacks, kept), stacks, kept


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize(("name", "kept"), [("bert", [[1, 4]]), ("resnet", [[0, 2], [0, 3]]), ("gemma2", [[2, 3]])])
def test_every_tensor_has_its_value(name, kept, copy):
    teacher, student, stacks, kept = prepared(name, kept)
    assert misfit(teacher, student, stacks, kept) == ""
    fill(teacher, student, stacks, kept, copy=copy)
    there = {**dict(teacher.named_parameters()), **dict(teacher.named_buffers())}
    here = {**dict(student.named_parameters()), **dict(student.named_buffers())}
    assert here and not any(tensor.is_meta for tensor in here.values())
    shared = sum(any(tensor.data_ptr() == other.data_ptr() for other in there.values()) for tensor in here.values())
    assert shared == (0 if copy else len(here))
    for stack, positions in zip(stacks, kept, strict=True):
        for place, position in enumerate(positions):
            for ours, theirs in zip(stack.block(student, place), stack.block(teacher, position), strict=True):
                for tensor, other in zip(ours.parameters(), theirs.parameters(), strict=True):
                    assert tensor.equal(other) and tensor is not other


def test_statistics_that_a_copy_does_not_count_start_at_zero():
    teacher, student, stacks, kept = prepared("resnet", [[0], [0]])
    for module in teacher.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked = None
    assert misfit(teacher, student, stacks, kept) == ""
    fill(teacher, student, stacks, kept, copy=True)
    assert student.resnet.embedder.embedder.normalization.num_batches_tracked.item() == 0


def test_tensors_kept_as_plain_attributes_come_along():
    teacher, student, stacks, kept = prepared("bert", [[0]])
    teacher.table = torch.arange(3.0)
    student.table = torch.empty(3, device="meta")
    fill(teacher, student, stacks, kept, copy=True)
    assert student.table.equal(teacher.table) and student.table is not teacher.table


def test_what_fits_nowhere_is_named():
    teacher, student, stacks, kept = prepared("bert", [[0]])
    teacher.extra = nn.Linear(2, 2)
    assert misfit(teacher, student, stacks, kept) == "extra.bias"
    student.extra = nn.Linear(2, 3, device="meta")
    assert misfit(teacher, student, stacks, kept) in ("extra.bias", "extra.weight")
    del teacher.extra, student.extra
    student.more = nn.Linear(2, 2, device="meta")
    assert misfit(teacher, student, stacks, kept) == "more.bias"


def test_constants_that_no_block_reads_any_more_may_be_left_behind():
    teacher, student, stacks, kept = prepared("bert", [[0]])
    teacher.register_buffer("constant", torch.ones(2), persistent=False)
    assert misfit(teacher, student, stacks, kept) == ""
    teacher.register_buffer("saved", torch.ones(2))
    assert misfit(teacher, student, stacks, kept) == "saved"
