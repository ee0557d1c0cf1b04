"""What fine-tuning a candidate would cost, estimated from the pass that read its features."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from hf_transfer.features.extraction.taps import head_modules


STEP_OVER_FORWARD = 3.0
"""A training step takes at least this many forwards: the backward pass has two products for each of the forward's."""
_STATES = 8  # bytes of the two float32 states of AdamW for a parameter

__all__ = ["Cost", "estimate_cost"]


@dataclass(frozen=True)
class Cost:
    """
    Of a candidate.

    Args:
        parameters (`int`): of its backbone, with a linear head for the target.
        memory (`int`): bytes of weights, gradients and the states of AdamW in full fine-tuning; activations, which
            grow with the batch, come on top.
        rows_per_second (`float`, *optional*): measured in the pass, with reading and preparing the rows; None where
            the features came from the cache.
        fine_tune_seconds (`float`, *optional*): of full fine-tuning on this machine, at least.
    """

    parameters: int
    memory: int
    rows_per_second: float | None = None
    fine_tune_seconds: float | None = None


def estimate_cost(
    model: nn.Module, *, width: int, outputs: int, rows: int, epochs: float, computed: int, seconds: float
) -> Cost:
    r"""
    Parameters, memory, and at least the time of fine-tuning.

    A parameter of $b$ bytes takes $2 b + 8$: its gradient, and two float32 states. `epochs` passes over `rows` rows
    take $3 \cdot \text{epochs} \cdot \text{rows} / \text{rate}$ seconds: a floor, to which validation, small batches
    and the optimizer add.

    Args:
        model (`nn.Module`): the candidate, with any head.
        width (`int`): of its features.
        outputs (`int`): of a head for the target.
        rows (`int`): labelled rows of the target.
        epochs (`float`): passes over them.
        computed (`int`): rows that went through the model in the pass.
        seconds (`float`): that this took.

    Example:
        >>> cost = estimate_cost(nn.Linear(4, 2), width=4, outputs=3, rows=60, epochs=2, computed=50, seconds=5.0)
        >>> cost.rows_per_second, cost.fine_tune_seconds
        (10.0, 36.0)
    """
    heads = head_modules(model)
    below = [
        (parameter.numel(), parameter.element_size())
        for name, parameter in model.named_parameters()
        if not any(name == head or name.startswith(head + ".") for head in heads)
    ]
    below.append(((width + 1) * outputs, below[-1][1] if below else 4))
    rate = computed / seconds if computed and seconds > 0 else None
    return Cost(
        parameters=sum(count for count, _ in below),
        memory=sum(count * (2 * size + _STATES) for count, size in below),
        rows_per_second=rate,
        fine_tune_seconds=None if rate is None else STEP_OVER_FORWARD * epochs * rows / rate,
    )
