"""The methods of PEFT by word: the config of each, what the word puts into it, and which layers it can adapt."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple


if TYPE_CHECKING:
    from peft import PeftConfig


class Method(NamedTuple):
    """
    One method of PEFT.

    Args:
        config (`str`): name of its config class in `peft`.
        layers (`tuple[str, ...]`): types of layers it can adapt, in the words of [`Layer`]; none for a method that
            puts tokens before the input.
        options (`Mapping`): what makes the word what it is, such as `use_dora`.
        block (`str`, *optional*): option by which the widths of a layer must divide.
    """

    config: str
    layers: tuple[str, ...]
    options: Mapping[str, Any] = {}
    block: str | None = None

    @property
    def is_prompt(self) -> bool:
        """Whether it learns tokens before the input and adapts no layer."""
        return not self.layers


# What PEFT 0.21 adapts without error, with the function unchanged at the start and merged back exactly; each was run.
# Left out though PEFT takes them: OFT on convolutions, which changes the function at the start where the kernel is not
# 1x1, and grouped convolutions under LoRA, which cannot be merged and want a rank that the groups divide.
_LINEAR = ("Linear",)
_BOTH = ("Linear", "Conv1D")
_CONVOLUTIONS = ("Conv1d", "Conv2d", "Conv3d")
_GROUPED = ("GroupedConv1d", "GroupedConv2d")
_LORA = (*_BOTH, *_CONVOLUTIONS)
_LYCORIS = (*_LINEAR, "Conv1d", "Conv2d", *_GROUPED)

# `hf_transfer.callbacks.rank_allocation.STEPS_OF_THE_RUN`, which cannot be imported here: it would import the Trainer.
_STEPS_OF_THE_RUN = 2**31 - 1

METHODS: dict[str, Method] = {
    "adalora": Method("AdaLoraConfig", (*_BOTH, "Conv2d"), {"total_step": _STEPS_OF_THE_RUN}),
    "beft": Method("BeftConfig", _LINEAR),
    "boft": Method("BOFTConfig", (*_LINEAR, "Conv2d"), block="boft_block_size"),
    "c3a": Method("C3AConfig", _LINEAR, block="block_size"),
    "delora": Method("DeloraConfig", _LINEAR),
    "dora": Method("LoraConfig", _LORA, {"use_dora": True}),
    "fourierft": Method("FourierFTConfig", _BOTH),
    "hira": Method("HiraConfig", _LORA),
    "hra": Method("HRAConfig", (*_LINEAR, "Conv2d")),
    "ia3": Method("IA3Config", (*_BOTH, "Conv2d", "Conv3d", "GroupedConv2d", "GroupedConv3d")),
    "ln_tuning": Method("LNTuningConfig", ("Norm",)),
    "loha": Method("LoHaConfig", _LYCORIS),
    "lokr": Method("LoKrConfig", _LYCORIS),
    "lora": Method("LoraConfig", _LORA),
    "miss": Method("MissConfig", _LINEAR),
    "oft": Method("OFTConfig", _LINEAR),
    "olora": Method("LoraConfig", _LINEAR, {"init_lora_weights": "olora"}),
    "orthogonal": Method("LoraConfig", _BOTH, {"init_lora_weights": "orthogonal"}),
    "p_tuning": Method("PromptEncoderConfig", (), {"num_virtual_tokens": 20}),
    "pissa": Method("LoraConfig", _BOTH, {"init_lora_weights": "pissa"}),
    "prefix_tuning": Method("PrefixTuningConfig", (), {"num_virtual_tokens": 20}),
    "prompt_tuning": Method("PromptTuningConfig", (), {"num_virtual_tokens": 20}),
    "pvera": Method("PveraConfig", _BOTH),
    "randlora": Method("RandLoraConfig", _BOTH),
    "road": Method("RoadConfig", _LINEAR, block="group_size"),
    "rslora": Method("LoraConfig", _LORA, {"use_rslora": True}),
    "vblora": Method("VBLoRAConfig", _BOTH, block="vector_length"),
    "vera": Method("VeraConfig", _BOTH),
}
# Initialisations of LoRA that read the weights, which a quantised base does not have.
DECOMPOSING = frozenset({"olora", "orthogonal", "pissa"})

_ELSEWHERE = {
    "bitfit": (
        'Nearest is "beft", which learns an offset to the output of linear layers and merges into their biases; '
        '"lora" with `bias="all"` trains all biases beside LoRA.'
    ),
    "bottleneck": 'Nearest is "lora", which costs nothing once merged; the library `adapters` has bottleneck layers.',
    "eva": (
        'It starts from activations. Pass `LoraConfig(init_lora_weights="eva", ...)` and then run '
        "`peft.initialize_lora_eva_weights(model, dataloader)`."
    ),
    "loftq": 'It quantises the base. Pass `LoraConfig(init_lora_weights="loftq", loftq_config=...)`.',
    "lora_plus": 'It is LoRA with two learning rates: "lora" here and `TransferArguments(lora_plus_ratio=16)`.',
    "qlora": 'It is LoRA on a quantised base: load the model with `quantization_config=...` and take "lora".',
}

__all__ = ["DECOMPOSING", "METHODS", "Method", "make_config", "method_of", "method_of_config", "peft"]


def peft() -> Any:
    """
    The library PEFT.

    Raises:
        ImportError: if it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise ImportError(
            "Adapters are PEFT's, which is not installed: there is nothing to put into the model. "
            'Run `pip install "hf-transfer-learning[recipes]"`.'
        ) from error
    return peft


