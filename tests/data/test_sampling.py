from __future__ import annotations

import random
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, DataLoaderShard, skip_first_batches
from datasets import Dataset, Features, Image, Value
from torch.utils.data import BatchSampler, DataLoader, Subset
from transformers import TrainerControl, TrainerState

from hf_transfer.data.mixing import mix_domains
from hf_transfer.data.sampling import (
    AlternatingSampler,
    SetSamplerEpoch,
    check_whole_batches,
    domain_sampler,
    domains_of,
)


THREE = [0] * 13 + [1] * 4 + [2] * 7


def test_goes_round_the_domains():
    rows = list(AlternatingSampler(THREE, seed=3))
    assert [THREE[row] for row in rows] == [0, 1, 2] * 13
    assert len(rows) == len(AlternatingSampler(THREE)) == 39


def test_domain_numbers_need_not_be_sorted_or_contiguous():
    domains = np.array([5, 2, 5, 5, 2])
    assert list(AlternatingSampler(domains, shuffle=False)) == [1, 0, 4, 2, 1, 3]


def test_every_pass_over_a_short_domain_is_a_new_permutation():
    rows = list(AlternatingSampler(THREE, seed=1))[1::3]
    passes = [rows[start : start + 4] for start in (0, 4, 8)]
    assert all(sorted(one) == [13, 14, 15, 16] for one in passes)
    assert len({tuple(one) for one in passes}) > 1


def test_longest_domain_is_seen_exactly_once():
    assert sorted(list(AlternatingSampler(THREE, seed=1))[0::3]) == list(range(13))


def test_without_shuffle_the_order_of_the_rows():
    assert list(AlternatingSampler([0, 1, 0, 1, 0], shuffle=False)) == [0, 1, 2, 3, 4, 1]


def test_is_a_function_of_seed_and_epoch():
    sampler = AlternatingSampler(THREE, seed=7)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(1)
    second = list(sampler)
    assert second != first
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert list(AlternatingSampler(THREE, seed=8)) != first
    fresh = AlternatingSampler(THREE, seed=7)
    fresh.set_epoch(1)
    assert list(fresh) == second


def test_neither_reads_nor_changes_global_random_state():
    sampler = AlternatingSampler(THREE, seed=7)
    first = list(sampler)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert list(sampler) == first
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def mixed_or_short(batch: list[int], domains: list[int]) -> bool:
    return {domains[row] for row in batch} == set(domains)


@pytest.mark.parametrize("domains", [THREE, [0] * 9 + [1] * 2, [0, 1], [0] * 3 + [1] * 5 + [2] * 5 + [3]])
@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("split_batches", [True, False])
def test_every_batch_of_every_process_is_mixed(domains, processes, drop_last, split_batches):
    kinds = len(set(domains))
    for per_process in range(kinds, 2 * kinds + 3):
        size = per_process * processes if split_batches else per_process
        for process in range(processes):
            batches = BatchSampler(AlternatingSampler(domains, seed=2), size, drop_last)
            shard = BatchSamplerShard(batches, processes, process, split_batches=split_batches)
            for batch in shard:
                assert mixed_or_short(batch, domains), (per_process, process, batch)


def test_strided_sharding_would_not_be_mixed():
    """The check above can fail: what `DistributedSampler` does gives one domain per rank."""
    rows = list(AlternatingSampler([0] * 4 + [1] * 4))[0::2]
    assert not mixed_or_short(rows, [0] * 4 + [1] * 4)


def test_the_processes_share_an_epoch_without_overlap():
    seen = []
    for process in range(2):
        batches = BatchSampler(AlternatingSampler([0] * 8 + [1] * 8, seed=2), 4, False)
        seen += [row for batch in BatchSamplerShard(batches, 2, process) for row in batch]
    assert sorted(seen) == list(range(16))


def loader(seed: int) -> DataLoaderShard:
    sampler = AlternatingSampler(THREE, seed=seed)
    return DataLoaderShard(range(len(THREE)), batch_sampler=BatchSampler(sampler, 6, False), collate_fn=list)  # type: ignore


def test_set_epoch_arrives_through_accelerate_and_skipping_resumes_exactly():
    straight = loader(5)
    straight.set_epoch(2)
    expected = list(straight)
    resumed = skip_first_batches(loader(5), 3)
    resumed.set_epoch(2)
    assert list(resumed) == expected[3:]
    other = loader(5)
    other.set_epoch(1)
    assert list(other) != expected


def sharded(seed: int) -> DataLoaderShard:
    batches = BatchSampler(AlternatingSampler(THREE, seed=seed), 3, False)
    return DataLoaderShard(range(len(THREE)), batch_sampler=BatchSamplerShard(batches, 2, 1), collate_fn=list)  # type: ignore


