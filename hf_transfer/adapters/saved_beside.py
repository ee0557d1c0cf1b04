"""A saved adapter put beside those that a model has, with its head in its own size."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_transfer.adapters.heads import HeadLabels, give_head, head_layers, labels_of, set_labels, switch_adapter
from hf_transfer.adapters.task_config import read_task_config


if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor

_WEIGHTS_NAME = "adapter_model.safetensors"

__all__ = ["add_saved_adapter"]


def add_saved_adapter(
    model: PeftModel,
    folder: str | os.PathLike[str],
    *,
    name: str,
    labels: Sequence[str] | None = None,
    trainable: bool = False,
) -> PeftModel:
    """
    Put a saved adapter beside those of a model and activate it.

    PEFT's `load_adapter` does so for heads of one size. Here the head gets the size of the saved one, and the config
    its labels: those given, else those of `task_config.json` beside it, else `LABEL_0`, ... where the size is new.

    Args:
        model (`PeftModel`):
            On the same base, with adapters of the same method.
        folder (`str` or path):
            Where PEFT or `save_adapter` wrote it; of a model with several adapters each has a folder of its name.
        name (`str`):
            Its name in this model.
        labels (`Sequence[str]`, *optional*):
            Names of the outputs of its head.
        trainable (`bool`, *optional*, defaults to `False`):
            Whether it goes on to train.

    Returns:
        `PeftModel`: the same model.

    Raises:
        FileNotFoundError: if there are no weights in safetensors.
        ValueError: if the model has an adapter of that name, the method is another one, its start changed the base
            model (PiSSA and the like), the labels are too many or too few, or the weights do not fit. The model is
            then as it was.
    """
    from peft import PeftConfig
    from safetensors.torch import load_file

    path = Path(folder)
    if name in model.peft_config:
        raise ValueError(
            f"The model already has an adapter `{name}`: its weights would be overwritten. Choose another name, or "
            f'`model.delete_adapter("{name}")` first.'
        )
    if not (path / _WEIGHTS_NAME).is_file():
        raise FileNotFoundError(
            f"`{path}` has no {_WEIGHTS_NAME}: other formats may run code when they are read. Name the folder of one "
            "adapter; with several, each but `default` has a folder of its own name."
        )
    config = PeftConfig.from_pretrained(os.fspath(path))
    _check(model, config, name)
    config.inference_mode = not trainable
    state, active = load_file(path / _WEIGHTS_NAME), model.active_adapters[0]
    before = labels_of(model, active)
    try:
        model.add_adapter(name, config)
        _fit_head(model, name, state, _labels(path, labels))
        _load(model, name, state)
    except Exception as error:
        if name in model.peft_config:
            model.delete_adapter(name)
        switch_adapter(model, active)
        set_labels(model, active, before)
        if isinstance(error, ValueError):
            raise
        raise ValueError(
            f"The adapter in `{path}` does not fit the model ({' '.join(str(error).split())[:300]}): it was "
            "trained on another architecture. Load it on its own base with `load_adapter`."
        ) from error
    return switch_adapter(model, name, trainable=trainable)


def _check(model: Any, config: Any, name: str) -> None:
    if config.peft_type != model.peft_type:
        raise ValueError(
            f"The saved adapter is of the method {config.peft_type.value}, not {model.peft_type.value} as the "
            "model's: PEFT holds one method in one model. Load it on a base of its own with `load_adapter`."
        )
    start = getattr(config, "init_lora_weights", True)
    if isinstance(start, str) and start.startswith(("pissa", "olora", "corda", "lora_ga")):
        raise ValueError(
            f'The saved adapter began with init_lora_weights="{start}", which took its start out of the base model\'s '
            f"weights: put beside others as `{name}`, it would change them all. Load it on a base of its own with "
            "`load_adapter`, or save it converted: `path_initial_model_for_weight_conversion` of PEFT."
        )


def _labels(path: Path, given: Sequence[str] | None) -> HeadLabels | None:
    if given is not None:
        return HeadLabels(dict(enumerate(given)))
    stated = read_task_config(path)
    return None if stated is None else HeadLabels(dict(stated.id2label), stated.problem_type)


def _fit_head(model: Any, name: str, state: Mapping[str, Tensor], labels: HeadLabels | None) -> None:
    saved = {one: state.get(f"base_model.model.{one}.weight") for one, *_ in _own_head(model, name)}
    sizes = {len(weight) for weight in saved.values() if weight is not None}
    if len(sizes) != 1:
        return  # an adapter without a head of its own
    outputs = sizes.pop()
    if labels is None:
        own = labels_of(model, name)
        labels = own if own.num_labels == outputs else HeadLabels({n: f"LABEL_{n}" for n in range(outputs)})
    if labels.num_labels != outputs:
        raise ValueError(
            f"The saved head has {outputs} outputs, and {labels.num_labels} labels were given: they must match. "
            f"Pass {outputs} labels, or leave them out."
        )
    if labels_of(model, name).num_labels != outputs:
        give_head(model, name, labels)
    else:
        set_labels(model, name, labels)


def _own_head(model: Any, name: str) -> list[Any]:
    return list(head_layers(model, name)) if model.peft_config[name].modules_to_save else []


def _load(model: Any, name: str, state: dict[str, Tensor]) -> None:
    from peft import set_peft_model_state_dict

    result = set_peft_model_state_dict(model, state, adapter_name=name)
    if result.unexpected_keys:
        raise KeyError(f"it has no {result.unexpected_keys[0]}")
