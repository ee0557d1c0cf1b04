from __future__ import annotations

import evaluate
import numpy as np
import pytest

from hf_transfer.diagnostics.a_distance import proxy_a_distance
from hf_transfer.diagnostics.discrepancy import mmd_test
from hf_transfer.diagnostics.measurements import MeanDiscrepancyTest, ProxyADistance


def domains(shift=0.6):
    generator = np.random.default_rng(0)
    source, target = generator.normal(size=(30, 3)), generator.normal(size=(20, 3)) + shift
    return source.astype(np.float32), target.astype(np.float32)


def shuffled():
    """Rows of both domains, mixed, in the order in which each has them."""
    source, target = domains()
    domain = np.random.default_rng(1).permutation([0] * 30 + [1] * 20)
    data = np.empty((50, 3), np.float32)
    data[domain == 0], data[domain == 1] = source, target
    return data, domain


def test_they_are_the_functions_on_the_rows_of_each_domain():
    data, domain = shuffled()
    distance, test = proxy_a_distance(*domains()), mmd_test(*domains())
    assert ProxyADistance().compute(data=data, domain=domain) == {
        "proxy_a_distance": distance.distance,
        "proxy_a_distance_low": distance.interval[0],
        "proxy_a_distance_high": distance.interval[1],
    }
    assert MeanDiscrepancyTest().compute(data=data.tolist(), domain=domain.tolist()) == {
        "mmd": test.mmd,
        "mmd_p_value": test.p_value,
    }


def test_they_combine():
    data, domain = shuffled()
    both = evaluate.combine([ProxyADistance(), MeanDiscrepancyTest(settings={"permutations": 9})])
    found = both.compute(data=data, domain=domain)
    assert sorted(found) == [
        "mmd",
        "mmd_p_value",
        "proxy_a_distance",
        "proxy_a_distance_high",
        "proxy_a_distance_low",
    ]
    assert found["mmd_p_value"] >= 0.1


def test_rows_can_come_in_batches():
    data, domain = shuffled()
    measure = ProxyADistance()
    for start in range(0, 50, 17):
        measure.add_batch(data=data[start : start + 17], domain=domain[start : start + 17])
    assert measure.compute() == ProxyADistance().compute(data=data, domain=domain)


def test_options_are_handed_on():
    data, domain = shuffled()
    found = ProxyADistance(settings={"held_out": 0.2, "seed": 3}).compute(data=data, domain=domain)
    assert found["proxy_a_distance"] == proxy_a_distance(*domains(), held_out=0.2, seed=3).distance


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"`domain` holds 0, 2: two domains are compared.*number them so"):
        ProxyADistance().compute(data=[[0.0], [1.0]], domain=[0, 2])
    with pytest.raises(ValueError, match=r"from 1 to 2 numbers.*Pool tokens"):
        MeanDiscrepancyTest().compute(data=[[0.0], [1.0, 2.0]], domain=[0, 1])
    with pytest.raises(ValueError, match="source has 2 examples"):
        ProxyADistance().compute(data=[[0.0]] * 4, domain=[0, 0, 1, 1])
