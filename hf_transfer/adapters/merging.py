"""Merge an adapter into its base: a plain model with the same logits, or the adapter model as it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hf_transfer.adapters.heads import follow_adapter
from hf_transfer.adapters.unmerged import Unmerged
from hf_transfer.attach import CHILD
from hf_transfer.modes import undisturbed
from hf_transfer.series_models import OUTPUTS
from hf_transfer.trial_inputs import inputs_of


if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

TOLERANCES: dict[torch.dtype, float] = {
    torch.float64: 1e-10,
    torch.float32: 1e-4,
    torch.bfloat16: 1e-1,
    torch.float16: 2e-2,
}
"""
Largest difference of two logits that rounding explains, as a share of the largest logit, by the type of the weights.

Measured on a BERT with random weights (8 blocks, 128 wide; 2 seeds) with LoRA, DoRA, IA3, LoHa and OFT, the worst was
2e-15, 1.3e-6, 2.6e-2 and 3.6e-3 in the order of the table, whose last two are four and five times as wide. In half
precision the check therefore misses faults smaller than the rounding, and adapters that change less than that.
"""

__all__ = ["TOLERANCES", "disagreement", "logits_of", "merge_adapter"]


def merge_adapter(model: PeftModel, *, batch: Mapping[str, Any] | None = None) -> PreTrainedModel:
    """
    Merge the active adapter into the weights of its base and check that the model still says the same.

    The base is changed in place, not copied: the adapter model is used up, and what is returned is the model that was
    under it. Its `save_pretrained` writes a checkpoint that any `AutoModelFor...from_pretrained` opens. It has the
    head and the norms that were trained with the adapter, the labels in its config, and nothing of PEFT. Weights in
    half precision are merged in single precision and rounded once. All weights train again that do so in a new model
    of the class; each module stays in the mode it was in (training or evaluation).

    While the logits are compared the old weights of the adapted layers are kept beside the new ones.

    Args:
        model (`PeftModel`):
            With one adapter active or several; those that are not active are lost. Any method of PEFT that can be
            merged.
        batch (`Mapping[str, Any]`, *optional*):
            Inputs on which the logits are compared. By default random ones of the right kind, see
            [`~hf_transfer.trial_inputs.trial_inputs`].

    Returns:
        `PreTrainedModel`: the plain model.

    Raises:
        TypeError: if the model has no adapter.
        ValueError: if the method cannot be merged, the base is quantised, objectives are attached, adapters are
            switched off, or the logits differ by more than [`TOLERANCES`]. The adapter model is then as it was.

    Relations:
        [`~hf_transfer.adapters.save_adapter`] writes the adapter by itself, without the base.
        [`~hf_transfer.adapters.combine_adapters`] makes one adapter of several first.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from hf_transfer.adapters import add_adapter
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> merged = merge_adapter(add_adapter(BertForSequenceClassification(config), "lora"))
        >>> type(merged).__name__, any("lora" in name for name in merged.state_dict())
        ('BertForSequenceClassification', False)
    """
    tuner = _check(model)
    follow_adapter(model)
    inputs = inputs_of(model, batch)
    expected = logits_of(model, inputs)
    if not bool(torch.isfinite(expected).all()):
        raise ValueError(
            "The logits of the model with its adapter are not finite: there is nothing that the merged model could "
            "agree with. Look for NaN in the adapter's weights, or try inputs that the model can read: `batch=...`."
        )
    unmerged = Unmerged(model)
    try:
        plain = _merged(tuner, unmerged.layers)
        _check_plain(plain)
        _check_logits(expected, logits_of(plain, inputs), _dtype(plain), tuner)
    except BaseException:
        unmerged.restore()
        raise
    _train_as_new(plain)
    return plain


def logits_of(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    """
    Logits in evaluation mode, without gradients; the model and the random numbers stay as they were.

    Raises:
        ValueError: if the output has no logits.
    """
    with undisturbed(model):
        output = model(**inputs)
    found = (getattr(output, name, None) for name in OUTPUTS)
    logits = next((value for value in found if isinstance(value, Tensor)), None)
    if logits is None:
        names = ", ".join(output) if isinstance(output, Mapping) else type(output).__name__
        raise ValueError(
            f"{type(model).__name__} returns {names} and no `logits`: whether it still says the same cannot be told. "
            "Use a model with its head, such as AutoModelFor...Classification."
        )
    return logits.detach()


def disagreement(expected: Tensor, found: Tensor) -> float:
    """
    Largest difference of two sets of logits as a share of the largest expected one; infinite where one is not finite.

    Example:
        >>> disagreement(torch.tensor([[2.0, -4.0]]), torch.tensor([[2.0, -3.0]]))
        0.25
    """
    if expected.shape != found.shape or not bool(torch.isfinite(found).all()):
        return float("inf")
    expected, found = expected.double(), found.double()
    scale = expected.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    return ((expected - found).abs().max() / scale).item()


def _check(model: Any) -> Any:
    """What holds the adapters, if they can be merged."""
    if not hasattr(model, "peft_config") or not hasattr(model, "get_base_model"):
        raise TypeError(
            f"`{type(model).__name__}` is no `PeftModel`: there is no adapter to merge. Pass what `add_adapter` or "
            "`load_adapter` returned; a plain model is saved as it is."
        )
    tuner = model.base_model
    if any(hasattr(module, CHILD) for module in (model, model.get_base_model())):
        raise ValueError(
            "Objectives are attached to the model: their hooks and heads would stay behind in the merged one. Detach "
            "them first, `trainer.attachment.detach()`, or load the saved adapter and merge that."
        )
    config = model.peft_config[model.active_adapters[0]] if model.active_adapters else None
    if config is None:
        raise ValueError(
            "No adapter is active: merged would be nothing. Choose one first: `switch_adapter(model, "
            f'"{next(iter(model.peft_config))}")`.'
        )
    if config.is_prompt_learning or config.is_adaption_prompt or not hasattr(tuner, "unload"):
        raise ValueError(_cannot(model, "what it learned are inputs beside the weights"))
    base = model.get_base_model()
    if any(
        getattr(module, "disable_adapters", None) is True for module in base.modules()
    ):  # of transformers: a method
        raise ValueError(
            "The adapters are switched off: the model runs as its base does, and merged it would not. Leave the "
            "`with model.disable_adapter()` block, or call `model.base_model.enable_adapter_layers()`."
        )
    if getattr(base, "is_quantized", False) or getattr(base, "quantization_method", None) is not None:
        raise ValueError(
            f"The base of the adapter is quantised ({getattr(base, 'quantization_method', 'unknown method')}): the "
            "merged weights would be rounded to few bits and the adapter partly lost. Load the base in full "
            "precision, put the adapter on it with `load_adapter(..., dtype=...)`, merge, and quantise the result."
        )
    return tuner


def _cannot(holder: Any, reason: str) -> str:
    config = next(iter(holder.peft_config.values()))
    method = getattr(config.peft_type, "value", config.peft_type)
    return (
        f"An adapter of the method {method} cannot be merged ({reason}): no weights of the base model alone give the "
        "same logits. Keep it as an adapter: `save_adapter(model, folder)`, and load it with `load_adapter`."
    )


def _merged(tuner: Any, layers: list[nn.Module]) -> Any:
    try:
        tuner._check_merge_allowed()
        for layer in layers:
            _merge_layer(layer)
        return _without_copies(tuner.unload())
    except (
        AttributeError,
        KeyError,
        NotImplementedError,
        TypeError,
        ValueError,
    ) as error:  # as methods of PEFT refuse
        raise ValueError(_cannot(tuner, f"PEFT: {error}")) from error


def _without_copies(plain: nn.Module) -> nn.Module:
    """LN tuning (PEFT 0.21) leaves the copies of `modules_to_save` wrapped."""
    from peft.utils.other import AuxiliaryTrainingWrapper

    for name, module in list(plain.named_modules()):
        if isinstance(module, AuxiliaryTrainingWrapper):
            kept = module.unload_and_optionally_merge_module(merge=False, safe_merge=False, adapter_names=None)
            plain.set_submodule(name, kept)
    return plain


def _merge_layer(layer: Any) -> None:
    """Merge one layer in single precision at least and round once; PEFT rounds the change and the sum."""
    names = [name for name in layer.active_adapters if name not in layer.merged_adapters]
    if not names:
        return
    dtypes = {name: tensor.dtype for name, tensor in layer.get_base_layer().state_dict(keep_vars=True).items()}
    if any(dtype in (torch.float16, torch.bfloat16) for dtype in dtypes.values()):
        layer.float()
    layer.merge(safe_merge=True, adapter_names=names)  # which refuses what is not finite
    for name, tensor in layer.get_base_layer().state_dict(keep_vars=True).items():
        if name in dtypes and tensor.dtype != dtypes[name]:
            tensor.data = tensor.data.to(dtypes[name])


def _check_plain(plain: nn.Module) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    left = [name for name, one in plain.named_modules() if isinstance(one, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    if left:
        raise ValueError(
            f"PEFT left {left[0]} and {len(left) - 1} further adapter modules in the model: its checkpoint would not "
            "open as a plain one. Keep it as an adapter with `save_adapter`."
        )


def _check_logits(expected: Tensor, found: Tensor, dtype: torch.dtype, tuner: Any) -> None:
    difference, tolerance = disagreement(expected, found), TOLERANCES.get(dtype, TOLERANCES[torch.float32])
    if not difference <= tolerance:
        config = next(iter(tuner.peft_config.values()))
        raise ValueError(
            f"The merged model's logits differ from those with the adapter by {difference:.1e} of the largest; "
            f"rounding in {str(dtype).removeprefix('torch.')} explains {tolerance:.0e}. The adapter "
            f"({getattr(config.peft_type, 'value', config.peft_type)}) is left unmerged: merge it in float32, "
            "`model.float()`, or keep it as an adapter with `save_adapter`."
        )


def _dtype(model: nn.Module) -> torch.dtype:
    """The coarsest floating type among the weights, which decides on rounding."""
    types = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    return max(types & TOLERANCES.keys(), key=lambda dtype: TOLERANCES[dtype], default=torch.float32)


def _train_as_new(plain: Any) -> None:
    """PEFT froze the base; what trains in a new model of the class trains again."""
    try:
        with torch.device("meta"):
            new = type(plain)(plain.config)
        trains = {name: parameter.requires_grad for name, parameter in new.named_parameters()}
    except Exception:  # a model whose class needs more than its config
        trains = {}
    for name, parameter in plain.named_parameters():
        parameter.requires_grad_(parameter.is_floating_point() and trains.get(name, True))
