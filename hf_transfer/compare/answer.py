"""What a comparison says: the row of every strategy, the recommended one, and whether transfer helped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hf_transfer.compare.cells import Costs


POSITIVE, NEGATIVE, UNDECIDED = "positive", "negative", "undecided"

__all__ = [
    "NEGATIVE",
    "POSITIVE",
    "UNDECIDED",
    "Answer",
    "ClassVerdict",
    "CurvePoint",
    "Difference",
    "Estimate",
    "Outlook",
    "Recommendation",
    "TableRow",
    "Verdict",
]


@dataclass(frozen=True)
class Estimate:
    """A mean with the ends of its interval, which are `None` where one run says nothing of it."""

    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Difference(Estimate):
    """How much better one is than another on the same rows and seeds; positive is better."""

    @property
    def decided(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


@dataclass(frozen=True)
class TableRow:
    """
    A strategy on a base model.

    Args:
        model (`str`): label of the base model.
        strategy (`str`): name of the strategy.
        status (`str`): `finished` if at least one seed is, else `failed` or `skipped`.
        reason (`str`, *optional*): of failure, or why it has fewer seeds than others.
        seeds (`list[int]`): finished ones.
        validation (`Estimate`, *optional*): main score on the rows that validate.
        test (`Estimate`, *optional*): main score on the test rows, which take no part in any choice.
        against_best (`Difference`, *optional*): to the leader, on the rows that validate; zero for the leader.
        against_scratch (`Difference`, *optional*): to training from scratch.
        tied (`bool`): whether it cannot be told from the leader.
        costs (`Costs`): means over seeds.
        command (`str`): that runs this strategy alone.
        note (`str`): what is to be told of its runs.
    """

    model: str
    strategy: str
    status: str
    reason: str | None = None
    seeds: list[int] = field(default_factory=list)
    validation: Estimate | None = None
    test: Estimate | None = None
    against_best: Difference | None = None
    against_scratch: Difference | None = None
    tied: bool = False
    costs: Costs = field(default_factory=Costs)
    command: str = ""
    note: str = ""


@dataclass(frozen=True)
class Recommendation:
    """
    The strategy to take.

    Args:
        model (`str`): label of the base model.
        strategy (`str`): its name.
        reason (`str`): one sentence.
        leader (`tuple[str, str]`): model and strategy of the best mean, which a cheaper one may be tied with.
        tied (`list[tuple[str, str]]`): models and strategies that cannot be told from the leader.
    """

    model: str
    strategy: str
    reason: str
    leader: tuple[str, str]
    tied: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class ClassVerdict:
    """Whether transfer helped for the rows of one class: recall of the leader less that from scratch."""

    label: str
    rows: int
    difference: Difference
    verdict: str


@dataclass(frozen=True)
class Verdict:
    """
    Whether transfer helped.

    Args:
        verdict (`str`): `positive`, `negative` or `undecided`.
        sentence (`str`): the same in words.
        against_scratch (`Difference`, *optional*): of the best strategy that starts from the pretrained model.
        against_majority (`Difference`, *optional*): of the same.
        classes (`list[ClassVerdict]`): class by class.
    """

    verdict: str
    sentence: str
    against_scratch: Difference | None = None
    against_majority: Difference | None = None
    classes: list[ClassVerdict] = field(default_factory=list)


@dataclass(frozen=True)
class CurvePoint:
    """The main score of a strategy with a share of the labelled rows."""

    model: str
    strategy: str
    share: float
    rows: int
    score: Estimate


@dataclass(frozen=True)
class Outlook:
    """What more labels, or another strategy, would likely bring, in sentences."""

    labels: str
    strategy: str


@dataclass(frozen=True)
class Answer:
    """All of it."""

    rows: Sequence[TableRow]
    recommendation: Recommendation | None
    verdict: Verdict
    curve: Sequence[CurvePoint] = ()
    outlook: Outlook | None = None
