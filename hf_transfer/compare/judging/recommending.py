"""Which strategy to take: the cheapest of those that cannot be told from the best."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from hf_transfer.compare.answer import Difference, Recommendation
from hf_transfer.compare.cells import Costs
from hf_transfer.compare.judging.differences import Key, Runs, common_seeds, differences, mean
from hf_transfer.compare.judging.wording import figure, share_of, strategy_name, with_interval


MAJORITY, SCRATCH = "majority", "scratch"
"""Names of the baselines that a verdict is about."""

ALIKE = 2.0
"""Costs that differ by less than this factor are the same."""

__all__ = ["ALIKE", "MAJORITY", "SCRATCH", "Standing", "cheapest", "recommend", "standing"]


@dataclass(frozen=True)
class Standing:
    """
    Who leads, and by how much.

    Args:
        runs (`Runs`): scores of the rows that validate, of strategies with at least one run.
        candidates (`list[Key]`): strategies that may be recommended.
        baselines (`list[Key]`): the others.
        leader (`Key`, *optional*): the candidate of the best mean; `None` without candidates.
        against_best (`Mapping[Key, Difference]`): of every strategy less the leader; none without a common seed.
        against_baselines (`Mapping[tuple[Key, Key], Difference]`): of every candidate less every baseline.
        tied (`list[Key]`): candidates that cannot be told from the leader, the leader itself first.
    """

    runs: Runs
    candidates: list[Key]
    baselines: list[Key]
    leader: Key | None = None
    against_best: Mapping[Key, Difference] = field(default_factory=dict)
    against_baselines: Mapping[tuple[Key, Key], Difference] = field(default_factory=dict)
    tied: list[Key] = field(default_factory=list)

    def name(self, key: Key) -> str:
        """What a strategy is called in a sentence."""
        return strategy_name(key, self.candidates)

    @property
    def second(self) -> Key | None:
        """The best candidate but the leader, by the difference to it."""
        rest = [key for key in self.candidates if key != self.leader and key in self.against_best]
        return max(rest, key=lambda key: self.against_best[key].mean, default=None)

    def words(self, baseline: str) -> str:
        """What one of the two baselines of a verdict is called in a sentence."""
        if baseline == SCRATCH:
            return "training from scratch"
        errors = any((run.scores < 0).any() for own in self.runs.values() for run in own.values())
        return "always giving the mean" if errors else "the majority class"

    def baseline(self, name: str, key: Key | None = None) -> Key | None:
        """The best baseline of a name that has a seed in common with a strategy (the leader); `None` without one."""
        key = key or self.leader
        found = {b: self.against_baselines.get((key, b)) for b in self.baselines if key is not None and b[1] == name}
        means = {baseline: pair.mean for baseline, pair in found.items() if pair is not None}
        return min(means, key=means.__getitem__, default=None)


def standing(runs: Runs, *, baselines: Collection[str] = (MAJORITY, SCRATCH), seed: int = 0) -> Standing:
    """
    The leader and all differences to it.

    The leader is the candidate with the best mean of those with the most seeds. One with fewer seeds takes its place
    only where it is better, beyond doubt, on the seeds that both have.

    Multiple comparisons: a leader is picked because its mean is the largest, so its lead is partly luck, and intervals
    of single pairs (or of all against one that was fixed beforehand) exclude zero too often. Here all pairs of
    candidates get intervals that hold together with 95% (max-t bootstrap over all pairs, as Tukey's range test does
    for independent means). Whichever pair is looked at afterwards, the guarantee is kept: where all candidates are
    equally good, one of them is told from the leader in at most 5% of comparisons; and the truly best is among the
    tied in at least 95%. This is stronger than Holm's step-down, which has no intervals. Candidates against baselines
    are a second family, with its own 95%. There the upper end of the leader is corrected for the number of baselines
    only: that the leader is the largest of all works against a finding that it is worse (if some candidate is not, it
    must come out at least as low as the leader), so its being picked needs no correction on that side.

    Args:
        runs (`Runs`): scores of the rows that validate, of all strategies.
        baselines (`Collection[str]`, *optional*): names of strategies that are never recommended.
        seed (`int`, *optional*, defaults to 0): of the bootstrap.

    Degenerate:
        The order of `runs` plays no part; of equal means the first by name leads. A candidate without a seed in common
        with the leader is not tied, and has no difference to it.

    Example:
        >>> import numpy as np
        >>> from hf_transfer.compare.judging.row_scores import RowScores
        >>> rows, ones = np.arange(60), np.ones(60)
        >>> parts = {"full": rows % 6 > 0, "lora": rows % 5 > 0, "probe": rows % 2 > 0}
        >>> runs = {("m", name): {0: RowScores(rows, right * 1.0, ones)} for name, right in parts.items()}
        >>> found = standing(runs)
        >>> found.leader, found.tied
        (('m', 'full'), [('m', 'full'), ('m', 'lora')])
    """
    runs = {key: runs[key] for key in sorted(runs) if runs[key]}
    candidates = [key for key in runs if key[1] not in baselines]
    others = [key for key in runs if key[1] in baselines]
    if not candidates:
        return Standing(runs, candidates, others)
    found = differences(runs, list(combinations(candidates, 2)), seed=seed)
    found |= {(second, first): _reversed(pair) for (first, second), pair in found.items()}
    most = max(len(runs[key]) for key in candidates)
    leader = max((key for key in candidates if len(runs[key]) == most), key=lambda key: mean(runs, key))
    better = [pair for (key, other), pair in found.items() if other == leader and pair.decided and pair.mean > 0]
    if better:
        largest = max(better, key=lambda pair: pair.mean)
        leader = next(key for (key, other), pair in found.items() if other == leader and pair is largest)
    against = {key: found[key, leader] for key in candidates if (key, leader) in found}
    against[leader] = Difference(0.0, 0.0, 0.0)
    measured = _against_baselines(runs, candidates, others, leader, seed)
    against |= {other: _reversed(measured[leader, other]) for other in others if (leader, other) in measured}
    tied = [leader, *(key for key in candidates if key != leader and key in against and not against[key].decided)]
    return Standing(runs, candidates, others, leader, against, measured, tied)


def _against_baselines(
    runs: Runs, candidates: list[Key], baselines: list[Key], leader: Key, seed: int
) -> dict[tuple[Key, Key], Difference]:
    pairs = [(key, other) for key in candidates for other in baselines]
    found = differences(runs, pairs, seed=seed)
    own = [pair for pair in found if pair[0] == leader]
    if own and len(candidates) > 1:
        # the same draws, so that the quantile is never the larger one
        fewer = differences(runs, pairs, family=own, seed=seed)
        found |= {pair: Difference(found[pair].mean, found[pair].low, fewer[pair].high) for pair in own}
    return found


def cheapest(keys: Sequence[Key], costs: Mapping[Key, Costs]) -> Key:
    """
    The strategy that costs least, where costs differ by more than a factor of two: of those whose training takes at
    most twice the shortest, and that then train at most twice the fewest weights, the first. Times are measured, and
    smaller differences are as much those of the machine's other work.

    Args:
        keys (`Sequence[Key]`): to choose from, at least one, the best first.
        costs (`Mapping[Key, Costs]`): by strategy; one without costs is the dearest.

    Example:
        >>> costs = {("m", "full"): Costs(10, None, 900), ("m", "lora"): Costs(11, None, 9), ("m", "dann"): Costs(30)}
        >>> cheapest(list(costs), costs)
        ('m', 'lora')
    """
    unknown = Costs(math.inf, trained_parameters=2**63)
    priced = {key: costs.get(key, unknown) for key in keys}
    soonest = min(cost.seconds for cost in priced.values())
    soon = [key for key in keys if priced[key].seconds <= ALIKE * soonest]
    fewest = min(priced[key].trained_parameters for key in soon)
    return next(key for key in soon if priced[key].trained_parameters <= ALIKE * fewest)


def recommend(found: Standing, costs: Mapping[Key, Costs]) -> Recommendation | None:
    """
    The cheapest of the strategies that are tied with the leader, the reason in one sentence.

    A tied strategy is passed over where it does to a baseline what the leader does not: falls below it, or cannot be
    told from it although the leader can.

    Args:
        found (`Standing`): of the strategies.
        costs (`Mapping[Key, Costs]`): by strategy.

    Returns:
        `Recommendation`; `None` where no candidate finished, or where the leader's mean is not above that of the
        majority class: then no strategy is worth its training.

    Example:
        >>> import numpy as np
        >>> from hf_transfer.compare.judging.row_scores import RowScores
        >>> rows, ones = np.arange(60), np.ones(60)
        >>> parts = {"full": rows % 6 > 0, "lora": rows % 5 > 0}
        >>> runs = {("m", name): {0: RowScores(rows, right * 1.0, ones)} for name, right in parts.items()}
        >>> recommend(standing(runs), {("m", "full"): Costs(10.0), ("m", "lora"): Costs(2.0)}).strategy
        'lora'
    """
    leader = found.leader
    if leader is None:
        return None
    majority = found.baseline(MAJORITY)
    if majority is not None and found.against_baselines[leader, majority].mean <= 0:
        return None
    ranked = sorted(found.tied, key=lambda key: (key != leader, -mean(found.runs, key)))
    chosen = cheapest([key for key in ranked if not _falls_behind(found, key)], costs)
    return Recommendation(*chosen, reason=_reason(found, chosen, costs), leader=leader, tied=list(found.tied))


def _falls_behind(found: Standing, key: Key) -> bool:
    """Whether the strategy is below a baseline that the leader is not, or not told from one that the leader beats."""
    assert found.leader is not None
    for baseline in found.baselines:
        own = found.against_baselines.get((key, baseline))
        best = found.against_baselines.get((found.leader, baseline))
        if own is None or best is None:
            continue
        if own.mean < 0 <= best.mean or (best.decided and best.mean > 0 and not own.decided):
            return True
    return False


def _reason(found: Standing, chosen: Key, costs: Mapping[Key, Costs]) -> str:
    leader = found.leader
    assert leader is not None
    said = f"{found.name(chosen)}: {figure(mean(found.runs, chosen))}"
    if len(found.candidates) == 1:
        said += ", the only strategy that finished"
    elif chosen != leader:
        best = figure(mean(found.runs, leader, common_seeds(found.runs, chosen, leader)))
        apart = with_interval(found.against_best[chosen])
        said += f", not told from {found.name(leader)} ({best}; difference {apart}){_saving(chosen, leader, costs)}"
    elif len(found.tied) > 1:
        number = len(found.tied) - 1
        others = "the one other" if number == 1 else f"the {number} others"
        below = any(_falls_behind(found, key) for key in found.tied)
        but = "would save nothing, or beat no baseline beyond doubt" if below else "would save nothing"
        said += f", the best on the validation rows; {others} that cannot be told from it {but}"
    else:
        said += ", the best on the validation rows, and told from all others"
        second = found.second
        if second is not None:
            said += f" (next is {found.name(second)}: difference {with_interval(found.against_best[second])})"
    said += _warning(found, chosen)
    return said + ("" if len(found.runs[chosen]) > 1 else "; only one seed was run, so other seeds may differ")


def _saving(chosen: Key, leader: Key, costs: Mapping[Key, Costs]) -> str:
    if chosen not in costs or leader not in costs:
        return ""
    own, other = costs[chosen], costs[leader]
    time, weights = share_of(own.seconds, other.seconds), share_of(own.trained_parameters, other.trained_parameters)
    by_weights = ALIKE * own.seconds >= other.seconds and ALIKE * own.trained_parameters < other.trained_parameters
    if weights is not None and (by_weights or time is None):
        return f", with {weights} of its trained parameters"
    return ", and no dearer" if time is None else f", at {time} of its training time"


def _warning(found: Standing, chosen: Key) -> str:
    """Of a baseline that is not beaten."""
    said = ""
    for name in (MAJORITY, SCRATCH):
        baseline, words = found.baseline(name, chosen), found.words(name)
        if baseline is None:
            continue
        apart = found.against_baselines[chosen, baseline]
        if not apart.decided:
            said += f"; not told from {words} either (difference {with_interval(apart)})"
        elif apart.mean < 0:
            said += f"; worse than {words} (difference {with_interval(apart)})"
    return said


def _reversed(pair: Difference) -> Difference:
    low = None if pair.high is None else -pair.high
    return Difference(-pair.mean, low, None if pair.low is None else -pair.low)