@pytest.mark.parametrize("epoch", [0, 2.0, 2.625])
def test_resuming_on_several_ranks_goes_on_in_the_order_of_its_epoch(epoch):
    straight = sharded(5)
    straight.set_epoch(int(epoch))
    expected = list(straight)
    resumed = sharded(5)
    state = TrainerState(epoch=epoch)
    SetSamplerEpoch().on_epoch_begin(None, state, TrainerControl(), train_dataloader=resumed)  # type: ignore[arg-type]
    skipped = skip_first_batches(resumed, 3)
    skipped.set_epoch(int(epoch))
    assert list(skipped) == expected[3:]


def test_without_the_callback_it_would_not():
    """When this fails, accelerate reaches the sampler by itself and `SetSamplerEpoch` can go."""
    straight = sharded(5)
    straight.set_epoch(2)
    skipped = skip_first_batches(sharded(5), 3)
    skipped.set_epoch(2)
    assert list(skipped) != list(straight)[3:]


def test_the_callback_leaves_other_loaders_alone():
    plain = DataLoader([1, 2, 3], shuffle=True)  # type: ignore[arg-type]
    for loader in (plain, None):
        SetSamplerEpoch().on_epoch_begin(None, TrainerState(epoch=1.0), TrainerControl(), train_dataloader=loader)  # type: ignore[arg-type]


def test_torch_loader_workers_see_the_same_order():
    sampler = AlternatingSampler(THREE, seed=5)
    rows = DataLoader(range(len(THREE)), batch_size=6, sampler=sampler, collate_fn=list)  # type: ignore
    assert [row for batch in rows for row in batch] == list(sampler)


@pytest.mark.parametrize(
    ("domains", "seen"),
    [([], "0 values"), ([0, -1], "2 values"), ([0.0, 1.0], "2 values"), ([[0], [1]], "2 values"), (3, "a int")],
)
def test_refuses_what_is_no_domain_column(domains, seen):
    with pytest.raises(ValueError, match=f"AlternatingSampler got {seen}.*mix_domains"):
        AlternatingSampler(domains)


def test_refuses_a_negative_seed():
    with pytest.raises(ValueError, match="seed=-1 is negative.*Pass 0"):
        AlternatingSampler([0, 1], seed=-1)


def broken_images() -> Dataset:
    """Decoding any of these images raises."""
    features = Features({"image": Image(), "label": Value("int64")})
    return Dataset.from_dict({"image": [{"bytes": b"no image", "path": None}] * 4, "label": [0, 1, 0, 1]}, features)


def test_reading_the_domains_decodes_nothing_and_transforms_nothing():
    source, target = broken_images(), broken_images().select([3, 1, 2])
    mixed = mix_domains(source, target)
    with pytest.raises(Exception, match="cannot identify image"):
        mixed[0]

    def fail(batch):
        raise AssertionError("the transform ran")

    assert domains_of(mixed.with_transform(fail)).tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert len(AlternatingSampler(mixed)) == 8


def test_domain_sampler_of_a_mixed_dataset():
    mixed = mix_domains(
        Dataset.from_dict({"x": [1.0, 2.0, 3.0], "label": [0, 1, 1]}), Dataset.from_dict({"x": [4.0], "label": [0]})
    )
    sampler = domain_sampler(mixed, seed=4)
    assert isinstance(sampler, AlternatingSampler)
    assert list(sampler) == list(AlternatingSampler([0, 0, 0, 1], seed=4))
    shuffled = mixed.shuffle(seed=0)
    assert [shuffled["domain"][row] for row in AlternatingSampler(shuffled)] == [0, 1] * 3


def test_domain_sampler_is_none_without_several_domains():
    plain = Dataset.from_dict({"x": [1.0, 2.0]})
    assert domain_sampler(plain, seed=0) is None
    assert domain_sampler(plain.add_column("domain", [0, 0]), seed=0) is None  # type: ignore[call-arg]
    assert domain_sampler(torch.utils.data.TensorDataset(torch.zeros(3)), seed=0) is None
    assert domain_sampler(None, seed=0) is None


def test_subsets_of_torch_datasets_keep_their_domains():
    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return {"x": float(index), "labels": 0}

    mixed = mix_domains(Rows(), Rows())
    sampler = domain_sampler(Subset(mixed, [1, 6, 7]), seed=0)
    assert sampler is not None and len(sampler) == 4
    assert [(0, 1, 1)[row] for row in sampler] == [0, 1, 0, 1]


@pytest.mark.parametrize(("ranks", "split"), [(1, True), (2, False), (2, True)])
def test_batches_that_are_composed_are_not_split(ranks, split):
    args: Any = SimpleNamespace(world_size=ranks, accelerator_config=SimpleNamespace(split_batches=split))
    message = "split_batches=True on 2 ranks, and X composes.*Leave it False"
    with pytest.raises(ValueError, match=message) if ranks > 1 and split else nullcontext():
        check_whole_batches(args, "X")
