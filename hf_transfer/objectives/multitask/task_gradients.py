"""The gradients of several tasks with respect to shared parameters, added up over the micro-batches of a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from hf_transfer.attach import CHILD
from hf_transfer.objectives.multitask.branching import Leaves
from hf_transfer.objectives.multitask.rank_sums import mean_over_ranks


__all__ = ["TaskGradients", "shared_parameters"]


def shared_parameters(model: nn.Module) -> list[nn.Parameter]:
    """
    The trained parameters of a model, without those of its objectives.

    Example:
        >>> [len(p) for p in shared_parameters(nn.Linear(2, 3))]
        [3, 3]
    """
    return [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not name.startswith(f"{CHILD}.")
    ]


class TaskGradients:
    """
    Per-task gradients of shared parameters, and what a micro-batch adds to the combined one.

    The methods of surgery are not linear: the combined gradient of a step is that of the sums over its micro-batches,
    which is known only at its end. So micro-batch $j$ contributes the combined gradient of the sums up to $j$ minus
    that of the sums up to $j - 1$, and the contributions add up to what one large batch gives.

    Attributes:
        sums (`Tensor`, *optional*): `(K, N)` float32, of all parameters in one row; the mean over ranks.
    """

    def __init__(self) -> None:
        self.sums: Tensor | None = None
        self._coefficients: Tensor | None = None

    def reset(self) -> None:
        """A step begins."""
        self.sums = self._coefficients = None

    def contribution(
        self,
        losses: Tensor,
        leaves: Leaves,
        parameters: Sequence[nn.Parameter],
        coefficients: Callable[[Tensor], Tensor],
    ) -> tuple[list[nn.Parameter], list[Tensor]]:
        """
        What this micro-batch adds to the combined gradient.

        Args:
            losses (`Tensor`): `(K,)`.
            leaves (`Leaves`): what the heads were given.
            parameters (`Sequence[nn.Parameter]`): the shared ones.
            coefficients (`Callable`): from the Gram matrix `(K, K)` to `(K,)`.

        Returns:
            `tuple`: the parameters that the tasks reach, and a gradient for each.
        """
        fresh, reached = self._gradients(losses, leaves, parameters)
        mean_over_ranks(fresh)
        before = None
        if self.sums is not None and self._coefficients is not None:
            before = self._coefficients @ self.sums
            fresh += self.sums
        self.sums = fresh
        self._coefficients = coefficients(_gram(fresh)).to(fresh.dtype)
        combined = self._coefficients @ fresh
        if before is not None:
            combined -= before
        pieces = combined.split([parameter.numel() for parameter in parameters])
        kept = [number for number, at in enumerate(reached) if at]
        given = [pieces[number].view_as(parameters[number]).to(parameters[number]) for number in kept]
        return [parameters[number] for number in kept], given

    def _gradients(
        self, losses: Tensor, leaves: Leaves, parameters: Sequence[nn.Parameter]
    ) -> tuple[Tensor, list[bool]]:
        """`(K, N)`, and which parameters are reached at all."""
        sizes = [parameter.numel() for parameter in parameters]
        rows = torch.zeros(len(losses), sum(sizes), device=losses.device)
        reached = [False] * len(parameters)
        for row, loss in zip(rows, losses.unbind(), strict=True):
            arriving = zip(leaves.sources, leaves.gradients(loss), strict=True)
            pairs = [(source, gradient) for source, gradient in arriving if gradient is not None]
            if not pairs:
                continue
            # Half precision on the way back: no GradScaler has scaled the loss yet. A power of two is exact.
            scale = _power_of_two(torch.stack([gradient.abs().amax() for _, gradient in pairs]).amax())
            found = torch.autograd.grad(
                [source for source, _ in pairs],
                parameters,
                grad_outputs=[gradient * scale for _, gradient in pairs],
                retain_graph=True,
                allow_unused=True,
            )
            for index, (piece, gradient) in enumerate(zip(row.split(sizes), found, strict=True)):
                if gradient is not None:
                    reached[index] = True
                    piece.copy_(gradient.flatten()).div_(scale)
        return rows, reached


def _power_of_two(largest: Tensor) -> Tensor:
    """What brings the largest entry of a gradient near 1/16: far from both ends of half precision."""
    exponent = torch.log2(largest.clamp(min=1e-30)).floor()
    return torch.exp2((-4 - exponent).clamp(-60, 60))


def _gram(rows: Tensor) -> Tensor:
    # In float64, so that rounding makes no matrix that no gradients have; in parts, so that no whole copy is made.
    parts = rows.split(1 << 20, dim=1)
    if rows.device.type != "mps":
        parts = (part.double() for part in parts)
    return torch.stack([part @ part.T for part in parts]).sum(0)
