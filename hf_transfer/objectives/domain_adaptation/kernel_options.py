"""Options of objectives with Gaussian kernels."""

from __future__ import annotations

from hf_transfer.objective import Objective


def check_kernels(objective: Objective, num_kernels: int, factor: float, **bandwidths: float | None) -> None:
    """
    Refuse kernels that are none.

    Raises:
        ValueError: if there is no kernel, several are the same, or a bandwidth is not positive.
    """
    name = type(objective).__name__
    if num_kernels < 1:
        raise ValueError(
            f"`num_kernels={num_kernels}`: without a kernel {name} has nothing to compare rows by. Give 1 or more, "
            "such as the usual 5."
        )
    if not factor > 1:
        raise ValueError(
            f"`factor={factor}`: the bandwidths are to grow from kernel to kernel, or one hides the others. Give a "
            "number above 1, such as the usual 2.0, and `num_kernels=1` for a single kernel."
        )
    for option, bandwidth in bandwidths.items():
        if bandwidth is not None and not bandwidth > 0:
            raise ValueError(
                f"`{option}={bandwidth}`: a Gaussian kernel has a positive width, in squared units of what it "
                "compares. Give a number above 0, or `None` for the mean squared distance of the batch."
            )
