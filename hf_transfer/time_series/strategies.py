"""The strategies of a forecast comparison: what a model starts from on the target series, and what of it trains."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import nn
from transformers import EarlyStoppingCallback, TrainerCallback, set_seed

from hf_transfer.adapters.add import add_adapter
from hf_transfer.adapters.merging import merge_adapter
from hf_transfer.callbacks import GradualUnfreezing
from hf_transfer.data.columns import listed
from hf_transfer.objective import Objective
from hf_transfer.objectives import L2SP


@dataclass(frozen=True)
class Strategy:
    """
    A way to train a forecaster on the target series.

    Args:
        about (`str`): what it does, for reports.
        pretrained (`bool`, *optional*, defaults to `True`): whether it starts from the pretrained model.
        fitted_head (`bool`, *optional*, defaults to `False`): whether the head is first fitted in closed form.
        trains (`bool`, *optional*, defaults to `True`): whether any step of gradient descent follows.
    """

    about: str
    pretrained: bool = True
    fitted_head: bool = False
    trains: bool = True


SCRATCH, PROBE_SCRATCH = "scratch", "probe_scratch"
UNTRANSFERRED = (SCRATCH, PROBE_SCRATCH)
"""
What transfer must beat; always run. A fitted head on random features often does as well as training everything, and
without it a probe's lead on `scratch` would be put down to the pretraining.
"""

ZERO_SHOT = "zero_shot"
"""The pretrained model with its head as it is; run of its own accord where it has one for this horizon."""

STRATEGIES = {
    SCRATCH: Strategy("all weights drawn at random and trained; what transfer must beat", pretrained=False),
    PROBE_SCRATCH: Strategy(
        "the backbone random, the head by ridge regression; what transfer must beat too",
        pretrained=False,
        fitted_head=True,
        trains=False,
    ),
    "probe": Strategy("the backbone as pretrained, the head by ridge regression", fitted_head=True, trains=False),
    "full": Strategy("all weights trained from the pretrained ones"),
    "gradual": Strategy("trained from the head down, block after block"),
    "l2sp": Strategy("all weights trained, held to the pretrained ones (L2-SP)"),
    "lora": Strategy("low-rank changes of the blocks and the head trained (LoRA), then merged"),
    "lp_ft": Strategy("the head by ridge regression first, then all weights trained (LP-FT)", fitted_head=True),
}

BASELINES = {
    "naive": "the last value",
    "seasonal_naive": "the value a season before",
    "linear": "ridge regression from context to horizon, the same for all channels",
}

__all__ = ["BASELINES", "PROBE_SCRATCH", "SCRATCH", "STRATEGIES", "UNTRANSFERRED", "ZERO_SHOT", "Strategy"]
__all__ += ["callbacks_of", "check_strategies", "objectives_of", "plain_model", "rates", "start_model"]


def check_strategies(names: Sequence[str]) -> list[str]:
    """
    The strategies to run, in the order of [`STRATEGIES`], with `scratch` and `probe_scratch` among them.

    Args:
        names (`Sequence[str]`): as given; several may stand in one word, with commas between. None means all.

    Raises:
        ValueError: if a name is unknown.

    Example:
        >>> check_strategies(["lora,probe"])
        ['scratch', 'probe_scratch', 'probe', 'lora']
    """
    found = [name.strip() for word in names for name in word.split(",") if name.strip()]
    for name in found:
        if name in (ZERO_SHOT, *BASELINES):
            raise ValueError(
                f"`--strategies {name}`: it trains nothing, and stands beside all strategies by itself wherever it "
                f"can. Leave it out, and choose from {listed(STRATEGIES)}."
            )
        if name not in STRATEGIES:
            near = difflib.get_close_matches(name, STRATEGIES, n=1)
            raise ValueError(
                f"`--strategies {name}` is none that is known here{f' (did you mean {near[0]}?)' if near else ''}: "
                f"nothing could be trained. Choose from {listed(STRATEGIES)}."
            )
    return [name for name in STRATEGIES if not found or name in found or name in UNTRANSFERRED]


def start_model(strategy: str, pretrained: nn.Module, *, seed: int, head_is_new: bool, lora_rank: int = 8) -> Any:
    """
    The model that a strategy starts from, without any change of `pretrained`.

    Args:
        strategy (`str`): its name, or `zero_shot`.
        pretrained (`nn.Module`): the pretrained forecaster, with a head for this horizon.
        seed (`int`): of all that is drawn: every weight for what starts without a source, a new head, the factors
            of LoRA.
        head_is_new (`bool`): whether the head of `pretrained` is random, and to be drawn for this seed.
        lora_rank (`int`, *optional*, defaults to 8): rank of LoRA.

    Raises:
        ValueError: if LoRA does not fit the model.
    """
    set_seed(seed)
    kind: Any = type(pretrained)
    if strategy in UNTRANSFERRED:
        return kind(copy.deepcopy(pretrained.config))
    model = copy.deepcopy(pretrained)
    if head_is_new and strategy != ZERO_SHOT:
        fresh = kind(copy.deepcopy(pretrained.config))
        cast(Any, model).head.load_state_dict(fresh.head.state_dict())
    if strategy == "lora":
        set_seed(seed)
        return add_adapter(model, "lora", r=lora_rank, lora_alpha=lora_rank)
    return model


def rates(strategy: str, *, learning_rate: float, pretrained_lr: float, head_is_new: bool) -> tuple[float, float]:
    """
    Learning rates of backbone and head: what is new learns by one, what was pretrained or fitted by the other.

    Example:
        >>> rates("lp_ft", learning_rate=1e-3, pretrained_lr=1e-4, head_is_new=True)
        (0.0001, 0.0001)
        >>> rates("full", learning_rate=1e-3, pretrained_lr=1e-4, head_is_new=True)
        (0.0001, 0.001)
    """
    own = STRATEGIES[strategy]
    backbone = learning_rate if strategy in (SCRATCH, "lora") else pretrained_lr
    new = not own.pretrained or (head_is_new and not own.fitted_head)
    return backbone, learning_rate if new else pretrained_lr


def objectives_of(strategy: str, *, l2sp_weight: float) -> list[Objective]:
    """What a strategy adds to the loss."""
    return [L2SP(weight=l2sp_weight)] if strategy == "l2sp" else []


def callbacks_of(strategy: str, *, stages: int, patience: int) -> list[TrainerCallback]:
    """What rules the training of a strategy; one that thaws goes through all its stages and is not stopped early."""
    if strategy == "gradual":
        return [GradualUnfreezing(stages=stages)]
    return [EarlyStoppingCallback(patience)] if patience else []


def plain_model(model: nn.Module) -> Any:
    """A trained model without adapters: LoRA is merged into the weights."""
    return merge_adapter(cast(Any, model)) if hasattr(model, "peft_config") else model
