"""What the figures of a run allow to say of it: negative transfer, and limits. Nothing that does not follow."""

from __future__ import annotations

from hf_transfer.model_card.facts import Baseline, RunFacts


LOWER_IS_BETTER = ("loss", "mse", "mae", "mase", "rmse", "perplexity")
FEW = 100
"""Labelled training rows of a class below which a card says that they are few."""

__all__ = ["FEW", "LOWER_IS_BETTER", "limits_of", "verdict", "verdicts"]


def verdicts(facts: RunFacts) -> list[str]:
    """
    What the comparison with each baseline comes to, also where the method lost.

    Example:
        >>> from hf_transfer.model_card.facts import Score
        >>> worse = Baseline("source_only", Score("accuracy", 0.8, "target"), -0.05, (-0.09, -0.01))
        >>> print(*verdicts(RunFacts(method="dann", baselines=[worse])))
        Negative transfer: by target accuracy dann is 0.050 worse than `source_only` (95% interval 0.010 to 0.090).
    """
    method = facts.method or "the model"
    return [said for own in facts.baselines if not own.reference and (said := verdict(own, method))]


def verdict(baseline: Baseline, method: str) -> str:
    """A sentence on one comparison; empty where there is no difference to speak of."""
    if baseline.difference is None:
        return ""
    sign = -1 if baseline.score.metric in LOWER_IS_BETTER else 1
    gain, name = sign * baseline.difference, f"`{baseline.name}`"
    by = f"by {_split(baseline.score.split)}{baseline.score.metric}"
    size = f"{abs(baseline.difference):.3f}"
    if baseline.interval is None:
        once = "in one run each; another seed may say otherwise."
        if gain > 0:
            return f"{_start(by)} {method} is {size} better than {name} {once}"
        how = f"{size} worse than" if gain < 0 else "no better than"
        return f"Possibly negative transfer: {by} {method} is {how} {name} {once}"
    low, high = sorted(sign * end for end in baseline.interval)
    if low <= 0 <= high:
        return (
            f"{_start(by)} {method} is not told from {name}: the difference is {gain:+.3f} (95% interval "
            f"{low:+.3f} to {high:+.3f}), which holds zero."
        )
    if gain < 0:
        return (
            f"Negative transfer: {by} {method} is {size} worse than {name} (95% interval {-high:.3f} to {-low:.3f})."
        )
    return f"{_start(by)} {method} is {size} better than {name} (95% interval {low:.3f} to {high:.3f})."


def limits_of(facts: RunFacts) -> list[str]:
    """
    Sentences on what the model cannot be trusted with, each from a fact; behind them those that were given.

    Example:
        >>> limits_of(RunFacts(label_names=["no", "yes"], task="text-classification"))
        ['Every input is given one of the 2 classes, also one that belongs to none of them.']
    """
    found = []
    classes = len(facts.label_names)
    trained = [own for own in facts.data if own.splits.get("train") and own.labels_used is not False]
    rows = sum(own.splits["train"] for own in trained)
    if rows and classes and rows < FEW * classes and facts.task != "token-classification":
        found.append(
            f"It has learned {classes} classes from {rows:,} labelled examples, about {rows / classes:.3g} of each: "
            "other examples would have made another model."
        )
    if classes:
        what = "token" if facts.task == "token-classification" else "input"
        found.append(f"Every {what} is given one of the {classes} classes, also one that belongs to none of them.")
    names = [own.name for own in facts.data if own.name]
    if facts.scores and names:
        found.append(f"The scores are of {_and(names)}; nothing is known of data from elsewhere.")
    if facts.scores and not any(own.split not in ("eval", "validation") for own in facts.scores):
        found.append("There are no test rows: the scores are of the validation rows.")
    if len(facts.seeds) == 1 and facts.scores:
        found.append("It is one run with one seed: how far another would score from it is not known.")
    if facts.running_statistics:
        found.append(
            "It normalises by statistics of its training data (BatchNorm): on inputs that differ from these it can "
            "lose more than its scores show."
        )
    return [*found, *facts.limits]


def _split(split: str) -> str:
    return f"{'validation' if split == 'eval' else split} "


def _start(by: str) -> str:
    return by[0].upper() + by[1:]


def _and(names: list[str]) -> str:
    quoted = [f"`{name}`" for name in dict.fromkeys(names)]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"
