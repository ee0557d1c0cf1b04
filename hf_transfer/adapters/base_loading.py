"""The base model of a saved adapter: found, of the right class, with a head of the adapter's size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import transformers
from torch import nn
from transformers.utils import logging

from hf_transfer.adapters.repository import unreachable
from hf_transfer.adapters.saved_adapter import SavedAdapter
from hf_transfer.anatomy import anatomy
from hf_transfer.models import resolve_name


logger = logging.get_logger(__name__)

_AUTO_OF_TASK_TYPE = {
    "SEQ_CLS": transformers.AutoModelForSequenceClassification,
    "TOKEN_CLS": transformers.AutoModelForTokenClassification,
}
_AUTO_OF_TASK = {
    "text-classification": transformers.AutoModelForSequenceClassification,
    "regression": transformers.AutoModelForSequenceClassification,
    "token-classification": transformers.AutoModelForTokenClassification,
    "image-classification": transformers.AutoModelForImageClassification,
    "audio-classification": transformers.AutoModelForAudioClassification,
}

__all__ = ["Base", "base_options", "load_base"]


class Base(NamedTuple):
    """A base model; its weights that are in no checkpoint; where its processor can be read."""

    model: Any
    untrained: dict[str, tuple[int, ...]]
    path: str
    options: dict[str, Any]


def base_options(
    saved: SavedAdapter, name: str | None, revision: str | None, *, trust_remote_code: bool, token: str | bool | None
) -> tuple[str, dict[str, Any]]:
    """
    Where the base model lies, and the options with which `from_pretrained` opens it there.

    Raises:
        ValueError: if nobody says which model it is.
        FileNotFoundError: if it is a folder that is not there.
    """
    task, config = saved.task, saved.config
    stated = (task.base_model if task else None) or config.base_model_name_or_path
    chosen = name or stated
    if not chosen:
        raise ValueError(
            f"`{saved.source}` does not say which base model it belongs to (it was trained on a local or a new one): "
            'there is nothing to put it on. Name it: load_adapter(..., base_model="user/name").'
        )
    if revision is None and chosen == stated:
        revision = (task.base_commit if task else None) or config.revision
    try:
        path = resolve_name(chosen)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"The base model of `{saved.source}` is the folder `{chosen}`, which is not on this machine: the adapter "
            "alone predicts nothing. Say where the model is now: load_adapter(..., base_model=...)."
        ) from error
    options = {"revision": revision or "main", "trust_remote_code": trust_remote_code, "token": token}
    return path, options


def load_base(saved: SavedAdapter, path: str, options: dict[str, Any], dtype: torch.dtype | str | None) -> Base:
    """
    The base model with a head for the adapter's labels.

    Raises:
        OSError: if it is gone, or cannot be reached.
        ValueError: if its class is unknown, or is not the one the adapter was made for.
    """
    config = _opened(saved, path, lambda: transformers.AutoConfig.from_pretrained(path, **options))
    loader = _loader(saved, config, options["trust_remote_code"])
    _check_type(saved, loader, config, path)
    _set_labels(saved, loader, config)
    text_config = config.get_text_config()
    changes = dict(saved.task.config) if saved.task else {}
    vocabulary = changes.pop("vocab_size", None)
    for key, value in changes.items():
        setattr(text_config, key, value)
    if dtype is None and saved.task is not None and saved.task.base_dtype is not None:
        dtype = getattr(torch, saved.task.base_dtype)
    typed = {} if dtype is None else {"dtype": dtype}

    def load() -> tuple[Any, dict[str, Any]]:
        # the head, which the adapter brings, would be reported as new; what it does not bring is refused later
        with _quiet():
            return loader.from_pretrained(
                path,
                config=config,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **typed,
                **options,
            )

    model, info = _opened(saved, path, load)
    if vocabulary is not None and vocabulary != getattr(text_config, "vocab_size", vocabulary):
        model.resize_token_embeddings(vocabulary)
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    changed = [entry[0] for entry in info["mismatched_keys"]]
    untrained = {name: shapes[name] for name in {*info["missing_keys"], *changed} if name in shapes}
    return Base(model, untrained, path, options)


@contextmanager
def _quiet() -> Iterator[None]:
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _opened(saved: SavedAdapter, path: str, load: Any) -> Any:
    what = f"the base model `{path}` of `{saved.source}`"
    try:
        return load()
    except (OSError, ConnectionError) as error:
        told = unreachable(
            error, what, "Name the model or its copy: load_adapter(..., base_model=..., base_revision=...)."
        )
        if told is not None:
            raise told from error
        if "safetensors" in str(error):
            raise OSError(
                f"{what[0].upper()}{what[1:]} has no model.safetensors: a pickle may run any code when opened. "
                "Convert it once (`AutoModel...from_pretrained(...).save_pretrained(folder)`), and pass "
                "`base_model=folder`."
            ) from error
        raise


def _loader(saved: SavedAdapter, config: Any, trust_remote_code: bool) -> Any:
    """The class of the base model, of `transformers` only; else its auto class where remote code is trusted."""
    mapped: Mapping[str, str] = saved.config.auto_mapping or {}
    name = saved.task.model_class if saved.task else mapped.get("base_model_class")
    found = getattr(transformers, name, None) if name and name.isidentifier() else None
    if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
        return found
    task_type = str(getattr(saved.config.task_type, "value", saved.config.task_type))
    auto = _AUTO_OF_TASK.get(saved.task.task) if saved.task else _AUTO_OF_TASK_TYPE.get(task_type)
    if name and not trust_remote_code:
        raise ValueError(
            f"`{saved.source}` belongs to the class `{name}`, which transformers does not have: the base model brings "
            "its own code. Pass `trust_remote_code=True` if you trust its repository, or load the model yourself: "
            "load_adapter(..., base_model=model)."
        )
    if auto is not None:
        return auto
    architecture = next(iter(config.architectures or ()), "")
    found = getattr(transformers, architecture, None)
    if found is not None and architecture.endswith("Classification") and task_type == "None":
        return found
    raise ValueError(
        f"`{saved.source}` has `task_type` {task_type} and names no class of the base model: which head it needs "
        "cannot be told. Load the model with its head yourself: load_adapter(..., base_model=model)."
    )


def _check_type(saved: SavedAdapter, loader: Any, config: Any, path: str) -> None:
    made_for = getattr(getattr(loader, "config_class", None), "model_type", config.model_type)
    if made_for != config.model_type:
        raise ValueError(
            f"`{saved.source}` is an adapter of a `{made_for}` model ({loader.__name__}), but `{path}` is of type "
            f"`{config.model_type}`: its weights fit nowhere. Pass its own base model: "
            "load_adapter(..., base_model=...)."
        )


def _set_labels(saved: SavedAdapter, loader: Any, config: Any) -> None:
    task = saved.task
    if task is not None:
        config.id2label, config.label2id = dict(task.id2label), {name: n for n, name in task.id2label.items()}
        config.problem_type = task.problem_type
        return
    count = _saved_outputs(saved, loader, config)
    if count is not None and count != config.num_labels:
        logger.warning(
            f"The head of `{saved.source}` has {count} outputs, for which nobody wrote down names: they are LABEL_0 "
            f"to LABEL_{count - 1}. Set `model.config.id2label` if you know them."
        )
        config.num_labels = count


def _saved_outputs(saved: SavedAdapter, loader: type[Any], config: Any) -> int | None:
    """The number of rows of the head that the adapter brings; None if it brings none."""
    try:
        with torch.device("meta"):
            model = loader(config) if issubclass(loader, nn.Module) else loader.from_config(config)
        head = anatomy(model).head
    except (ValueError, NotImplementedError, RuntimeError):
        return None
    weights = saved.whole_weights
    for weight in (f"{head}.weight", f"{head}.bias", f"{head}.lora_B.weight"):
        if weight in weights:
            return weights[weight][0]
    return None
