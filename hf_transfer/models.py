"""The model and processor for a data set: pretrained from the Hub or a path, embedded, or new from a config."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedConfig,
    ViTImageProcessorPil,
)

from hf_transfer.data.sound_extractors import cutting_extractor, fitting_extractor, new_extractor


if TYPE_CHECKING:
    from hf_transfer.data.loading import TransferData


AUTO_MODELS: dict[str, Any] = {
    "image-classification": AutoModelForImageClassification,
    "text-classification": AutoModelForSequenceClassification,
    "token-classification": AutoModelForTokenClassification,
    "audio-classification": AutoModelForAudioClassification,
    "regression": AutoModelForSequenceClassification,
}
EMBEDDED = "embedded:"
# What a config lists of each block or stage: with another number of these it cannot be saved, and is worked out anew.
_PER_BLOCK = {"num_hidden_layers": ("layer_types",), "depths": ("stage_names", "out_features", "out_indices")}

__all__ = ["AUTO_MODELS", "load_model", "load_processor", "new_model", "resolve_name", "untrained_model"]


def load_model(
    name_or_path: str | os.PathLike[str],
    data: TransferData,
    *,
    revision: str = "main",
    trust_remote_code: bool = False,
) -> tuple[nn.Module, Any]:
    """
    A pretrained model with a head for the classes of a data set, and its processor.

    The head is kept where its size fits, else it is new. Class names go into the config.

    Args:
        name_or_path (`str` or path):
            Hub id, folder, or an embedded source model such as `embedded:image`.
        data (`TransferData`):
            Decides on the task and the classes.
        revision (`str`, *optional*, defaults to `"main"`):
            Branch, tag or commit on the Hub.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether to run code from the model's repository.

    Raises:
        ValueError: if models for the task are not loaded here, or the checkpoint is of no such kind.
        OSError: if there is no such model.
    """
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    auto_model = _auto_model(data)
    name = resolve_name(os.fspath(name_or_path))
    config = _config(name, options)
    if config is not None:
        _check_kind(config, data, name=str(name_or_path))
    processor = load_processor(name, data, **options)
    model = auto_model.from_pretrained(name, ignore_mismatched_sizes=True, **_labels(data), **options)
    return _with_padding(model, processor), processor


def load_processor(
    name_or_path: str | os.PathLike[str],
    data: TransferData,
    *,
    revision: str = "main",
    trust_remote_code: bool = False,
) -> Any:
    """
    The image processor, feature extractor or tokenizer of a checkpoint, as the inputs of `data` need; arguments as
    [`load_model`].

    A feature extractor takes over the longest recording of the data (`max_seconds`), which then is a field of its
    `preprocessor_config.json`; where the data state none, one that was saved there counts.
    """
    loaders: dict[tuple[str, ...], Any] = {("image",): AutoImageProcessor, ("audio",): AutoFeatureExtractor}
    name = resolve_name(os.fspath(name_or_path))
    loader = loaders.get(data.input_columns, AutoTokenizer)
    processor = loader.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    return cutting_extractor(processor, data.max_seconds)


def untrained_model(
    name_or_path: str | os.PathLike[str],
    data: TransferData,
    overrides: Mapping[str, Any] | None = None,
    *,
    revision: str = "main",
    trust_remote_code: bool = False,
) -> tuple[nn.Module, Any]:
    """
    A model with the config of a checkpoint and random weights, and the processor of the checkpoint.

    Args:
        name_or_path, data, revision, trust_remote_code: as for [`load_model`].
        overrides (`Mapping[str, Any]`, *optional*):
            Changes of the config, such as `{"num_hidden_layers": 2}`. With `image_size` the processor makes images of
            that size, with `max_length` or `num_mel_bins` spectrograms.

    Raises:
        ValueError: if models for the task are not loaded here, the checkpoint is of no such kind, or its config has no
            such key.
        OSError: if there is no such model.
    """
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    auto_model = _auto_model(data)
    name = resolve_name(os.fspath(name_or_path))
    default = AutoConfig.from_pretrained(name, **options)
    _check_keys(default, overrides or {}, name=str(name_or_path))
    _check_kind(default, data, name=str(name_or_path))
    config = AutoConfig.from_pretrained(name, **{**options, **_labels(data), **(overrides or {})})
    stale = {key for count, keys in _PER_BLOCK.items() if count in (overrides or {}) for key in keys}
    if stale := stale.difference(overrides or {}):
        config = type(config)(**{key: value for key, value in config.to_dict().items() if key not in stale})
    processor = load_processor(name, data, **options)
    if "image_size" in (overrides or {}):
        processor = _making(processor, config.image_size)
    if overrides and data.input_columns == ("audio",):
        processor = fitting_extractor(processor, config)
    return _with_padding(auto_model.from_config(config, trust_remote_code=trust_remote_code), processor), processor


def new_model(
    model_type: str, data: TransferData, overrides: Mapping[str, Any] | None = None, *, tokenizer: str | None = None
) -> tuple[nn.Module, Any]:
    """
    A model with random weights, for training from scratch, and a processor.

    Args:
        model_type (`str`):
            A type of `transformers`, such as `vit`, `resnet` or `bert`.
        data (`TransferData`):
            Decides on the task and the classes.
        overrides (`Mapping[str, Any]`, *optional*):
            Changes of the default config, such as `{"hidden_size": 64, "image_size": 32}`. For sound also
            `sampling_rate`, in samples a second.
        tokenizer (`str`, *optional*):
            Whose tokenizer to take, for text. Images are resized to `image_size` and scaled to [-1, 1]; of sound the
            model gets what models of its type are given ([`new_extractor`]).

    Raises:
        ValueError: if there is no such type, it has no class for the task, its config has no such key, or a text model
            comes without a tokenizer.
    """
    auto_model = _auto_model(data)
    overrides = overrides or {}
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"`{model_type}` is no model type of transformers: there is no architecture to build. Pass one such as "
            "vit, resnet, convnext or bert, or `--model_name_or_path` for a pretrained model."
        )
    default = AutoConfig.for_model(model_type)
    also = "sampling_rate" if data.input_columns == ("audio",) else "image_size"
    _check_keys(default, overrides, name=model_type, also=also)
    # At construction and not by `setattr`: some values, such as the head width of Llama, are worked out from others.
    config = AutoConfig.for_model(model_type, **overrides)
    _check_kind(config, data, name=model_type)
    if data.input_columns == ("image",):
        size = getattr(config, "image_size", 224)
        processor = ViTImageProcessorPil(size={"height": size, "width": size})
    elif data.input_columns == ("audio",):
        rate = overrides.get("sampling_rate")
        processor = cutting_extractor(new_extractor(config, sampling_rate=rate), data.max_seconds)
    elif tokenizer is None:
        raise ValueError(
            f"A new `{model_type}` for text has no tokenizer: its vocabulary would mean nothing. Say whose to take "
            "with `--tokenizer_name`."
        )
    else:
        processor = AutoTokenizer.from_pretrained(resolve_name(tokenizer))
        config.vocab_size = len(processor)
        config.pad_token_id = processor.pad_token_id  # the default one belongs to another vocabulary
    for key, value in _labels(data).items():
        setattr(config, key, value)
    return _with_padding(auto_model.from_config(config), processor), processor


def resolve_name(name: str) -> str:
    """
    What `from_pretrained` takes for a name of the recipes: a path, a Hub id, or the folder of an embedded model.

    Raises:
        FileNotFoundError: if the name is a path that does not exist.
        ValueError: if there is no such embedded model.
    """
    if name.startswith(EMBEDDED):
        from hf_transfer.data.source_models import source_model

        return str(source_model(cast(Any, name.removeprefix(EMBEDDED))))  # refuses what it does not know
    path = Path(name).expanduser()
    if not path.exists() and (path.is_absolute() or name.startswith(("~", ".")) or name.count("/") > 1):
        raise FileNotFoundError(
            f"The path `{name}` does not exist: there is no model to start from. Check the spelling, or pass a Hub id "
            "such as `user/name`."
        )
    return str(path) if path.exists() else name


def _auto_model(data: TransferData) -> Any:
    if data.task not in AUTO_MODELS:
        raise ValueError(
            f"The data set is for {data.task}, for which no model is loaded here. Choose an image, text, token or "
            f"sound data set ({', '.join(AUTO_MODELS)}), or load the model yourself and pass it to `TransferTrainer`."
        )
    if data.task == "regression" and data.input_columns == ("audio",):
        raise ValueError(
            "The labels of the recordings are numbers, and the models of transformers that hear give classes: their "
            "loss is that of classes. Make the labels classes, or train your own model with `TransferTrainer`."
        )
    return AUTO_MODELS[data.task]


def _config(name: str, options: Mapping[str, Any]) -> PreTrainedConfig | None:
    try:
        return AutoConfig.from_pretrained(name, **options)
    except (OSError, ValueError):
        return None  # the repository of an adapter has none; of whatever else is wrong there, loading tells


def _check_kind(config: PreTrainedConfig, data: TransferData, *, name: str) -> None:
    """Refuse a model that has no class for the task, before a processor is missed that it never had."""
    # The mapping that `from_pretrained` looks into; code of the model's repository is not in it.
    if not hasattr(config, "auto_map") and type(config) not in _auto_model(data)._model_mapping:
        raise ValueError(
            f"`{name}` is a model of type `{config.model_type}`, which transformers has no {data.task} class for: it "
            f"cannot read `{'`, `'.join(data.input_columns)}`. Choose a model for {data.task}, or name the right "
            "input column with `--input_columns`."
        )


def _check_keys(
    default: PreTrainedConfig, overrides: Mapping[str, Any], *, name: str, also: str = "image_size"
) -> None:
    unknown = [key for key in overrides if key != also and not hasattr(default, key)]
    if unknown:
        keys = sorted(key for key in vars(default) if not key.startswith("_"))
        raise ValueError(
            f"The config of `{name}` has no {', '.join(unknown)}: the change would have no effect. Its keys are "
            f"{', '.join(keys)}."
        )


def _labels(data: TransferData) -> dict[str, Any]:
    if data.task == "regression":
        return {"num_labels": 1, "problem_type": "regression"}
    return {"id2label": data.id2label, "label2id": data.label2id}


def _making(processor: Any, size: int | Sequence[int]) -> Any:
    """The same image processor for images of another size, square or `(height, width)`, said in its own way."""
    height, width = (size, size) if isinstance(size, int) else size
    edges = {"height": height, "width": width, "shortest_edge": min(height, width)}
    stated = processor.to_dict()
    for key in ("size", "crop_size"):
        if isinstance(stated.get(key), Mapping):
            stated[key] = {edge: edges[edge] for edge, value in stated[key].items() if value and edge in edges}
    return type(processor).from_dict(stated)


def _with_padding(model: Any, processor: Any) -> nn.Module:
    """Decoders come without a padding token, and classify at the last one that is none."""
    if getattr(processor, "pad_token", "") is None:
        processor.pad_token = processor.eos_token
    config = model.config.get_text_config()
    if getattr(config, "pad_token_id", 0) is None:
        config.pad_token_id = processor.pad_token_id
    return model
