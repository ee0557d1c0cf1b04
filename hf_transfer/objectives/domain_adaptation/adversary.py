"""What objectives with an adversary share: their checks, and the gradient reversal in front of it."""

from __future__ import annotations

from torch import Tensor

from hf_transfer.functional.adversarial import reverse_gradient
from hf_transfer.objective import Objective
from hf_transfer.schedules import Progress, Schedule, evaluate


def check_adversary(objective: Objective, hidden_size: int, strength: float | Schedule) -> None:
    """
    Refuse an adversary that cannot learn, or that the backbone would help.

    Raises:
        ValueError: if `hidden_size` is below 1 or `strength` is negative.
    """
    if hidden_size < 1:
        raise ValueError(
            f"`hidden_size={hidden_size}` leaves the adversary of {type(objective).__name__} without hidden units, so "
            "it cannot learn. Give a positive width, such as the default 1024."
        )
    if not callable(strength) and strength < 0:
        raise ValueError(
            f"`strength={strength}` is negative: the gradient would be reversed twice, and {type(objective).__name__} "
            "would drive the domains apart. Give zero or a positive number, or a schedule such as "
            "`warmup(gamma=10.0)`."
        )


def before_adversary(features: Tensor, strength: float | Schedule, progress: Progress) -> Tensor:
    """`features` as the adversary gets them: backward, the gradient is multiplied by minus the strength."""
    return reverse_gradient(features, evaluate(strength, progress))
