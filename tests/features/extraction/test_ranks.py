from __future__ import annotations

import pytest

from hf_transfer.features.extraction.ranks import Ranks


class Others(Ranks):
    """Rank 1 of 3, whose companions say what they are told to."""

    def __init__(self, said):
        self.index, self.count, self.said = 1, 3, said
        self.told = []

    def gather(self, value):
        self.told.append(value)
        return [self.said[0], value, self.said[1]]


def test_alone():
    ranks = Ranks()
    assert (ranks.index, ranks.count, ranks.is_main) == (0, 1, True)
    assert ranks.share([3, 1, 2]) == [3, 1, 2] and ranks.gather("a") == ["a"]
    assert ranks.from_main(lambda: 5) == 5
    ranks.require_same("key")
    with ranks.failing_together():
        pass
    with pytest.raises(KeyError), ranks.failing_together():
        raise KeyError


def test_shares_are_disjoint_and_complete():
    shares = []
    for index in range(3):
        ranks = Others([None, None])
        ranks.index = index
        shares.append(ranks.share(range(10)))
    assert shares == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]


def test_ranks_with_other_data_are_refused():
    Others(["a", "a"]).require_same("a")
    with pytest.raises(RuntimeError, match="The 3 ranks were given different .*keys a, b, a.*whole data set"):
        Others(["a", "a"]).require_same("b")


def test_a_failure_elsewhere_is_raised_here():
    with pytest.raises(RuntimeError, match="another rank failed .rank 2: OSError: full.*run again"):
        with Others([None, "rank 2: OSError: full"]).failing_together():
            pass


def test_a_failure_here_is_told():
    ranks = Others([None, None])
    with pytest.raises(ValueError, match="broken"), ranks.failing_together():
        raise ValueError("broken")
    assert ranks.told == ["rank 1: ValueError: broken"]
