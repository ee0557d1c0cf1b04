"""Which candidate to take: the leader, who is tied with it, the cheapest of these, and whether transfer helps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hf_transfer.compare.answer import NEGATIVE, POSITIVE, UNDECIDED, Difference
from hf_transfer.compare.judging.differences import differences
from hf_transfer.selection.candidates import MARK, REINIT, is_control
from hf_transfer.selection.held_out import KNN, PROBE
from hf_transfer.selection.outcome import Outcome
from hf_transfer.selection.scores import paired_spread


MAJORITY, RAW = "majority", "raw inputs"
"""Baselines: what looks at no input, and a linear probe on the inputs as they are."""

__all__ = ["MAJORITY", "RAW", "Recommendation", "control_remark", "left_out_remark", "recommend", "transfer_check"]


@dataclass(frozen=True)
class Recommendation:
    """
    The candidate to take.

    Args:
        name (`str`): the one that is recommended: of those that are tied the one of fewest parameters.
        leader (`str`): the one of the best score.
        tied (`tuple[str, ...]`): candidates whose score cannot be told from the leader's, the leader among them; one
            alone where it is clear.
        behind (`Mapping[str, Difference]`): how far each other candidate is behind the leader, with intervals that
            hold for all together.
        sentence (`str`): the same in words.
    """

    name: str
    leader: str
    tied: tuple[str, ...]
    behind: Mapping[str, Difference] = field(repr=False)
    sentence: str

    @property
    def too_close(self) -> bool:
        """Whether another candidate cannot be told from the leader."""
        return len(self.tied) > 1


def recommend(
    outcomes: Sequence[Outcome], by: str, *, size: int, parts: Sequence[int], seed: int = 0
) -> Recommendation | None:
    """
    The recommendation by a score.

    By `probe` and `knn` candidates are compared example by example: a bootstrap over the examples, of which the
    largest deviation of all pairs with the leader counts (max-t). By another score they are compared on random parts
    of the rows, which are the same for all (Bonferroni).

    Args:
        outcomes (`Sequence[Outcome]`): candidates.
        by (`str`): a score.
        size (`int`): examples.
        parts (`Sequence[int]`): examples of each random part.
        seed (`int`, *optional*, defaults to 0): of the bootstrap.

    Degenerate cases:
        A pair without an interval counts as tied. Controls (`name#random`) are recommended only where there is
        nothing else. None where no candidate has the score.
    """
    known = [own for own in outcomes if own.scored and own.value(by) is not None]
    # controls are there to lose, and are no models to start from
    known = [own for own in known if not is_control(own.name)] or known
    if not known:
        return None
    leader = max(known, key=lambda own: (own.value(by) or 0.0, -_size(own)))
    others = [own for own in known if own is not leader]
    behind: dict[str, Difference] = {}
    if by in (PROBE, KNN):
        runs = {own.name: {0: own.rows[by]} for own in known}
        found = differences(runs, [(leader.name, own.name) for own in others], seed=seed)
        behind = {second: gap for (_, second), gap in found.items()}
    else:
        for own in others:
            gap = paired_spread(leader.scores[by], own.scores[by], size, parts, family=len(others))
            lone = (leader.value(by) or 0.0) - (own.value(by) or 0.0)
            behind[own.name] = Difference(lone) if gap is None else Difference(*gap)
    tied = [leader, *(own for own in others if not behind[own.name].decided)]
    chosen = min(tied, key=_size)
    return Recommendation(
        chosen.name,
        leader.name,
        tuple(own.name for own in tied),
        behind,
        _sentence(leader, tied, chosen, behind, by, alone=not others),
    )


def transfer_check(
    chosen: Outcome, baselines: Sequence[Outcome], *, seed: int = 0
) -> tuple[str, dict[str, Difference], str]:
    """
    Whether a candidate beats what needs no pretrained model, by the linear probe.

    Args:
        chosen (`Outcome`): the candidate.
        baselines (`Sequence[Outcome]`): `majority`, `raw inputs`, and perhaps its own copy with random weights.
        seed (`int`, *optional*, defaults to 0): of the bootstrap.

    Returns:
        `tuple`: `positive` where it beats all of them, `negative` where it loses to one, else `undecided`; the
        differences by name, whose intervals hold together; a sentence.
    """
    known = [own for own in baselines if PROBE in own.rows and own.name != chosen.name]
    if PROBE not in chosen.rows or not known:
        return UNDECIDED, {}, ""
    runs = {own.name: {0: own.rows[PROBE]} for own in [chosen, *known]}
    found = differences(runs, [(chosen.name, own.name) for own in known], seed=seed)
    gains = {second: gain for (_, second), gain in found.items()}
    worse = [name for name, gain in gains.items() if gain.decided and gain.mean < 0]
    unsure = [name for name, gain in gains.items() if not gain.decided]
    if worse or unsure:
        told = ", ".join(f"`{name}` ({gains[name].mean:+.3f})" for name in worse or unsure)
        start = "by the linear probe the frozen features of"
        if not worse:
            return UNDECIDED, gains, f"Transfer may not help: {start} `{chosen.name}` are not told from {told}."
        sentence = (
            f"Transfer may hurt: {start} `{chosen.name}` tell less than {told}. Before you rely on it, compare it"
        )
        return NEGATIVE, gains, f"{sentence} with training from scratch."
    told = ", ".join(f"{gain.mean:+.3f} against `{name}`" for name, gain in gains.items())
    return POSITIVE, gains, f"Its features carry what the inputs alone do not: {told}, more than chance explains."


def left_out_remark(outcomes: Sequence[Outcome], by: str) -> str:
    """
    Which candidates have scores, but not the one that decides; empty where all have it.

    Args:
        outcomes (`Sequence[Outcome]`): candidates.
        by (`str`): a score.
    """
    without = [own for own in outcomes if own.scored and own.value(by) is None]
    if not without:
        return ""
    told = ", ".join(f"`{own.name}`" for own in without)
    reason = without[0].scores[by].reason if by in without[0].scores else "it was not computed"
    return f"Not compared: {told}, for which `{by}` says nothing ({reason}). Rank by another score to compare all."


def control_remark(chosen: Outcome, outcomes: Sequence[Outcome], *, seed: int = 0) -> list[str]:
    """
    Whether what the top blocks of a candidate learned serves the target: by its copies with new ones, if there are.

    Args:
        chosen (`Outcome`): the candidate.
        outcomes (`Sequence[Outcome]`): all candidates.
        seed (`int`, *optional*, defaults to 0): of the bootstrap.
    """
    start = f"{chosen.name}{MARK}{REINIT}"
    copies = [own for own in outcomes if own.name.startswith(start) and PROBE in own.rows]
    if PROBE not in chosen.rows or not copies:
        return []
    runs = {own.name: {0: own.rows[PROBE]} for own in [chosen, *copies]}
    found = []
    for (_, name), gain in differences(runs, [(chosen.name, own.name) for own in copies], seed=seed).items():
        ends = "" if gain.low is None else f", 95% interval {gain.low:+.3f} to {gain.high:+.3f}"
        told = f"{gain.mean:+.3f} against `{name}`{ends}"
        if not gain.decided:
            found.append(f"Whether what its top blocks learned serves the target is open: {told}.")
        elif gain.mean > 0:
            found.append(f"What its top blocks learned serves the target: {told}.")
        else:
            found.append(f"What its top blocks learned is in the way of the target: {told}. Draw them anew.")
    return found


def _size(outcome: Outcome) -> int:
    return outcome.cost.parameters if outcome.cost is not None else 0


def _sentence(
    leader: Outcome,
    tied: Sequence[Outcome],
    chosen: Outcome,
    behind: Mapping[str, Difference],
    by: str,
    *,
    alone: bool,
) -> str:
    if alone:
        return (
            f"`{leader.name}` is the only candidate with a {_told(by)}, beside controls: there is nothing to choose."
        )
    if len(tied) == 1:
        name, gap = min(behind.items(), key=lambda pair: pair[1].mean)
        return (
            f"Take `{leader.name}`: its {_told(by)} is {gap.mean:.3f} above that of the next, `{name}` "
            f"(95% interval {gap.low:.3f} to {gap.high:.3f})."
        )
    names = ", ".join(f"`{own.name}`" for own in tied)
    gap = max((behind[own.name] for own in tied[1:]), key=lambda gap: gap.mean)
    smallest = "the smallest of them" if any(_size(own) > _size(chosen) for own in tied) else "the first of them"
    least = f"{smallest}, `{chosen.name}` ({_size(chosen):,} parameters)"
    return (
        f"Too close to call by {_told(by)}: {names} are at most {gap.mean:.3f} apart, which chance explains on these "
        f"rows. Take {least}, or fine-tune them all."
    )


def _told(by: str) -> str:
    return {PROBE: "linear probe", KNN: "k-NN"}.get(by, by)
