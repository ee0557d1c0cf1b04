from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, skip_first_batches
from datasets import Dataset
from torch.utils.data import BatchSampler, DataLoader, Subset

from hf_transfer.multitask.sampler import MIXES, TaskSampler, interleaved, shares, task_sampler, tasks_of
from hf_transfer.multitask.task import Task


THREE = [0] * 60 + [1] * 25 + [2] * 5  # 90 rows
TASKS = [Task("a", num_labels=2), Task("b", num_labels=2), Task("c", "regression")]


def batches(sampler: TaskSampler) -> list[list[int]]:
    rows = list(sampler)
    return [rows[start : start + sampler.batch_size] for start in range(0, len(rows), sampler.batch_size)]


def composition(batch: list[int]) -> tuple[int, ...]:
    counts = Counter(THREE[row] for row in batch)
    return counts[0], counts[1], counts[2]


# --- shares --------------------------------------------------------------------------------------------------------


def test_shares_by_hand():
    assert shares([60, 25, 5], "proportional").tolist() == pytest.approx([60 / 90, 25 / 90, 5 / 90])
    roots = np.sqrt([64.0, 16.0, 4.0])
    assert shares([64, 16, 4], "sqrt").tolist() == pytest.approx((roots / roots.sum()).tolist())
    assert shares([64, 16, 4], "sqrt").tolist() == pytest.approx([8 / 14, 4 / 14, 2 / 14])
    assert shares([64, 16, 4], "round_robin").tolist() == pytest.approx([1 / 3] * 3)
    cubes = [4.0, 2.0]  # cube roots of 64 and 8
    assert shares([64, 8], "temperature", 3.0).tolist() == pytest.approx([value / sum(cubes) for value in cubes])


def test_temperature_lies_between_proportional_and_equal():
    sizes = [900, 90, 10]
    assert np.allclose(shares(sizes, "temperature", 1.0), shares(sizes, "proportional"))
    assert np.allclose(shares(sizes, "temperature", 2.0), shares(sizes, "sqrt"))
    assert np.allclose(shares(sizes, "temperature", 1e9), shares(sizes, "round_robin"))
    of_the_smallest = [shares(sizes, "temperature", value)[2] for value in (1.0, 2.0, 5.0, 50.0)]
    assert of_the_smallest == sorted(of_the_smallest) and of_the_smallest[0] < of_the_smallest[-1]


def test_unknown_words_and_numbers():
    with pytest.raises(ValueError, match="`cubic` is no way to mix tasks.*unknown.*proportional, sqrt, temperature"):
        shares([1, 2], "cubic")  # pyright: ignore[reportArgumentType]
    for value in (0.5, 0.0, float("nan")):
        with pytest.raises(ValueError, match=f"temperature={value} is less than 1.*nothing.*Give 1"):
            shares([1, 2], "temperature", value)


# --- places --------------------------------------------------------------------------------------------------------


def naive_webster(shares: list[float], places: int) -> list[int]:
    """Each place to the task with the largest quotient of its share and what it has so far, and a half."""
    counts = [0] * len(shares)
    order = []
    for _ in range(places):
        quotients = [share / (count + 0.5) for share, count in zip(shares, counts, strict=True)]
        chosen = quotients.index(max(quotients))
        counts[chosen] += 1
        order.append(chosen)
    return order


@pytest.mark.parametrize("seed", range(8))
def test_places_are_those_of_the_divisor_method(seed):
    random_ = np.random.default_rng(seed)
    values = random_.dirichlet(np.ones(random_.integers(1, 7)))
    places = int(random_.integers(1, 400))
    assert interleaved(values, places).tolist() == naive_webster(values.tolist(), places)


@pytest.mark.parametrize("seed", range(8))
def test_every_beginning_holds_the_tasks_in_their_shares(seed):
    random_ = np.random.default_rng([1, seed])
    values = random_.dirichlet(np.full(4, 0.5)) + 1e-6
    values /= values.sum()
    order = interleaved(values, 500)
    for length in (1, 10, 77, 500):
        counts = np.bincount(order[:length], minlength=4)
        assert np.abs(counts - length * values).max() < 1.5


def test_a_task_with_next_to_no_rows_gets_its_place():
    order = interleaved(np.array([1 - 1e-3, 1e-3]), 1000)
    assert len(order) == 1000 and (order == 1).sum() == 1


