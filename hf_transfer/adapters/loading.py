"""Open a saved adapter of any task: its base model with the right head, its processor, its labels."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.utils import logging

from hf_transfer._blocks import bare_name
from hf_transfer.adapters.base_checkpoint import frozen_fingerprint
from hf_transfer.adapters.base_loading import Base, base_options, load_base
from hf_transfer.adapters.geometry import show_geometry
from hf_transfer.adapters.heads import HeadLabels, give_head, labels_of, set_labels, switch_adapter
from hf_transfer.adapters.merging import merge_adapter
from hf_transfer.adapters.processors import load_processor
from hf_transfer.adapters.repository import adapter_folder
from hf_transfer.adapters.reversible import let_gradients_in
from hf_transfer.adapters.saved_adapter import SavedAdapter, read_adapter
from hf_transfer.anatomy import anatomy
from hf_transfer.checkpoint import load_statistics


logger = logging.get_logger(__name__)

_SIZES = re.compile(r"size mismatch for (\S+): .*?torch\.Size\((\[.*?\])\).*?torch\.Size\((\[.*?\])\)")
_SAME_TYPE, _OTHER_TYPE = 1e-5, 1e-2
"""Relative difference of fingerprints that rounding explains, in one and between two number formats."""
_TAKEN = ("pissa", "olora", "corda", "lora_ga", "loftq")
"""Starts of LoRA that PEFT takes out of the weights it stands on, when an adapter is made and when it is loaded."""

__all__ = ["LoadedAdapter", "load_adapter"]


class LoadedAdapter(NamedTuple):
    """A model with its adapter, and its tokenizer, image processor or feature extractor."""

    model: Any
    processor: Any


def load_adapter(
    repo_id_or_path: str | os.PathLike[str],
    *,
    base_model: str | os.PathLike[str] | nn.Module | None = None,
    base_revision: str | None = None,
    revision: str = "main",
    name: str = "default",
    merge: bool = False,
    trainable: bool = False,
    dtype: torch.dtype | str | None = None,
    trust_remote_code: bool = False,
    token: str | bool | None = None,
) -> LoadedAdapter:
    """
    A model with a saved adapter on it, and its processor, for any task; in eval mode unless it is to train on.

    What [`save_adapter`] wrote opens as it was saved. For an adapter that PEFT alone saved, the class of the model,
    the number of labels (rows of the saved head) and their names (those of the base model if as many) are worked out.
    `pipeline(task, model=model, tokenizer=processor)` takes the result, `image_processor=processor` for images.

    Args:
        repo_id_or_path (`str` or path):
            Hub id or folder of the adapter.
        base_model (`str`, path or `nn.Module`, *optional*):
            The base model in place of the one that the adapter names: Hub id, folder, `embedded:...`, or a model,
            which is changed in place. A `PeftModel` gets the adapter beside those it has, as the active one, with a
            head of the saved size; after an error it is as it was.
        base_revision (`str`, *optional*):
            Branch, tag or commit of the base model. By default the commit that the adapter was trained on.
        revision (`str`, *optional*, defaults to `"main"`):
            Branch, tag or commit of the adapter on the Hub.
        name (`str`, *optional*, defaults to `"default"`):
            The adapter's name in the model; it is read from the subfolder of that name where there is one.
        merge (`bool`, *optional*, defaults to `False`):
            Whether to add the adapter to the weights of the base, which leaves a model without PEFT.
        trainable (`bool`, *optional*, defaults to `False`):
            Whether adapter and head can be trained on.
        dtype (`torch.dtype` or `str`, *optional*):
            Type of the base weights; by default that of the training.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether to run code from the repository of the base model.
        token (`str` or `bool`, *optional*):
            For private repositories; by default the one of `hf auth login`.

    Returns:
        `LoadedAdapter`: `model` and `processor`. The processor comes from the adapter's folder, else from the base
        model; it is None if neither has one, or a model was given and the adapter has none.

    Raises:
        ImportError: without PEFT.
        OSError: if the adapter or the base model is gone, or cannot be reached.
        ValueError: if the weights are a pickle, a file is broken or would lie outside of the folder; if adapter and
            base model do not fit each other, or the base has changed; if weights would be left random; if a method
            cannot be merged, trained on, or put beside the adapters of a model.

    Relations:
        [`save_adapter`] writes what this opens. `AutoPeftModelForSequenceClassification` of PEFT opens text adapters
        only, with a head of the size given by hand.

    Example:
        >>> import tempfile
        >>> from peft import LoraConfig, get_peft_model
        >>> from transformers import AutoModelForImageClassification
        >>> from hf_transfer.data.source_models import source_model
        >>> from hf_transfer.adapters.saving import save_adapter
        >>> base = AutoModelForImageClassification.from_pretrained(source_model("image"))
        >>> options = {"target_modules": ["convolution"], "modules_to_save": ["classifier"]}
        >>> folder = tempfile.mkdtemp()
        >>> _ = save_adapter(get_peft_model(base, LoraConfig(r=2, **options)), folder)
        >>> model, processor = load_adapter(folder, merge=True)
        >>> type(model).__name__, len(model.config.id2label), processor.size["height"]
        ('ResNetForImageClassification', 5, 32)
    """
    _check_peft()
    if merge and trainable:
        raise ValueError(
            "`merge=True` with `trainable=True`: a merged adapter is part of the weights and no longer trains by "
            "itself. Pass one of them."
        )
    folder = adapter_folder(repo_id_or_path, revision=revision, name=name, token=token)
    saved = read_adapter(folder, os.fspath(repo_id_or_path))
    _check_options(saved, merge=merge, trainable=trainable)
    base = None
    if isinstance(base_model, nn.Module):
        model = _insert(saved, base_model, name, trainable)
    else:
        path, options = base_options(
            saved,
            None if base_model is None else os.fspath(base_model),
            base_revision,
            trust_remote_code=trust_remote_code,
            token=token,
        )
        base = load_base(saved, path, options, dtype)
        if options["revision"] != "main":
            saved.config.revision = options["revision"]  # so that it is saved again with it
        model = _insert(saved, base.model, name, trainable)
        _check_complete(saved, base, trainable)
    load_statistics(model, folder)
    _check_same_base(saved, model, name, given=base is None)
    processor = load_processor(saved, base, model)
    if merge:
        model = merge_adapter(model)
    return LoadedAdapter(model.train() if trainable else model.eval(), processor)


def _insert(saved: SavedAdapter, model: Any, name: str, trainable: bool) -> Any:
    """The model with the adapter, its weights read."""
    first = not hasattr(model, "peft_config")
    if not first:
        _check_beside(saved, model, name)
    saved.config.inference_mode = not trainable
    with nullcontext() if first else _as_it_was(model, name):
        return _filled(saved, model, name, trainable, first=first)


def _check_beside(saved: SavedAdapter, model: Any, name: str) -> None:
    """Refuse what a model with adapters cannot take in."""
    if name in model.peft_config:
        raise ValueError(
            f"The model has an adapter `{name}` already, which would be overwritten. Give this one another name, "
            f'load_adapter(..., name="second"), or `model.delete_adapter("{name}")` first.'
        )
    theirs, ours = saved.config.peft_type, next(iter(model.peft_config.values())).peft_type
    if theirs != ours:
        raise ValueError(
            f"`{saved.source}` is an adapter of type {theirs.value}, and the model has {ours.value}: PEFT holds one "
            "type in one model. Load it on a base of its own, without `base_model`."
        )
    start = getattr(saved.config, "init_lora_weights", True)
    if isinstance(start, str) and start.lower().startswith(_TAKEN):
        raise ValueError(
            f'`{saved.source}` began with init_lora_weights="{start}", which took its start out of the weights of the '
            f"base model: put beside others as `{name}`, it would change what they stand on. Load it on a base of its "
            "own, without `base_model`, or save it converted: `path_initial_model_for_weight_conversion` of PEFT."
        )


@contextmanager
def _as_it_was(model: Any, name: str) -> Iterator[None]:
    """After an error the model is without the adapter, and the one before is active as it was."""
    active = model.active_adapters[0]
    labels = labels_of(model, active)
    training = {key: parameter.requires_grad for key, parameter in model.named_parameters()}
    try:
        yield
    except Exception:
        if name in model.peft_config:
            model.delete_adapter(name)
        switch_adapter(model, active)
        set_labels(model, active, labels)
        for key, parameter in model.named_parameters():
            parameter.requires_grad_(training[key])
        raise


def _filled(saved: SavedAdapter, model: Any, name: str, trainable: bool, *, first: bool) -> Any:
    from peft import get_peft_model

    try:
        if first:
            saved.config.base_model_name_or_path = getattr(model, "name_or_path", None) or None
            model = get_peft_model(model, saved.config, adapter_name=name)
        else:
            model.add_adapter(name, saved.config)
            _give_head(saved, model, name)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Found missing adapter keys", UserWarning)  # told below, as an error
            result = model.load_adapter(str(saved.folder), name, is_trainable=trainable)
    except KeyError as error:  # a module to save of which the file has nothing
        raise ValueError(_foreign(saved, model, f"it has no weights for {error}")) from error
    except RuntimeError as error:
        sizes = _SIZES.search(str(error))
        if sizes is None:
            raise
        raise ValueError(_misfit(saved, model, *sizes.groups())) from error
    except ValueError as error:  # no module of the names it targets
        raise ValueError(_foreign(saved, model, str(error).splitlines()[0].rstrip("."))) from error
    show_geometry(model)
    if trainable:
        let_gradients_in(model.get_base_model())
    # prompts are read by another way than `load_state_dict`,
    # and with `bias="all"` PEFT 0.21 writes those of saved modules a second time, under a name it does not read
    unread = [key for key in result.unexpected_keys if key != "prompt_embeddings" and ".modules_to_save." not in key]
    lost = [*result.missing_keys, *unread]
    if lost:
        raise ValueError(_foreign(saved, model, f"{len(lost)} weights match nothing, such as {lost[0]}"))
    return model if first else switch_adapter(model, name, trainable=trainable)


def _give_head(saved: SavedAdapter, model: Any, name: str) -> None:
    """A head of the adapter's own size and labels, where it brings one."""
    weight = f"{bare_name(anatomy(model.get_base_model()).head)}.weight"
    outputs = saved.whole_weights.get(weight, (0,))[0]
    if saved.task is not None and saved.task.num_labels == outputs:
        give_head(model, name, HeadLabels(saved.task.id2label, saved.task.problem_type))
    elif outputs not in (0, labels_of(model, name).num_labels):  # a new one has the labels of the base
        give_head(model, name, [f"LABEL_{number}" for number in range(outputs)])


