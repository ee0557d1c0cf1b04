"""The vital signs of an adaptation, and what they warn of: pure functions of what was measured and logged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hf_transfer.diagnostics.a_distance import proxy_a_distance
from hf_transfer.diagnostics.discrepancy import mmd_test
from hf_transfer.diagnostics.model_rows import ModelRows


__all__ = ["class_signs", "discriminator_warnings", "domain_signs", "finite_warnings", "prediction_warnings"]

ONE_CLASS = 0.95
"""Share of one predicted class from which predictions count as collapsed."""


def domain_signs(source: ModelRows, target: ModelRows, *, permutations: int, seed: int) -> dict[str, float]:
    """How far the domains are apart: `proxy_a_distance`, `mmd` and `mmd_p_value`."""
    # three strengths: as good on some hundred rows, and twice as fast
    distance = proxy_a_distance(source.features, target.features, strengths=(1e-4, 1e-2, 1.0), seed=seed)
    test = mmd_test(source.features, target.features, permutations=permutations, seed=seed)
    return {"proxy_a_distance": distance.distance, "mmd": test.mmd, "mmd_p_value": test.p_value}


def class_signs(source: ModelRows, target: ModelRows) -> tuple[dict[str, float], np.ndarray]:
    """
    What the model predicts: mean entropies in nats, shares of the most predicted class, accuracy on labelled source
    rows; and the predicted class counts of the target, `(C,)`.
    """
    signs: dict[str, float] = {}
    histograms = []
    for name, rows in (("source", source), ("target", target)):
        counts = np.bincount(rows.logits.argmax(1), minlength=rows.logits.shape[1])
        signs[f"{name}_entropy"] = _entropy(rows.logits)
        signs[f"{name}_largest_share"] = float(counts.max() / max(counts.sum(), 1))
        histograms.append(counts)
    signs["target_largest_class"] = float(histograms[1].argmax())
    known = source.labels >= 0
    if known.any():
        signs["source_accuracy"] = float((source.logits.argmax(1) == source.labels)[known].mean())
    return signs, histograms[1]


def prediction_warnings(
    history: Sequence[Mapping[str, float]], *, classes: int, rows: int, progress: float
) -> dict[str, str]:
    """
    What the signs of the evaluations so far warn of, the latest last.

    Args:
        history (`Sequence[Mapping]`): what [`domain_signs`] and [`class_signs`] gave at each evaluation.
        classes (`int`): number of classes.
        rows (`int`): labelled source rows, of which the accuracy is the mean.
        progress (`float`): share of the training that is done.

    Returns:
        Messages by kind: `one_class`, `entropy_collapse`, `negative_transfer`.
    """
    if not history or "target_entropy" not in history[-1] or classes < 2:
        return {}
    now, found = history[-1], {}
    accuracies = [signs["source_accuracy"] for signs in history if "source_accuracy" in signs]
    fallen = len(accuracies) > 1 and accuracies[-1] < max(accuracies) - _noise(max(accuracies), rows)

    share = now["target_largest_share"]
    # an untrained head predicts one class everywhere, and says nothing of the adaptation
    several = now["source_largest_share"] <= 0.9
    had_several = any(signs.get("source_largest_share", 1.0) <= 0.9 for signs in history[:-1])
    if share > ONE_CLASS and progress > 0 and (several or had_several or progress >= 0.5):
        found["one_class"] = (
            f"{share:.0%} of the target rows are predicted as class {now['target_largest_class']:.0f}: the adaptation "
            "has collapsed to one class. Lower the weight of its objective, let it start later (`warmup`), or add a "
            "term that keeps predictions diverse, such as `InformationMaximization`."
        )
    highest = math.log(classes)
    source_entropy, target_entropy = now["source_entropy"], now["target_entropy"]
    below = source_entropy > 0.1 * highest and target_entropy < 0.2 * source_entropy
    if (target_entropy < 0.05 * highest and fallen) or below:
        reason = (
            f"far below the {source_entropy:.3f} of the source"
            if below
            else "near zero while the source accuracy falls"
        )
        found["entropy_collapse"] = (
            f"The mean entropy of the target predictions is {target_entropy:.3f} nats, {reason}: the model has grown "
            "sure of answers nothing supports. Lower the weight of the entropy or pseudo-label objective, or raise "
            "its confidence threshold."
        )
    if len(accuracies) > 1 and accuracies[-1] < accuracies[0] - _noise(accuracies[0], rows):
        found["negative_transfer"] = (
            f"The accuracy on the source has fallen from {accuracies[0]:.3f} at the first evaluation to "
            f"{accuracies[-1]:.3f}: aligning the domains costs what tells the classes apart. Lower the weight of the "
            "adaptation objective or the learning rate, and compare with a run on the source alone."
        )
    return found


def discriminator_warnings(
    log_history: Sequence[Mapping[str, Any]],
    discriminators: Mapping[str, int],
    *,
    max_steps: int,
    step: int,
    logs: int,
    distance: float | None = None,
) -> dict[str, str]:
    """
    What the logged accuracies of domain discriminators warn of.

    Args:
        log_history (`Sequence[Mapping]`): everything the Trainer logged, with `step`.
        discriminators (`Mapping[str, int]`): number of domains by name of the objective.
        max_steps (`int`): of the run.
        step (`int`): the current one.
        logs (`int`): how many logs are looked at.
        distance (`float`, *optional*): the last proxy A-distance.

    Returns:
        Messages by kind: `<name>_at_chance`, `<name>_always_right`.
    """
    found = {}
    for name, domains in discriminators.items():
        entries = [(log.get("step", 0), log[f"{name}_accuracy"]) for log in log_history if f"{name}_accuracy" in log]
        entries = [(at, accuracy) for at, accuracy in entries if math.isfinite(accuracy)]
        if len(entries) < logs:
            continue
        # the first logs, and at least a tenth of the run: a discriminator that has just begun is at chance too
        first = [accuracy for number, (at, accuracy) in enumerate(entries) if number < logs or at <= max_steps / 10]
        chance = 1 / domains
        if step >= max_steps / 10 and abs(_mean(first) - chance) < 0.05 and first[-1] < chance + 0.1:
            found[f"{name}_at_chance"] = _at_chance(name, _mean(first), domains, distance)
        # later only: while the reversal is weak every discriminator wins
        if step >= max_steps / 4 and min(accuracy for _, accuracy in entries[-logs:]) >= 0.99:
            found[f"{name}_always_right"] = (
                f"The discriminator of `{name}` has told every domain in the last {logs} logs: it has won, and its "
                "gradient no longer moves the features. Lower `objective_lr`, raise the objective's `weight`, train "
                "with `adam_beta1=0.5`, or look for classes that only one domain has."
            )
    return found


def finite_warnings(logs: Mapping[str, Any]) -> dict[str, str]:
    """What numbers among `logs` that are not finite warn of; messages by kind, `not_finite`."""
    bad = [name for name, value in logs.items() if isinstance(value, float) and not math.isfinite(value)]
    if not bad:
        return {}
    return {
        "not_finite": (
            f"{', '.join(f'`{name}`' for name in sorted(bad))} is not finite: from the next step on the weights may "
            "be so too, and the run is lost. Lower the learning rate or the weight of the objective, set "
            "`max_grad_norm`, and use bf16 in place of fp16."
        )
    }


def _at_chance(name: str, accuracy: float, domains: int, distance: float | None) -> str:
    told = f"The discriminator of `{name}` is right for {accuracy:.0%} from the start, chance with {domains} domains: "
    if distance is not None and distance < 0.3:
        return told + (
            f"and with a proxy A-distance of {distance:.2f} the features hold nothing of the domain that could be "
            "removed. Leave the objective out, or choose one that works on classes."
        )
    return told + (
        "it has not learnt to tell the domains, and the features get no signal. Raise `objective_lr` or its "
        "`hidden_size`, let the reversal start weaker (`strength=warmup(gamma=10.0)`), and see that the column "
        "`domain` is right."
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _entropy(logits: np.ndarray) -> float:
    """Mean entropy of the softmax, in nats."""
    shifted = logits - logits.max(1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return float(np.maximum(-(np.exp(logs) * logs).sum(1), 0.0).mean())


def _noise(accuracy: float, rows: int) -> float:
    """Two standard errors of an accuracy on some rows, and at least two points."""
    share = (accuracy * rows + 1) / (rows + 2)  # none would be left at 1
    return max(0.02, 2 * math.sqrt(share * (1 - share) / max(rows, 1)))
