"""The factors of LoRA layers, and which adapters of PEFT are linear in their parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn


__all__ = ["LowRankPair", "check_adapters", "low_rank_pairs"]

# Those whose weight in effect is a linear function of the adapter's parameters, or of one of two factors at a time.
_LINEAR = frozenset({"LORA", "IA3", "LN_TUNING"})


class LowRankPair(NamedTuple):
    """The names of two parameters whose product moves a weight."""

    layer: str
    down: str
    up: str


def low_rank_pairs(model: nn.Module) -> list[LowRankPair]:
    """The pairs of factors of all LoRA layers of a model."""
    pairs = []
    for layer, module in model.named_modules():
        for down, up, suffix in (("lora_A", "lora_B", ".weight"), ("lora_embedding_A", "lora_embedding_B", "")):
            ups = getattr(module, up, ())  # told by attribute: `peft` is no dependency
            pairs += [
                LowRankPair(layer, f"{layer}.{down}.{adapter}{suffix}", f"{layer}.{up}.{adapter}{suffix}")
                for adapter in getattr(module, down, ())
                if adapter in ups
            ]
    return pairs


def check_adapters(model: nn.Module, *, doing: str) -> None:
    """
    Refuse adapters for which the parameters on a line do not give weights on a line.

    Raises:
        ValueError: if the model has adapters other than LoRA, IA3 and LN tuning, DoRA's magnitudes, or merged ones.
    """
    configs: Any = getattr(model, "peft_config", None)
    for config in configs.values() if isinstance(configs, Mapping) else ():
        kind = str(getattr(config.peft_type, "value", config.peft_type))
        if kind not in _LINEAR or getattr(config, "use_dora", False):
            raise ValueError(
                f"The adapters are of the kind {'DoRA' if kind in _LINEAR else kind}: the weight in effect is no "
                f"linear function of their parameters, and {doing} of these would give weights off the line. Use "
                "LoRA, or merge the adapters and work on the full models."
            )
    for name, module in model.named_modules():
        if "base_layer" in dict(module.named_children()) and getattr(module, "merged", False):
            raise ValueError(
                f"The adapter of `{name}` is merged into its base layer: {doing} of its factors would have no effect. "
                "Call `unmerge_adapter()` first."
            )