def method_of(word: str) -> Method:
    """
    The method that a word names.

    Raises:
        ValueError: if there is none.

    Example:
        >>> method_of("dora").options
        {'use_dora': True}
    """
    if word not in METHODS:
        plain = word.lower().replace("-", "_")
        close = difflib.get_close_matches(plain, METHODS, n=3, cutoff=0.5)
        hint = _ELSEWHERE.get(plain) or (f"Near it are {', '.join(close)}." if close else "")
        raise ValueError(
            f"`{word}` is no method with a word of its own here: which config of PEFT is meant is unknown. "
            f"{hint} There are {', '.join(METHODS)}; any other goes by its config, "
            "add_adapter(model, peft.SomeConfig(...)).".replace("  ", " ")
        )
    return METHODS[word]


def method_of_config(config: PeftConfig) -> Method | None:
    """The method of the user's own config; `None` if no word here makes such a one."""
    found = [method for method in METHODS.values() if method.config == type(config).__name__]
    for method in found:
        if method.options and all(getattr(config, key, None) == value for key, value in method.options.items()):
            return method
    start = getattr(config, "init_lora_weights", None)
    if isinstance(start, str) and start != "gaussian":  # EVA, CorDA, LoftQ and variants of PiSSA: linear layers only
        return METHODS["pissa"]
    return next((method for method in found if not method.options), found[0] if found else None)


def make_config(word: str, options: Mapping[str, Any]) -> PeftConfig:
    """
    The config of a method.

    Args:
        word (`str`): the method.
        options (`Mapping`): fields of its config, instead of PEFT's defaults.

    Raises:
        ImportError: if PEFT is not installed.
        ValueError: if there is no such method, the installed PEFT does not have it, or its config has no such field.
    """
    method = method_of(word)
    library = peft()
    made = getattr(library, method.config, None)
    if made is None:
        raise ValueError(
            f"PEFT {library.__version__} has no `{method.config}`: `{word}` came with a later version. Run "
            "`pip install -U peft`, or take another method."
        )
    known = sorted(one.name for one in dataclasses.fields(made) if one.init)
    for unknown in (name for name in options if name not in known):
        close = difflib.get_close_matches(unknown, known, n=3)
        raise ValueError(
            f"`{unknown}` is no option of {word}: `peft.{method.config}` has no such field, and the adapter would not "
            f"be the one that was meant. {'Near it are' if close else 'It has'} {', '.join(close or known)}."
        )
    return made(**{**method.options, **options})
