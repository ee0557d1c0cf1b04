"""`head_from_class_names`: a head that is made of what a model says of the names of the classes, without any row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from hf_transfer.anatomy import anatomy
from hf_transfer.features.extraction.taps import pretrained
from hf_transfer.features.probe import Probe, head_features
from hf_transfer.few_shot.dual_encoders import classifier_of, is_dual_encoder
from hf_transfer.weights.slots import base_of


TEXT_TEMPLATE = "This is about {}."
IMAGE_TEMPLATE = "a photo of a {}."
_ROWS = 64  # sentences of a forward

__all__ = ["IMAGE_TEMPLATE", "TEXT_TEMPLATE", "head_from_class_names"]


def head_from_class_names(
    model: nn.Module,
    processor: Any,
    label_names: Sequence[str] | None = None,
    *,
    template: str | Sequence[str] | None = None,
    similarity: Literal["euclidean", "cosine"] = "euclidean",
    temperature: float | None = None,
    head: str | None = None,
) -> nn.Module:
    r"""
    Give a classifier a head made of the names of its classes: a start for few labels, and a guess without any.

    Of a text classifier each class name becomes a sentence, and the mean $p_c$ of the features that the head is given
    for the sentences of a class its prototype:

    $$ W_c = 2 p_c / \tau, \quad b_c = -\lVert p_c \rVert^2 / \tau $$

    so that the logits are $-\lVert f - p_c \rVert^2 / \tau$ up to what all classes share, which is taken off. With
    `similarity="cosine"` $W_c = \hat p_c / (\tau \bar r)$ and $b = 0$, with the mean length $\bar r$ of embeddings:
    the class of the greatest cosine, at logits that grow with the length of $f$. The model is changed in place.

    Of a model with two towers for images and text (CLIP, SigLIP and relatives) a new image classifier is made whose
    logits are the zero-shot logits of the model, exactly: a `DualEncoderForImageClassification` with the image tower,
    its projection, features of length 1 and the text embeddings, times the scale of the model, as head. It trains,
    saves and loads as other classifiers do; elsewhere it loads with `trust_remote_code=True`.

    Args:
        model (`nn.Module`):
            A text classifier of `transformers` with a linear head, also under PEFT, whose backbone places sentences
            by their meaning: a sentence encoder as [`sentence_classifier`] makes it; or a model with two towers such
            as `CLIPModel`.
        processor (`PreTrainedTokenizerBase` or a processor with a `tokenizer`):
            The model's own.
        label_names (`Sequence[str]`, *optional*):
            Names of the classes by number, by default those of the model's config. Underscores become spaces in the
            sentences.
        template (`str` or `Sequence[str]`, *optional*):
            Sentence with `{}` in place of the name, or several, over which embeddings are averaged. By default
            `"This is about {}."` for text and `"a photo of a {}."` for images.
        similarity (`str`, *optional*, defaults to `"euclidean"`):
            `"euclidean"` or `"cosine"`, which needs no bias; of text classifiers.
        temperature (`float`, *optional*):
            $\tau$ of text classifiers: squared units of the features, by default the mean squared distance of the
            prototypes from their mean; for cosines dimensionless, by default 0.05. It changes confidence, not classes.
        head (`str`, *optional*):
            Name of the head of a text classifier, where it cannot be told from the model.

    Returns:
        `nn.Module`: the text classifier itself, or the new image classifier.

    Raises:
        ValueError: if there are no names, two are the same or a template has no `{}`; if the head does not fit the
            names or has no bias for distances; for image classifiers, whose features no text can be compared with.
        RuntimeError: if the new image classifier does not return the zero-shot logits.

    Relations:
        `fit_head` fits the head to rows, [`contrastive_fine_tune`] the whole model. Fine-tuning from this head starts
        with its guesses.

    Example:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
        >>> words = Tokenizer(models.WordLevel({"[PAD]": 0, "cat": 1, "dog": 2}, unk_token="[PAD]"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", model_max_length=8)
        >>> config = BertConfig(vocab_size=3, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> model = BertForSequenceClassification(config)
        >>> model = head_from_class_names(model, tokenizer, ["cat", "dog"], template="{}")
        >>> model(**tokenizer(["dog", "cat"], return_tensors="pt")).logits.shape, model.config.id2label
        (torch.Size([2, 2]), {0: 'cat', 1: 'dog'})
    """
    names = _names(model, label_names)
    dual = is_dual_encoder(model)
    templates = _templates(template, IMAGE_TEMPLATE if dual else TEXT_TEMPLATE)
    sentences = [[one.replace("{}", name.replace("_", " ")) for name in names] for one in templates]
    tokenizer = getattr(processor, "tokenizer", processor)
    if dual:
        return classifier_of(model, tokenizer, names, sentences)
    _check(model, tokenizer, similarity, temperature, head)
    features = np.stack([_features(model, tokenizer, rows, head) for rows in sentences])
    weight, bias, tau = _prototype_head(features, similarity, temperature)
    width = weight.shape[1]
    probe = Probe(
        strength=tau,
        scores={},
        rows=len(names),
        kind="nearest_class_mean",
        task="single_label",
        label_names=names,
        mean=np.zeros(width),
        scale=np.ones(width),
        arrays={"weight": weight, "bias": bias},
        settings={"classes": len(names)},
        column="features",
        sample=features.reshape(-1, width)[:_ROWS],
    )
    return probe.fold_into(model, head=head)


def _names(model: nn.Module, given: Sequence[str] | None) -> tuple[str, ...]:
    if given is None:
        found = getattr(getattr(base_of(model), "config", None), "id2label", None) or {}
        given = [str(found[number]) for number in sorted(found)]
        if not given or given == [f"LABEL_{number}" for number in range(len(given))]:
            raise ValueError(
                "The model has no names for its classes, and none were given: the head is made of nothing else. Pass "
                '`label_names=["sports", "politics", ...]`.'
            )
    names = tuple(map(str, given))
    twice = sorted({name for name in names if names.count(name) > 1})
    if len(names) < 2 or twice:
        what = f"`{twice[0]}` is the name of two classes" if twice else f"{len(names)} names were given"
        raise ValueError(
            f"{what}: a head made of names cannot tell the classes apart. Pass a name for each of two classes or more."
        )
    return names


def _templates(template: str | Sequence[str] | None, default: str) -> list[str]:
    templates = [default] if template is None else [template] if isinstance(template, str) else list(template)
    odd = next((one for one in templates if "{}" not in one), None)
    if odd is not None or not templates:
        raise ValueError(
            f"The template {odd!r} has no `{{}}` for the name of the class: every class would get one sentence. Write "
            f'it as "{default}".'
        )
    return templates


def _check(model: nn.Module, tokenizer: Any, similarity: str, temperature: float | None, head: str | None) -> None:
    kind = type(pretrained(base_of(model))).__name__
    if "ForImageClassification" in kind or not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ValueError(
            f"{kind} with {type(tokenizer).__name__} cannot be given class names: its head reads features of images "
            "as the image tower has them (CLIP's and SigLIP's classifiers average patches before the projection), and "
            "no text is embedded there. Pass the model with both towers, such as `CLIPModel`, and its processor."
        )
    if "TokenClassification" in kind:
        raise ValueError(
            f"{kind} has features of tokens, a class name is a sentence: they cannot be compared. Load the checkpoint "
            "with `AutoModelForSequenceClassification`."
        )
    if similarity not in ("euclidean", "cosine"):
        raise ValueError(
            f'`similarity="{similarity}"` is unknown: it says how a row is compared with a class name. Choose '
            "euclidean or cosine."
        )
    if temperature is not None and temperature <= 0:
        raise ValueError(
            f"`temperature={temperature}`: distances are divided by it, and a negative one would choose the farthest "
            "class. Give a positive number, or leave it out."
        )
    if similarity == "euclidean" and getattr(model.get_submodule(anatomy(model, head=head).head), "bias", 0) is None:
        raise ValueError(
            f"The head of {kind} has no bias, and distances need one: classes of long embeddings would always win. "
            'Pass `similarity="cosine"`.'
        )


def _features(model: nn.Module, tokenizer: Any, sentences: list[str], head: str | None) -> np.ndarray:
    """`(C, D)` float64: what the head is given for each sentence."""
    limit = min(tokenizer.model_max_length, 512)
    batches = []
    for start in range(0, len(sentences), _ROWS):
        part = sentences[start : start + _ROWS]
        batch = tokenizer(part, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        batches.append({**batch, "labels": torch.arange(len(part))})
    return head_features(model, batches, head=head)[0].double().numpy()


def _prototype_head(
    features: np.ndarray, similarity: str, temperature: float | None
) -> tuple[np.ndarray, np.ndarray, float]:
    """Weights, biases and temperature for features `(templates, C, D)` of the sentences."""
    if similarity == "cosine":
        lengths = np.linalg.norm(features, axis=-1, keepdims=True)
        prototypes = (features / np.maximum(lengths, 1e-12)).mean(0)
        prototypes /= np.maximum(np.linalg.norm(prototypes, axis=-1, keepdims=True), 1e-12)
        tau = 0.05 if temperature is None else float(temperature)
        weight, bias = prototypes / (tau * max(float(lengths.mean()), 1e-12)), np.zeros(len(prototypes))
    else:
        prototypes = features.mean(0)
        spread = float(((prototypes - prototypes.mean(0)) ** 2).sum(-1).mean())
        tau = (spread or 1.0) if temperature is None else float(temperature)
        weight, bias = 2 * prototypes / tau, -(prototypes**2).sum(-1) / tau
    # what all classes share changes no probability, and large numbers that cancel would cost precision
    return weight - weight.mean(0), bias - bias.mean(), tau
