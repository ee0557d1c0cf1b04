"""`sentence_classifier`: a sentence encoder as an ordinary text classifier, with the features it was trained for."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils.hub import cached_file

from hf_transfer.few_shot.sentence_encoder import (
    SentenceEncoderConfig,
    SentenceEncoderForSequenceClassification,
    check_pooling,
    without_pooler,
)
from hf_transfer.models import resolve_name


_OF_MODES = {"mean": "mean", "mean_tokens": "mean", "cls": "cls", "cls_token": "cls", "lasttoken": "last"}

__all__ = ["is_sentence_classifier", "sentence_classifier"]


def is_sentence_classifier(model: Any) -> bool:
    """Whether a model pools its tokens itself, as [`sentence_classifier`] makes them."""
    return getattr(getattr(model, "config", None), "model_type", None) == SentenceEncoderConfig.model_type


def sentence_classifier(
    name_or_path_or_model: str | os.PathLike[str] | nn.Module,
    *,
    num_labels: int | None = None,
    label_names: Sequence[str] | None = None,
    pooling: str | None = None,
    normalize: bool | None = None,
    revision: str = "main",
    trust_remote_code: bool = False,
) -> SentenceEncoderForSequenceClassification:
    r"""
    A text classifier whose head, a new one, reads the pooled tokens of a sentence encoder.

    Sentence encoders are trained on the mean of the tokens, or as the files of their checkpoint say, and the
    classifiers of `transformers` read something else, such as BERT's first token through a pooler that was never
    trained. Here the features are those that the encoder was trained for:

    $$ f_i = \frac{1}{|R_i|} \sum_{t \in R_i} h_{it} $$

    with tokens $h_{it}$ of row $i$ and its positions $R_i$ that are no padding; or the first or last of them; divided
    by its length with `normalize`. The result trains, saves and loads as any `AutoModelForSequenceClassification`;
    where this package was not imported it loads with `trust_remote_code=True`.

    Args:
        name_or_path_or_model (`str`, path or `nn.Module`):
            Hub id or folder of any encoder or decoder of texts, with or without a head; or such a model, which stays
            as it is. One that was made here keeps its head where the number of labels is the same.
        num_labels (`int`, *optional*):
            Outputs of the head, by default those of the checkpoint.
        label_names (`Sequence[str]`, *optional*):
            Names of the classes by number.
        pooling (`str`, *optional*):
            `"mean"`, `"cls"` (first token) or `"last"`. By default what `modules.json` and the pooling's config of a
            sentence-transformers checkpoint say, else the mean.
        normalize (`bool`, *optional*):
            Whether features are brought to length 1. By default as `modules.json` says, else not.
        revision (`str`, *optional*, defaults to `"main"`):
            Branch, tag or commit on the Hub.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether to run code from the repository to read it. The encoder itself must be one of `transformers`.

    Returns:
        `SentenceEncoderForSequenceClassification`: in evaluation mode. Of the encoder the weights are those of the
        checkpoint; a pooler, which nothing reads, is left out.

    Deviations from the paper:
        A linear head takes the place of comparisons of two sentences. Prompts of the encoder, and the length at which
        its own library cuts texts, are not applied: write prompts into the texts, and pass `max_length`.

    Raises:
        ValueError: if the checkpoint pools or goes on in a way that cannot be done here and no `pooling` is given; if
            it is no encoder or decoder of texts of `transformers`, is under PEFT, or the labels contradict each other.

    Relations:
        [`contrastive_fine_tune`] trains it on a few rows of each class, [`head_from_class_names`] gives it a head
        without any.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> model = sentence_classifier(BertModel(config), label_names=["art", "law", "sport"])
        >>> model.config.pooling, model(torch.tensor([[3, 4, 5]])).logits.shape
        ('mean', torch.Size([1, 3]))

    Paper: Reimers and Gurevych, "Sentence-BERT", 2019, https://huggingface.co/papers/1908.10084
    """
    labels = _labels(num_labels, label_names)
    if pooling is not None:
        check_pooling(pooling)
    if isinstance(name_or_path_or_model, nn.Module):
        given: Any = name_or_path_or_model
        _check_model(given)
        own, origin, made_for = is_sentence_classifier(given), str(getattr(given, "name_or_path", "")), given.config
        stated = _stated(origin, revision, pooling) if origin and not own else _Stated()
        encoder = copy.deepcopy(given if own else given.base_model)
    else:
        origin = resolve_name(os.fspath(name_or_path_or_model))
        stated = _stated(origin, revision, pooling)
        options = {"revision": revision, "trust_remote_code": trust_remote_code, "subfolder": stated.subfolder}
        made_for: Any = AutoConfig.from_pretrained(origin, **options)
        encoder, own = _opened(origin, made_for, options)
    if own:
        _set_head(encoder, labels)
        encoder.config.pooling = pooling or encoder.config.pooling
        encoder.config.normalize = encoder.config.normalize if normalize is None else normalize
        return encoder
    return _classifier(
        encoder,
        made_for,
        origin,
        pooling=pooling or stated.pooling,
        normalize=stated.normalize if normalize is None else normalize,
        **labels,
    )


@dataclass(frozen=True)
class _Stated:
    """What the files of a checkpoint say of its features, and where in it the encoder lies."""

    pooling: str = "mean"
    normalize: bool = False
    subfolder: str = ""


def _stated(name: str, revision: str, chosen: str | None) -> _Stated:
    """Read off `modules.json`; what cannot be done here is refused unless a pooling was `chosen`."""
    listed = _json(name, "modules.json", revision)
    if listed is None:
        return _Stated()
    pooling, normalize, subfolder = "mean", False, ""
    for module in listed:
        kind, path = str(module["type"]).rpartition(".")[2], str(module.get("path") or "")
        if kind == "Transformer":
            subfolder = path
        elif kind == "Pooling":
            settings = _json(name, f"{path}/config.json" if path else "config.json", revision) or {}
            modes = _modes(settings)
            if chosen is None and (len(modes) != 1 or modes[0] not in _OF_MODES):
                raise ValueError(
                    f"`{name}` pools its tokens by {' and '.join(modes) or 'nothing that is known'}: other features "
                    "than those it was trained for would be read. Say that another pooling is meant, "
                    '`pooling="mean"`, "cls" or "last".'
                )
            pooling = _OF_MODES.get(modes[0], "mean") if modes else "mean"
        elif kind == "Normalize":
            normalize = True
        elif kind != "Dropout" and chosen is None:
            raise ValueError(
                f"`{name}` has a module `{kind}` among those of its `modules.json`: its embeddings are more than "
                "pooled tokens, and its weights would be left out. Say that the pooled tokens are meant, "
                '`pooling="mean"`, "cls" or "last".'
            )
    return _Stated(pooling, normalize, subfolder)


def _modes(settings: Mapping[str, Any]) -> list[str]:
    """How a pooling of sentence-transformers pools: one word or several, in older files a switch for each."""
    mode = settings.get("pooling_mode")
    if mode is not None:
        return [mode] if isinstance(mode, str) else list(mode)
    switches = [key for key, value in settings.items() if key.startswith("pooling_mode_") and value is True]
    return [key.removeprefix("pooling_mode_") for key in switches]


def _json(name: str, file: str, revision: str) -> Any:
    """A file of a folder or of the Hub; None where there is none, or none can be had now."""
    found = os.path.join(name, file)
    if not os.path.isdir(name):
        found = cached_file(
            name,
            file,
            revision=revision,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    return json.loads(Path(found).read_text(encoding="utf-8")) if found and os.path.isfile(found) else None


def _labels(num_labels: int | None, label_names: Sequence[str] | None) -> dict[str, Any]:
    if label_names is None:
        return {} if num_labels is None else {"num_labels": num_labels}
    if num_labels not in (None, len(label_names)):
        raise ValueError(
            f"`num_labels={num_labels}` with {len(label_names)} names of labels: the head has one output for each. "
            "Leave `num_labels` out."
        )
    names = dict(enumerate(map(str, label_names)))
    return {"id2label": names, "label2id": {name: number for number, name in names.items()}}


def _check_model(model: Any) -> None:
    if hasattr(model, "peft_config") or not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"{type(model).__name__} is no model of transformers by itself: its encoder cannot be taken out of it. "
            "Pass the model below, under PEFT after `merge_and_unload()`, and put the adapter on what is returned."
        )
    if not is_sentence_classifier(model):
        _check_config(model.config, type(model).__name__)
        if type(model.base_model.config) is not type(model.config) or "input_ids" != model.base_model.main_input_name:
            raise _no_encoder(type(model).__name__)


def _check_config(config: PreTrainedConfig, name: str) -> None:
    """Refuse what is no single tower for texts of `transformers`."""
    if type(config) not in MODEL_MAPPING:
        raise ValueError(
            f"`{name}` is of type `{config.model_type}`, for which transformers has no class: what is saved would not "
            "load again. Take an encoder or decoder of transformers, without `trust_remote_code` where it has both."
        )
    kind: Any = MODEL_MAPPING[type(config)]
    reads = getattr(kind, "main_input_name", None) if isinstance(kind, type) else "input_ids"
    if getattr(config, "is_encoder_decoder", False) or reads != "input_ids" or config.get_text_config() is not config:
        raise _no_encoder(name)


def _no_encoder(name: str) -> ValueError:
    return ValueError(
        f"`{name}` is no single encoder or decoder of texts: which tokens would be pooled is not said. Take one, such "
        "as BERT, ModernBERT or Qwen3."
    )


def _opened(name: str, config: PreTrainedConfig, options: dict[str, Any]) -> tuple[Any, bool]:
    """The encoder of a checkpoint, or the whole model where it is one of those made here, and whether it is."""
    if config.model_type == SentenceEncoderConfig.model_type:
        plain = {**options, "trust_remote_code": False}  # its code is here
        return SentenceEncoderForSequenceClassification.from_pretrained(name, **plain), True
    _check_config(config, name)
    return AutoModel.from_pretrained(name, config=config, **without_pooler(config), **options), False


def _classifier(
    encoder: Any, made_for: PreTrainedConfig, origin: str, **options: Any
) -> SentenceEncoderForSequenceClassification:
    """The classifier around an encoder, which becomes a part of it."""
    if without_pooler(encoder.config) and getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    if not {"num_labels", "id2label"} & options.keys():
        options |= {name: getattr(made_for, name) for name in ("id2label", "label2id", "problem_type")}
    attention = encoder.config._attn_implementation
    encoder.config.name_or_path = ""  # a path of this machine has no place in what is saved
    config = SentenceEncoderConfig(encoder.config, **options)
    with torch.device("meta"):  # the weights are there already
        made = SentenceEncoderForSequenceClassification(config)
    made.text_model = encoder
    if attention != encoder.config._attn_implementation:  # the config is shared, and a new model chooses anew
        made.set_attn_implementation(attention)
    made.config.dtype = encoder.dtype
    made.name_or_path = made.config.name_or_path = origin
    _set_head(made, {})
    return made.eval()


def _set_head(model: SentenceEncoderForSequenceClassification, labels: Mapping[str, Any]) -> None:
    """Names of the labels, and a new head where the one that is there has another size or no weights."""
    for key, value in labels.items():
        setattr(model.config, key, value)
    outputs = int(model.config.num_labels or 0)
    model.num_labels = outputs
    head = model.classifier
    if head.weight.is_meta or head.out_features != outputs:
        made = nn.Linear(head.in_features, outputs, device=model.text_model.device, dtype=model.text_model.dtype)
        model._init_weights(made)
        model.classifier = made