def _check_options(saved: SavedAdapter, *, merge: bool, trainable: bool) -> None:
    kind = str(getattr(saved.config.peft_type, "value", saved.config.peft_type))
    if saved.config.is_prompt_learning and (merge or trainable):
        wish, reason = ("merge", "prompts are inputs") if merge else ("trainable", "PEFT keeps the prompts alone")
        raise ValueError(
            f"`{saved.source}` is an adapter of type {kind}, and {reason}: `{wish}=True` cannot be done. Leave it out."
        )


def _check_complete(saved: SavedAdapter, base: Base, trainable: bool) -> None:
    """Refuse a model some of whose weights come from neither checkpoint."""
    random = sorted(base.untrained.keys() - saved.whole_weights.keys())
    if not random:
        return
    shown = ", ".join(random[:3]) + (f" and {len(random) - 3} more" if len(random) > 3 else "")
    if trainable:
        logger.warning(f"{shown} are in neither `{saved.source}` nor its base model: they start from random values.")
        return
    raise ValueError(
        f"{shown} are in neither `{saved.source}` nor its base model `{base.path}`: they would be random, and so the "
        "predictions. Save the adapter with `modules_to_save` for them, pass the model it was trained on as "
        "`base_model`, or train on with `trainable=True`."
    )


def _check_same_base(saved: SavedAdapter, model: Any, name: str, *, given: bool) -> None:
    stated = saved.task.base_fingerprint if saved.task else None
    found = None if stated is None else frozen_fingerprint(model, name)
    if stated is None or found is None or saved.task is None:
        return
    same_type = str(model.get_base_model().dtype) == f"torch.{saved.task.base_dtype}"
    if torch.allclose(found, torch.tensor(stated), rtol=_SAME_TYPE if same_type else _OTHER_TYPE, atol=0.0):
        return
    message = (
        f"The weights under `{saved.source}` are not those it was trained on (fingerprint {found[0]:.6g}, "
        f"{found[1]:.6g} in place of {stated[0]:.6g}, {stated[1]:.6g}): its predictions would be others. "
    )
    if given:
        logger.warning(f"{message}Pass the base model of the training if that is not meant.")
        return
    raise ValueError(
        f"{message}Name the revision they had, `base_revision=...`, or a copy, `base_model=...`; a model that you "
        "load yourself and pass as `base_model` is taken as it is."
    )


def _misfit(saved: SavedAdapter, model: Any, weight: str, theirs: str, ours: str) -> str:
    if theirs[1:].split(",")[1:] == ours[1:].split(",")[1:] and "lora_" not in weight:
        return (
            f"The head of `{saved.source}` has another size than that of the model ({weight}: {theirs} and {ours}): "
            "it was trained for other labels. Leave `base_model` out, or load it with that `num_labels`."
        )
    return _foreign(saved, model, f"{weight} is {theirs} there and {ours} here")


def _foreign(saved: SavedAdapter, model: Any, what: str) -> str:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return (
        f"`{saved.source}` does not fit {type(base).__name__} ({what}): it is an adapter of another architecture or "
        "size, and would change nothing or the wrong layers. Pass its own base model: load_adapter(..., "
        "base_model=...)."
    )


def _check_peft() -> None:
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "`load_adapter` needs PEFT, which is not installed: it owns the adapters. Install it with "
            '`pip install "hf-transfer-learning[recipes]"`.'
        ) from error
