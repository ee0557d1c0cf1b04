"""The memory of CRD against a dictionary, who is whose negative, and several ranks."""

from __future__ import annotations

import random

import pytest
import torch
from torch import distributed

from hf_transfer.functional.contrastive import unit
from hf_transfer.objectives.distillation.memory_bank import EMPTY, MemoryBank, gathered


def embeddings(count, width=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(unit(torch.randn(count, width, generator=generator)) for _ in range(2))


def put(bank, index, seed=0, labels=None, momentum=0.5):
    index = torch.tensor(index)
    both = embeddings(len(index), bank.student.shape[1], seed)
    bank.put(index, torch.zeros_like(index) if labels is None else torch.tensor(labels), *both, momentum=momentum)
    return both


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("size", [2, 3, 7, 20])
def test_against_a_dictionary(size, momentum):
    bank, slots, draw = MemoryBank(size, 3), {}, random.Random(size)
    for step in range(30):
        index = [draw.randrange(15) for _ in range(draw.randint(1, 6))]
        labels = [draw.randrange(-1, 3) for _ in index]
        before = dict(slots)
        student, teacher = put(bank, index, step, labels, momentum)
        for row, label, s, t in zip(index, labels, student, teacher, strict=True):
            known = before.get(row % size)
            if known is not None and known[0] == row:  # what it was before this batch moves
                s, t = (
                    (momentum * old + (1 - momentum) * new) / (momentum * old + (1 - momentum) * new).norm()
                    for old, new in ((known[2], s), (known[3], t))
                )
            slots[row % size] = (row, label, s, t)
        for slot in range(size):
            if slot not in slots:
                assert bank.owner[slot] == EMPTY and not bank.student[slot].any()
                continue
            row, label, s, t = slots[slot]
            assert bank.owner[slot] == row and bank.labels[slot] == label
            torch.testing.assert_close(bank.student[slot], s)
            torch.testing.assert_close(bank.teacher[slot], t)


def test_momentum_in_closed_form():
    bank, east, north = MemoryBank(4, 2), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    index, labels = torch.tensor([9]), torch.tensor([0])
    bank.put(index, labels, east, north, momentum=0.75)
    assert torch.equal(bank.student[1:2], east), "the first is taken as it is"
    bank.put(index, labels, north, east, momentum=0.75)
    length = (0.75**2 + 0.25**2) ** 0.5
    torch.testing.assert_close(bank.student[1], torch.tensor([0.75, 0.25]) / length)
    torch.testing.assert_close(bank.teacher[1], torch.tensor([0.25, 0.75]) / length)


@pytest.mark.parametrize("size", [2, 3, 5, 64])
def test_a_negative_is_never_the_row_itself_nor_an_empty_slot(size):
    bank, draw = MemoryBank(size, 2), random.Random(size)
    seen = set()
    for step in range(80):
        rows = draw.choice([2, 3, 10, 1000])
        index = [draw.randrange(rows) for _ in range(draw.randint(1, 4))]
        seen.update(index)
        put(bank, index, step, [draw.randrange(-1, 2) - 99 * (draw.random() < 0.3) for _ in index])
        for labels in (None, torch.tensor([0] * len(index)), torch.tensor([-100] * len(index))):
            negatives = bank.negatives(torch.tensor(index), labels)
            for i, row in enumerate(index):
                for slot in negatives[i].nonzero().flatten().tolist():
                    assert bank.owner[slot] != row and bank.owner[slot].item() in seen
                    if labels is not None and labels[i] != -100:
                        assert bank.labels[slot] != labels[i]
                others = {s for s in range(size) if bank.owner[s] not in (row, EMPTY)}
                if labels is None or labels[i] == -100:
                    assert set(negatives[i].nonzero().flatten().tolist()) == others, "all others are"


def test_rows_of_one_class_are_no_negatives_and_rows_without_are():
    bank = MemoryBank(8, 2)
    put(bank, [0, 1, 2, 3], labels=[0, 0, 1, -100])
    index, labels = torch.tensor([0, 2, 3]), torch.tensor([0, 1, -100])
    assert bank.negatives(index, labels)[:, :4].tolist() == [
        [False, False, True, True],
        [True, True, False, True],
        [True, True, True, False],
    ]


def test_of_a_row_that_is_there_twice_the_last_is_kept():
    bank = MemoryBank(4, 3)
    student, _ = put(bank, [1, 1, 5])
    assert bank.owner.tolist()[1] == 5 and torch.equal(bank.student[1], student[2])


def test_what_is_left_out_leaves_no_trace():
    bank = MemoryBank(3, 3)
    put(bank, [EMPTY, 0, EMPTY])
    assert bank.owner.tolist() == [0, EMPTY, EMPTY]


def test_opposite_views_give_a_direction_of_zero_and_no_nan():
    bank, east = MemoryBank(2, 2), torch.tensor([[1.0, 0.0]])
    for view in (east, -east):
        bank.put(torch.tensor([0]), torch.tensor([0]), view, view, momentum=0.5)
    assert bank.student[0].tolist() == [0, 0]


def test_what_was_read_is_not_written_to_and_buffers_stay_the_same_tensors():
    bank = MemoryBank(2, 2)
    put(bank, [0, 1])
    before, addresses = bank.content(), [buffer.data_ptr() for buffer in bank.buffers()]
    copies = [x.clone() for x in before]
    put(bank, [0, 1], seed=1)
    assert all(torch.equal(*pair) for pair in zip(before, copies, strict=True))
    assert [buffer.data_ptr() for buffer in bank.buffers()] == addresses  # DDP broadcasts the tensors it found


def test_state_round_trip_goes_on_where_it_was():
    first, second = MemoryBank(5, 3), MemoryBank(5, 3)
    put(first, [0, 3, 9])
    second.load_state_dict(first.state_dict())
    for bank in (first, second):
        put(bank, [3, 7], seed=1)
    assert all(torch.equal(second.state_dict()[key], value) for key, value in first.state_dict().items())


def test_half_precision_comes_in_as_float32():
    bank = MemoryBank(2, 1)
    one = torch.ones(1, 1, dtype=torch.bfloat16)
    bank.put(torch.tensor([0]), torch.tensor([0]), one, one)
    assert bank.student.dtype == torch.float32 and bank.student[0] == 1


def test_alone_nothing_is_gathered():
    given = (torch.tensor([0]), torch.tensor([1]), torch.ones(1, 2))
    assert all(a is b for a, b in zip(gathered(*given), given, strict=True))


def test_all_ranks_keep_the_rows_of_all(monkeypatch):
    """Two ranks in one process: what each gives is noted in a first pass and handed to both in a second."""
    sent: list[list[torch.Tensor]] = [[], []]

    def all_gather(parts, tensor):
        number = len(sent[rank]) % 4
        sent[rank].append(tensor.clone())
        for part, of_rank in zip(parts, sent, strict=True):
            if len(of_rank) > number:
                part.copy_(of_rank[number])  # raises if ranks disagree on the shape

    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce", lambda most, op: most.fill_(5))
    monkeypatch.setattr(distributed, "all_gather", all_gather)
    alone, index = MemoryBank(8, 3), torch.arange(8)
    both = [torch.cat(sides) for sides in zip(embeddings(3, seed=0), embeddings(5, seed=1), strict=True)]
    alone.put(index, index % 3, *both)
    assert (alone.owner != EMPTY).all()
    for _ in range(2):
        banks = []
        for rank in (0, 1):  # the last batch of an epoch may be smaller on one rank
            own = torch.arange(3 + 2 * rank) + 3 * rank
            banks.append(MemoryBank(8, 3))
            banks[-1].put(*gathered(own, own % 3, *embeddings(len(own), seed=rank)))
    for bank in banks:
        assert all(torch.equal(bank.state_dict()[key], value) for key, value in alone.state_dict().items())
