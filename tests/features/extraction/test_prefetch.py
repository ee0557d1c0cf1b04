from __future__ import annotations

import threading
import time

import pytest

from hf_transfer.features.extraction.prefetch import ahead, cores


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_results_come_in_order(threads):
    def work(job):
        time.sleep(0.002 * (job % 3))
        return job * job

    assert list(ahead(range(20), work, threads=threads)) == [(job, job * job) for job in range(20)]


def test_no_more_is_begun_than_the_depth():
    begun = []
    for job, _ in ahead(range(50), begun.append, threads=2, depth=3):
        time.sleep(0.001)
        assert len(begun) <= job + 1 + 3 + 1


def test_work_is_done_in_threads_and_jobs_are_taken_in_the_caller():
    def jobs():
        for _ in range(4):
            yield threading.get_ident()

    own = threading.get_ident()
    for job, worker in ahead(jobs(), lambda job: threading.get_ident(), threads=1):
        assert job == own and worker != own
    assert {worker for _, worker in ahead(jobs(), lambda job: threading.get_ident(), threads=0)} == {own}


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_ends_it(threads):
    done = []

    def work(job):
        if job == 3:
            raise ZeroDivisionError
        done.append(job)

    with pytest.raises(ZeroDivisionError):
        for _ in ahead(range(1000), work, threads=threads):
            pass
    assert len(done) < 20


def test_a_caller_that_stops_leaves_no_thread():
    before = threading.active_count()
    results = ahead(range(1000), lambda job: job, threads=4)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_at_least_one_core():
    assert cores() >= 1