# --- the sampler ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_all_ranks_get_one_composition_at_every_step(mix, ranks, batch_size):
    sampler = TaskSampler(THREE, mix=mix, batch_size=batch_size, ranks=ranks, seed=1)
    whole = batches(sampler)
    assert len(whole) % ranks == 0 and {len(batch) for batch in whole} == {batch_size}
    shards = [
        list(BatchSamplerShard(BatchSampler(sampler, batch_size, False), ranks, rank))  # type: ignore[arg-type]
        for rank in range(ranks)
    ]
    for step in zip(*shards, strict=True):
        assert len({composition(batch) for batch in step}) == 1
    assert sorted(batch for shard in shards for batch in shard) == sorted(whole)


@pytest.mark.parametrize("mix", MIXES)
def test_batches_hold_the_tasks_in_their_shares(mix):
    sampler = TaskSampler(THREE, mix=mix, batch_size=18)
    expected = 18 * sampler.shares
    for batch in batches(sampler):
        assert np.abs(np.array(composition(batch)) - expected).max() < 1.5
    total = np.array([composition(batch) for batch in batches(sampler)]).sum(0)
    assert np.abs(total - 90 * sampler.shares).max() < 1


def test_round_robin_by_hand():
    sampler = TaskSampler(THREE, mix="round_robin", batch_size=6)
    assert {composition(batch) for batch in batches(sampler)} == {(2, 2, 2)}


def test_proportional_epochs_see_every_row_once():
    for batch_size in (1, 9, 10, 90):
        assert sorted(TaskSampler(THREE, batch_size=batch_size, seed=1)) == list(range(90))


