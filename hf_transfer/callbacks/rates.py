"""The learning rate of a phase, for schedulers that are functions of the step."""

from __future__ import annotations

import torch
from torch.optim.lr_scheduler import LambdaLR

from hf_transfer.callbacks.phases import Phase


def set_phase_rate(scheduler: LambdaLR, phase: Phase) -> None:
    r"""
    Make every parameter group follow the scheduler at the learning rate of a phase.

    With group $g$'s own rate $\eta_g$ (its `initial_lr`, which the optimizer saves and restores) and the scheduler's
    factor $\lambda_g(t)$, the rate becomes $r(\eta_g) \lambda_g(t)$: a function of phase and step alone, so a resumed
    run has it bit for bit.

    Args:
        scheduler (`LambdaLR`): the scheduler, as all of transformers' schedules by step are.
        phase ([`Phase`]): the phase that begins.
    """
    groups = scheduler.optimizer.param_groups
    default = scheduler.optimizer.defaults["lr"]
    for index, group in enumerate(groups):
        base = phase.rate(group["initial_lr"], default)
        rate = base * scheduler.lr_lambdas[index](scheduler.last_epoch)
        scheduler.base_lrs[index] = base
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
    # What the Trainer logs; torch only refreshes it at the scheduler's next step.
    scheduler._last_lr = [group["lr"] for group in groups]
