"""What is refused before anything is trained, and what is not."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import IterableDataset

from hf_transfer.meta.checks import ALGORITHMS, check_arguments, check_class_major, check_data, check_options
from hf_transfer.meta.learner import EpisodeShape
from tests.meta.rows import arguments, rows


SHAPE = EpisodeShape(n_way=2, k_shot=1, queries=2)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_known_passes(algorithm):
    check_options(algorithm, 1, 1e-9, 1)


def test_the_episodes_of_a_micro_batch(tmp_path):
    assert check_arguments(arguments(tmp_path), 4) == 4
    assert check_arguments(arguments(tmp_path, gradient_accumulation_steps=4), 8) == 2
    with pytest.raises(ValueError, match="`episodes_per_step=0` cannot be dealt out"):
        check_arguments(arguments(tmp_path), 0)


def test_checkpointing_has_no_second_derivative(tmp_path):
    with pytest.raises(ValueError, match="`activation_checkpointing` does not go .* Use vectorize=False"):
        check_arguments(arguments(tmp_path, activation_checkpointing=True), 4)


def test_streams_are_refused_and_no_data_is_not():
    class Stream(IterableDataset):
        def __iter__(self):
            yield from ()

    check_data(None, SHAPE)
    check_data(rows(), SHAPE)
    with pytest.raises(ValueError, match="Stream is a stream: .* Pass a data set of rows"):
        check_data(Stream(), SHAPE)


@pytest.mark.parametrize("labels", [[4, 9, 4, 4, 9, 9], [9, 4, 9, 9, 4, 4, 0, 1, 0, 0, 1, 1]])
def test_rows_that_lie_class_by_class_pass(labels):
    check_class_major(torch.tensor(labels), SHAPE)


@pytest.mark.parametrize("labels", [None, [4, 9, 9, 9, 4, 4], [4, 4, 4, 4, 4, 4], [4, 9, 4, 9, 4, 9]])
def test_other_orders_are_refused(labels):
    with pytest.raises(ValueError, match="do not lie class by class .* Use a collator"):
        check_class_major(None if labels is None else torch.tensor(labels), SHAPE)
