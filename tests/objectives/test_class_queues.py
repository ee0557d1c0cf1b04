"""Queues of features by class against lists that drop their oldest entry."""

from __future__ import annotations

from collections import deque

import pytest
import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn

from hf_transfer.objectives.regularization.class_queues import ClassQueues


def content(queues: ClassQueues) -> list[list[float]]:
    """The features of each class, in no order."""
    keys, labels = queues.content()
    return [sorted(keys[labels == c].flatten().tolist()) for c in range(len(queues.seen))]


@pytest.mark.parametrize("length", [1, 2, 5])
def test_against_a_list_of_queues(length):
    queues = ClassQueues(num_classes=3, length=length, width=1)
    naive = [deque(maxlen=length) for _ in range(3)]
    generator = torch.Generator().manual_seed(0)
    number = 0
    for _ in range(40):
        count = int(torch.randint(0, 7, (), generator=generator))
        labels = torch.randint(-1, 3, (count,), generator=generator)
        labels = torch.where(labels < 0, -100, labels)
        features = torch.arange(number, number + count).float().unsqueeze(1)
        number += count
        for value, label in zip(features.flatten().tolist(), labels.tolist(), strict=True):
            if label != -100:
                naive[label].append(value)
        queues.put(features, labels)
        assert content(queues) == [sorted(queue) for queue in naive]


def test_more_of_a_class_than_fit_keeps_the_last():
    queues = ClassQueues(num_classes=2, length=3, width=1)
    queues.put(torch.arange(10.0).unsqueeze(1), torch.zeros(10, dtype=torch.long))
    assert content(queues) == [[7, 8, 9], []]
    queues.put(torch.tensor([[10.0]]), torch.tensor([0]))
    assert content(queues) == [[8, 9, 10], []]


def test_what_was_read_is_not_written_to():
    queues = ClassQueues(num_classes=1, length=1, width=1)
    queues.put(torch.ones(1, 1), torch.tensor([0]))
    keys, _ = queues.content()
    queues.put(torch.full((1, 1), 2.0), torch.tensor([0]))
    assert keys.item() == 1


def test_buffers_stay_the_same_tensors():
    """DDP broadcasts the tensors it found when it was made."""
    queues = ClassQueues(num_classes=2, length=3, width=1)
    before = [buffer.data_ptr() for buffer in queues.buffers()]
    queues.put(torch.ones(2, 1), torch.tensor([0, 1]))
    assert [buffer.data_ptr() for buffer in queues.buffers()] == before


def test_state_round_trip_goes_on_where_it_was():
    first, second = (ClassQueues(num_classes=2, length=3, width=1) for _ in range(2))
    first.put(torch.arange(4.0).unsqueeze(1), torch.tensor([0, 0, 1, 0]))
    second.load_state_dict(first.state_dict())
    for queues in (first, second):
        queues.put(torch.tensor([[9.0], [8.0]]), torch.tensor([0, 1]))
    assert all(torch.equal(second.state_dict()[key], value) for key, value in first.state_dict().items())


def test_half_precision_comes_in_as_float32():
    queues = ClassQueues(num_classes=1, length=1, width=1)
    queues.put(torch.ones(1, 1, dtype=torch.bfloat16), torch.tensor([0]))
    assert queues.keys.dtype == torch.float32 and content(queues) == [[1]]


def test_alone_nothing_is_gathered():
    features, labels = torch.ones(2, 1), torch.tensor([0, 1])
    gathered = ClassQueues(num_classes=2, length=3, width=1).gathered(features, labels)
    assert gathered[0] is features and gathered[1] is labels


def rank_puts_its_rows(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    queues = ClassQueues(num_classes=2, length=4, width=1)
    count = 3 + 2 * rank  # ranks have different numbers of tokens
    features = torch.arange(count).float().unsqueeze(1) + 10 * rank
    queues.put(*queues.gathered(features, torch.arange(count) % 2))
    torch.save(queues.state_dict(), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_all_ranks_keep_the_rows_of_all_in_the_order_of_the_ranks(tmp_path):
    spawn(rank_puts_its_rows, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    alone = ClassQueues(num_classes=2, length=4, width=1)
    alone.put(torch.tensor([[0.0], [1], [2], [10], [11], [12], [13], [14]]), torch.tensor([0, 1, 0, 0, 1, 0, 1, 0]))
    for key, value in alone.state_dict().items():
        assert torch.equal(first[key], value) and torch.equal(second[key], value), key
