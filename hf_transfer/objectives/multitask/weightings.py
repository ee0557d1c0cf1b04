"""The weightings of tasks by the words that name them."""

from __future__ import annotations

from hf_transfer.objectives.multitask.dynamic_weight_average import DynamicWeightAverage
from hf_transfer.objectives.multitask.fast_adaptive_weighting import FastAdaptiveWeighting
from hf_transfer.objectives.multitask.gradient_normalization import GradientNormalization
from hf_transfer.objectives.multitask.random_weighting import RandomWeighting
from hf_transfer.objectives.multitask.smooth_tchebycheff import SmoothTchebycheff
from hf_transfer.objectives.multitask.uncertainty_weighting import UncertaintyWeighting
from hf_transfer.objectives.multitask.weighting import TaskWeighting


WEIGHTINGS: dict[str, type[TaskWeighting]] = {
    "equal": TaskWeighting,
    "uncertainty": UncertaintyWeighting,
    "dwa": DynamicWeightAverage,
    "gradnorm": GradientNormalization,
    "random": RandomWeighting,
    "tchebycheff": SmoothTchebycheff,
    "famo": FastAdaptiveWeighting,
}
"""What each word stands for, with the defaults of the class."""

__all__ = [
    "WEIGHTINGS",
    "DynamicWeightAverage",
    "FastAdaptiveWeighting",
    "GradientNormalization",
    "RandomWeighting",
    "SmoothTchebycheff",
    "TaskWeighting",
    "UncertaintyWeighting",
    "task_weighting",
]


def task_weighting(chosen: str | TaskWeighting) -> TaskWeighting:
    """
    The weighting a word names, or the one that is given.

    Raises:
        ValueError: if the word is unknown.
        TypeError: if it is neither a word nor a weighting.

    Example:
        >>> task_weighting("dwa")
        DynamicWeightAverage(temperature=2.0, window=20)
    """
    if isinstance(chosen, TaskWeighting):
        return chosen
    if not isinstance(chosen, str):
        raise TypeError(
            f"`weighting={chosen!r}` is no `TaskWeighting`: it cannot say what the tasks count. Give one of "
            f"{', '.join(WEIGHTINGS)}, or an instance such as `GradientNormalization(alpha=0.5)`; fixed weights are "
            "the `weight` of each `Task`."
        )
    if chosen not in WEIGHTINGS:
        raise ValueError(
            f"`weighting={chosen!r}` names no weighting of tasks: nothing would say what they count. Give one of "
            f"{', '.join(WEIGHTINGS)}."
        )
    return WEIGHTINGS[chosen]()
