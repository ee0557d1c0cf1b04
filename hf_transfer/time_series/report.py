"""What a forecast comparison says: tables of errors, whether transfer helped, and what no model beats."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hf_transfer.compare.tables import markdown_table, told
from hf_transfer.repeats import summarise
from hf_transfer.time_series.accuracy import NAMED_HORIZONS
from hf_transfer.time_series.judging import NEGATIVE, POSITIVE, ErrorDifference, error_differences
from hf_transfer.time_series.scored import Scored
from hf_transfer.time_series.strategies import BASELINES, SCRATCH, UNTRANSFERRED


NAIVE, LINEAR = "naive", "linear"

__all__ = ["ShareFinding", "as_json", "error_table", "find", "horizon_table", "remarks", "share_name"]


@dataclass
class ShareFinding:
    """
    What the runs on one share of the training rows come to.

    Args:
        share (`float`): of the training rows.
        runs (`Mapping[str, Mapping[int, Scored]]`): errors on the test part, by strategy or baseline and seed.
        eval_mse (`Mapping[str, Mapping[int, float]]`): scaled error on the evaluation part, likewise.
        seconds (`Mapping[str, float]`): of one run.
        recommended (`str`, *optional*): the strategy with the lowest mean error on the evaluation part.
        transferred (`str`, *optional*): the best by that of those that start from the pretrained model.
        reference (`str`, *optional*): what transfer must beat: `scratch` or `probe_scratch`, the better by that.
        against (`dict`): by what is compared with (`scratch`, `probe_scratch` and the baselines) and strategy, the
            difference of the test MSE.
        verdict (`ErrorDifference`, *optional*): of `transferred` less `reference`, alone.
        failures (`Mapping[str, str]`): by strategy, the reason of a run that came to nothing.
    """

    share: float
    runs: Mapping[str, Mapping[int, Scored]]
    eval_mse: Mapping[str, Mapping[int, float]]
    seconds: Mapping[str, float]
    recommended: str | None = None
    transferred: str | None = None
    reference: str | None = None
    against: dict[str, dict[str, ErrorDifference]] = field(default_factory=dict)
    verdict: ErrorDifference | None = None
    failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def strategies(self) -> list[str]:
        """What was run of the strategies, without the baselines."""
        return [name for name in self.runs if name not in BASELINES]

    def mse(self, name: str) -> float:
        """Mean test MSE over seeds."""
        return float(np.mean([own.scores["mse"] for own in self.runs[name].values()]))


def find(
    share: float,
    runs: Mapping[str, Mapping[int, Scored]],
    eval_mse: Mapping[str, Mapping[int, float]],
    *,
    block_length: int,
    fixed: Collection[str] = (),
    seconds: Mapping[str, float] | None = None,
    failures: Mapping[str, str] | None = None,
    seed: int = 0,
) -> ShareFinding:
    """
    Choose on the evaluation part, and compare on the test part.

    Args:
        share (`float`): of the training rows.
        runs (`Mapping[str, Mapping[int, Scored]]`): errors on the test part, by strategy or baseline and seed.
        eval_mse (`Mapping[str, Mapping[int, float]]`): scaled error on the evaluation part, likewise.
        block_length (`int`): rows of a block of time, see [`error_differences`].
        fixed (`Collection[str]`, *optional*): what comes out the same with every seed.
        seconds (`Mapping[str, float]`, *optional*): of one run.
        failures (`Mapping[str, str]`, *optional*): reasons by strategy.
        seed (`int`, *optional*, defaults to 0): of the bootstrap.
    """
    found = ShareFinding(share, runs, eval_mse, seconds or {}, failures=failures or {})
    means = {name: float(np.mean(list(eval_mse[name].values()))) for name in found.strategies}
    found.recommended = min(means, key=lambda name: means[name], default=None)
    found.transferred, found.reference = (
        min((name for name in means if (name in UNTRANSFERRED) is random), key=lambda name: means[name], default=None)
        for random in (False, True)
    )
    options: dict[str, Any] = {"block_length": block_length, "fixed": fixed, "seed": seed}
    for reference in (*UNTRANSFERRED, *BASELINES):
        names = [name for name in runs if name != reference and (name not in BASELINES or reference == NAIVE)]
        if reference not in fixed:  # without a seed in common there is nothing to pair
            names = [name for name in names if name in fixed or set(runs[name]) & set(runs.get(reference, ()))]
        if reference in runs and names:
            made = error_differences(runs, [(name, reference) for name in names], **options)
            found.against[reference] = dict(zip(names, made, strict=True))
    if found.transferred in found.against.get(str(found.reference), {}):
        (found.verdict,) = error_differences(runs, [(str(found.transferred), str(found.reference))], **options)
    return found


def share_name(share: float) -> str:
    """
    A share in words.

    Example:
        >>> share_name(0.05), share_name(1.0)
        ('5% of the training rows', 'all training rows')
    """
    return "all training rows" if share == 1 else f"{100 * share:.4g}% of the training rows"


def error_table(found: ShareFinding) -> str:
    """
    A Markdown table of all that was run on a share: errors with their 95% intervals over seeds, the difference of the
    test MSE to what transfer must beat (`reference`), in bold where its interval excludes zero, and runs that failed.
    """
    reference = found.reference or SCRATCH
    header = ["", "evaluation MSE", "test MSE", "test MAE", "MASE", f"MSE against {reference}"]
    header += ["MSE, original units", "MAE, original units", "seconds", "seeds"]
    rows = []
    for name, by_seed in found.runs.items():
        row = [f"**{name}**" if name == found.recommended else name, told(found.eval_mse[name])]
        row += [told(_scores(by_seed, metric)) for metric in ("mse", "mae", "mase")]
        row.append(_told(found.against.get(reference, {}).get(name)))
        row += [f"{summarise(_scores(by_seed, f'{metric}_original')).mean:.4g}" for metric in ("mse", "mae")]
        row += [f"{found.seconds[name]:.1f}" if name in found.seconds else "", str(len(by_seed))]
        rows.append(row)
    rows += [[name, f"failed: {_cell(reason)}", *[""] * 8] for name, reason in found.failures.items()]
    return markdown_table(header, rows)


def horizon_table(found: ShareFinding) -> str:
    """A Markdown table of the scaled test MSE at a few steps ahead, the mean over seeds."""
    length = len(next(iter(next(iter(found.runs.values())).values())).by_horizon["mse"])
    steps = [step for step in NAMED_HORIZONS if step < length] + [length]
    rows = [
        [name, *(f"{np.mean([own.by_horizon['mse'][step - 1] for own in by_seed.values()]):.3f}" for step in steps)]
        for name, by_seed in found.runs.items()
    ]
    return markdown_table(["MSE at step", *map(str, steps)], rows)


def remarks(found: ShareFinding, *, target: str) -> list[str]:
    """
    What the table does not say aloud: whether transfer helped, and what no model beats.

    Args:
        found ([`ShareFinding`]): on one share.
        target (`str`): what the target series is called.
    """
    said, where = [], share_name(found.share)
    if found.recommended is not None:
        said.append(
            f"Recommended with {where}: {found.recommended}, which has the lowest error on the evaluation part."
        )
    said += [_verdict(found, where)] if found.verdict is not None else []
    over_naive = found.against.get(NAIVE, {})
    better = [name for name, own in over_naive.items() if own.verdict == POSITIVE]
    if over_naive and not better:
        best = min(over_naive, key=found.mse)
        said.append(
            f"Nothing beats the naive forecast on `{target}` with {where}: the lowest test MSE is "
            f"{found.mse(best):.3f} ({best}), that of naive {found.mse(NAIVE):.3f}, and no "
            "difference is told from chance. So it is with a "
            "random walk, such as many a market price: expect nothing of any model here."
        )
    over_linear = found.against.get(LINEAR, {})
    if over_linear and not any(own.verdict == POSITIVE for own in over_linear.values()):
        worse = [name for name, own in over_linear.items() if own.verdict == NEGATIVE]
        how = f"; worse beyond doubt: {', '.join(worse)}" if worse else ""
        said.append(f"No strategy beats the linear forecast with {where} (test MSE {found.mse(LINEAR):.3f}){how}.")
    said += [f"{name} failed with {where}: {reason}" for name, reason in found.failures.items()]
    seeds = {seed for name in found.strategies for seed in found.runs[name]}
    if len(seeds) == 1:
        said.append(f"One seed with {where}: how far another would come out is not known. Repeat with `--seeds 3`.")
    return said


def as_json(found: ShareFinding) -> dict[str, Any]:
    """What was chosen and found, as plain values."""
    return {
        "share": found.share,
        "recommended": found.recommended,
        "transferred": found.transferred,
        "reference": found.reference,
        "verdict": None if found.verdict is None else {"verdict": found.verdict.verdict, **vars(found.verdict)},
        "test_mse_against": {
            reference: {name: vars(own) for name, own in made.items()} for reference, made in found.against.items()
        },
        "mse_by_horizon": {
            name: np.mean([own.by_horizon["mse"] for own in by_seed.values()], axis=0).round(6).tolist()
            for name, by_seed in found.runs.items()
        },
        "failures": dict(found.failures),
    }


def _verdict(found: ShareFinding, where: str) -> str:
    own, name, reference = found.verdict, str(found.transferred), str(found.reference)
    assert own is not None
    once = " These are single trainings." if len(found.runs[name]) == len(found.runs[reference]) == 1 else ""
    first = f"{name}, the best on the evaluation part of what starts from the pretrained model,"
    second = f"{reference}, the best there of what does not"
    if own.verdict in (POSITIVE, NEGATIVE):
        low, high = sorted(abs(end) for end in (own.low or 0.0, own.high or 0.0))
        word = "lower" if own.verdict == POSITIVE else "higher"
        return (
            f"{own.verdict.capitalize()} transfer with {where}: {first} has a test MSE {abs(own.mean):.3f} "
            f"{word} than {second} (95% interval {low:.3f} to {high:.3f}, over blocks of time and seeds).{once}"
        )
    interval = "" if own.low is None else f" (95% interval {own.low:+.3f} to {own.high:+.3f})"
    few = " The test part holds too few blocks of time for an interval." if own.low is None else ""
    return (
        f"Undecided with {where}: the test MSE of {first} less that of {second}, is {own.mean:+.3f}{interval}, not "
        f"told from chance.{few}{once}"
    )


def _scores(by_seed: Mapping[int, Scored], metric: str) -> dict[int, float]:
    return {seed: own.scores[metric] for seed, own in by_seed.items()}


def _told(own: ErrorDifference | None) -> str:
    if own is None:
        return ""
    mean = f"**{own.mean:+.3f}**" if own.decided else f"{own.mean:+.3f}"
    return mean if own.low is None else f"{mean} ({own.low:+.3f} to {own.high:+.3f})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