def test_several_ranks_round_each_task_to_whole_steps():
    rows = list(TaskSampler(THREE, batch_size=10, ranks=3, seed=1))
    counts = Counter(THREE[row] for row in rows)
    assert all(counts[task] % 3 == 0 and abs(counts[task] - size) < 3 for task, size in ((0, 60), (1, 25), (2, 5)))
    assert len(set(rows)) == sum(min(counts[task], size) for task, size in ((0, 60), (1, 25), (2, 5)))


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 8, 64])
def test_an_epoch_is_as_long_as_the_data_in_whole_steps(batch_size, ranks):
    sampler = TaskSampler(THREE, mix="sqrt", batch_size=batch_size, ranks=ranks)
    step = batch_size * ranks
    assert len(sampler) == -(-90 // step) * step == len(list(sampler))
    assert len(DataLoader(THREE, batch_size=batch_size, sampler=sampler)) == len(sampler) // batch_size  # type: ignore[arg-type]


def test_rows_are_drawn_once_before_one_is_drawn_again_also_across_epochs():
    sampler = TaskSampler(THREE, mix="round_robin", batch_size=6, seed=3)
    drawn: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for epoch in range(4):
        sampler.set_epoch(epoch)
        for row in sampler:
            drawn[THREE[row]].append(row)
    for task, size in ((0, 60), (1, 25), (2, 5)):
        passes = [drawn[task][start : start + size] for start in range(0, len(drawn[task]), size)]
        assert len(drawn[task]) == 120
        assert all(sorted(one) == sorted(set(one)) for one in passes)
        whole = [one for one in passes if len(one) == size]
        assert all({THREE[row] for row in one} == {task} for one in whole)
        assert len(whole) < 2 or len({tuple(one) for one in whole}) > 1  # a new order each time


def test_is_a_function_of_seed_and_epoch():
    sampler = TaskSampler(THREE, batch_size=8, seed=7)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(1)
    second = list(sampler)
    assert second != first
    sampler.set_epoch(0)
    assert list(sampler) == first
    fresh = TaskSampler(THREE, batch_size=8, seed=7)
    fresh.set_epoch(1)
    assert list(fresh) == second
    assert list(TaskSampler(THREE, batch_size=8, seed=8)) != first


def test_neither_reads_nor_changes_global_random_state():
    sampler = TaskSampler(THREE, batch_size=8, seed=7)
    first = list(sampler)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert list(sampler) == first
    assert random.getstate() == before[0] and np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_skipping_the_first_batches_resumes_exactly():
    sampler = TaskSampler(THREE, mix="sqrt", batch_size=8, seed=2)
    sampler.set_epoch(3)
    loader = DataLoader(list(range(90)), batch_size=8, sampler=sampler)  # type: ignore[arg-type]
    straight = [batch.tolist() for batch in loader]
    resumed = [batch.tolist() for batch in skip_first_batches(loader, 5)]
    assert resumed == straight[5:] and len(resumed) == 7


def test_task_numbers_need_not_be_sorted_and_a_task_may_have_no_rows():
    sampler = TaskSampler(np.array([3, 0, 3, 3, 0, 3]), mix="round_robin", batch_size=2)
    assert sampler.shares.tolist() == [0.5, 0.5]
    assert all(len({row in (1, 4) for row in batch}) == 2 for batch in batches(sampler))


def test_one_task_alone_is_a_shuffle():
    rows = list(TaskSampler([0] * 20, batch_size=5, seed=1))
    assert sorted(rows) == list(range(20)) and rows != list(range(20))


@pytest.mark.parametrize("tasks", [[], [0, -1], [0.5, 1.0], [[0, 1], [1, 0]], ["a", "b"]])
def test_what_is_no_column_of_numbers(tasks):
    with pytest.raises(ValueError, match="TaskSampler got a list without one task number.*composed.*mix_tasks"):
        TaskSampler(tasks, batch_size=2)


@pytest.mark.parametrize(("batch_size", "ranks"), [(0, 1), (4, 0), (-2, 1)])
def test_batches_without_rows(batch_size, ranks):
    with pytest.raises(ValueError, match=f"batch_size={batch_size} and ranks={ranks}: a batch of no rows"):
        TaskSampler(THREE, batch_size=batch_size, ranks=ranks)


def test_negative_seed():
    with pytest.raises(ValueError, match="seed=-1 is negative"):
        TaskSampler(THREE, batch_size=4, seed=-1)


# --- of a data set -------------------------------------------------------------------------------------------------


def test_tasks_of_a_data_set_and_of_a_subset_without_decoding():
    def refuse(batch):
        raise AssertionError("inputs were decoded")

    data = Dataset.from_dict({"x": list("abcd"), "task": [0, 1, 1, 0]})
    assert tasks_of(data.with_transform(refuse)).tolist() == [0, 1, 1, 0]
    assert tasks_of(data.with_format("torch")).tolist() == [0, 1, 1, 0]
    assert tasks_of(Subset(data, [2, 0])).tolist() == [1, 0]  # type: ignore[arg-type]
    assert tasks_of(data.remove_columns("task")) is None and tasks_of([1, 2]) is None
    assert tasks_of(Subset(data.remove_columns("task"), [0])) is None  # type: ignore[arg-type]


def test_task_sampler_passes_everything_on():
    data = Dataset.from_dict({"x": list(range(90)), "task": THREE})
    sampler = task_sampler(data, TASKS, "temperature", batch_size=9, ranks=2, seed=5, temperature=3.0)
    assert sampler is not None and (sampler.batch_size, sampler.ranks, sampler.seed) == (9, 2, 5)
    assert np.allclose(sampler.shares, shares([60, 25, 5], "temperature", 3.0))
    direct = TaskSampler(THREE, mix="temperature", batch_size=9, ranks=2, seed=5, temperature=3.0)
    assert list(sampler) == list(direct)


def test_no_task_column_leaves_the_order_to_the_trainer():
    data = Dataset.from_dict({"x": [1], "labels_a": [0]})
    assert task_sampler(data, TASKS, batch_size=4, ranks=1, seed=0) is None


@pytest.mark.parametrize("number", [3, -1])
def test_a_row_of_an_unknown_task(number):
    data = Dataset.from_dict({"x": [1, 2, 3, 4], "task": [0, 1, 2, number]})
    with pytest.raises(ValueError, match=f"`task` holds {number}, which is none of 0 = `a`, 1 = `b`.*mix_tasks"):
        task_sampler(data, TASKS, batch_size=4, ranks=1, seed=0)


def test_a_task_without_a_row():
    data = Dataset.from_dict({"x": [1, 2], "task": [0, 2]})
    with pytest.raises(ValueError, match="Task `b` has no row.*as it was drawn.*leave the task out"):
        task_sampler(data, TASKS, batch_size=4, ranks=1, seed=0)
    named = Dataset.from_dict({"x": [1, 2], "task": ["a", "b"]})
    with pytest.raises(ValueError, match="`task` holds a, which is none of 0 = `a`"):
        task_sampler(named, TASKS, batch_size=4, ranks=1, seed=0)
