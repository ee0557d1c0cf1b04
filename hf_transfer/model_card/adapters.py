"""A PEFT adapter in the words of a card."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from torch import nn

from hf_transfer.model_card.naming import shown
from hf_transfer.model_card.papers import PAPERS, VARIANTS
from hf_transfer.model_card.parameters import count


_NAMES = {
    "LORA": "LoRA",
    "ADALORA": "AdaLoRA",
    "LOHA": "LoHa",
    "LOKR": "LoKr",
    "VERA": "VeRA",
    "LN_TUNING": "tuning of the norms (LN tuning)",
    "PREFIX_TUNING": "prefix tuning",
    "PROMPT_TUNING": "prompt tuning",
    "P_TUNING": "P-tuning",
}
_SETTINGS = (
    "r",
    "lora_alpha",
    "lora_dropout",
    "alpha",
    "rank_pattern",
    "bias",
    "num_virtual_tokens",
    "init_lora_weights",
)

__all__ = ["active_config", "adapter_papers", "adapter_settings", "adapter_strategy"]


def active_config(model: Any) -> Any:
    """The config of the active adapter of a PEFT model, or `None` for any other model."""
    configs = getattr(model, "peft_config", None)
    if not configs:
        return None
    active = getattr(model, "active_adapter", None)
    return configs.get(active) if isinstance(active, str) and active in configs else next(iter(configs.values()))


def adapter_settings(config: Any) -> dict[str, str]:
    """What a card says of an adapter's config."""
    found = {"type": _kind(config)}
    found |= {
        name: shown(getattr(config, name)) for name in _SETTINGS if getattr(config, name, None) not in (None, {})
    }
    for name in ("target_modules", "modules_to_save"):
        value = getattr(config, name, None)
        if value:
            found[name] = shown(_short(value))
    return found


def adapter_strategy(model: nn.Module, config: Any) -> str:
    """
    A sentence on what an adapter is made of and how much of the model trains with it.

    Args:
        model (`PeftModel`): with the adapter active.
        config (`PeftConfig`): of the adapter.
    """
    rank = getattr(config, "r", None)
    sentence = f"The weights of the base model stay as they are; beside them {_kind(config)}"
    sentence += f" of rank {rank}" if isinstance(rank, int) and rank > 0 else ""
    targets = Counter(name.rpartition(".")[2] for name in getattr(model, "targeted_module_names", None) or ())
    if targets:
        modules = sum(targets.values())
        sentence += f" on {modules} module{'s' * (modules > 1)} ({_listed(sorted(targets))})"
    total, trained = count(model), count(model, trained=True)
    sentence += f": {trained:,} of {total:,} parameters ({trained / max(total, 1):.2%}) train"
    saved = getattr(config, "modules_to_save", None)
    return f"{sentence}, among them all of {_listed(_short(saved))}." if saved else f"{sentence}."


def adapter_papers(config: Any) -> list[str]:
    """The papers of an adapter's method, the base method first."""
    kind = _type(config)
    found = [PAPERS[kind]] if kind in PAPERS else []
    return found + [VARIANTS[variant] for variant in _variants(config)]


def _type(config: Any) -> str:
    kind = config.peft_type
    return str(getattr(kind, "value", kind))


def _variants(config: Any) -> list[str]:
    start = getattr(config, "init_lora_weights", None)
    start = start.lower() if isinstance(start, str) else ""
    by_option = {
        "DoRA": getattr(config, "use_dora", False),
        "rsLoRA": getattr(config, "use_rslora", False),
        "PiSSA": start.startswith("pissa"),
        "OLoRA": start == "olora",
        "EVA": start == "eva",
        "LoftQ": start == "loftq",
    }
    return [name for name, used in by_option.items() if used]


def _kind(config: Any) -> str:
    kind = _type(config)
    return " with ".join([_NAMES.get(kind, kind), *_variants(config)])


def _short(modules: Any) -> list[str]:
    """The last names of modules, once each; of a number in a list with the name of the list."""
    if isinstance(modules, str):
        return [modules]  # a pattern
    return sorted({re.sub(r"^.*?([^.]+(\.\d+)*)$", r"\1", name) for name in modules})


def _listed(names: list[str]) -> str:
    shown_names = [f"`{name}`" for name in names[:8]]
    return ", ".join(shown_names) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
