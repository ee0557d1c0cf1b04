"""From a model with an image and a text tower to an image classifier with the same zero-shot logits."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_MAPPING

from hf_transfer.few_shot.image_classifier import DualEncoderForImageClassification, DualEncoderImageConfig
from hf_transfer.modes import at_rest


_TOLERANCE = 1e-4  # of the largest logit

__all__ = ["classifier_of", "is_dual_encoder"]


def is_dual_encoder(model: nn.Module) -> bool:
    """Whether a model embeds images and texts for comparison, as CLIP and SigLIP do."""
    return all(hasattr(model, name) for name in ("get_image_features", "get_text_features", "vision_model"))


@torch.no_grad()
def classifier_of(
    model: Any, tokenizer: Any, names: Sequence[str], sentences: Sequence[Sequence[str]]
) -> DualEncoderForImageClassification:
    """
    An image classifier whose head is the text embeddings of the classes, times the scale of the model.

    Args:
        model: with two towers; left as it is.
        tokenizer: its own.
        names (`Sequence[str]`): of the classes.
        sentences (`Sequence[Sequence[str]]`): for each template one sentence a class; embeddings are averaged over
            templates and brought to length 1.

    Raises:
        ValueError: if the model has no scale of its logits, or its image tower cannot be loaded by itself.
        RuntimeError: if the classifier does not return the zero-shot logits of the model.
    """
    kind = type(model).__name__
    if not hasattr(model, "logit_scale"):
        raise ValueError(
            f"{kind} has no `logit_scale`: how its similarities become logits is not known here, and the head would "
            "not return them. Take a model such as CLIP, Chinese-CLIP or SigLIP."
        )
    vision = model.config.vision_config
    if type(vision) not in MODEL_MAPPING or not isinstance(getattr(vision, "image_size", None), int):
        raise ValueError(
            f"The image tower of {kind} is no model by itself that reads images of one size: no image classifier can "
            "be made of it that loads again. Take a model such as CLIP, Chinese-CLIP or SigLIP."
        )
    with at_rest(model):
        parameter = next(model.vision_model.parameters())
        pixels = _trial_images(vision).to(parameter.device, parameter.dtype)
        outputs = [model(**_tokens(model, tokenizer, rows), pixel_values=pixels) for rows in sentences]
        texts = nn.functional.normalize(torch.stack([out.text_embeds for out in outputs]).mean(0), dim=-1)
        scale = model.logit_scale.exp()
        bias = getattr(model, "logit_bias", None)
        classifier = _classifier(model, names, texts.shape[1])
        classifier.classifier.weight.copy_(scale * texts)
        classifier.classifier.bias.copy_(torch.zeros(len(names)) if bias is None else bias.expand(len(names)))
        classifier.to(parameter.device, parameter.dtype).eval()
        wanted: Tensor = outputs[0].logits_per_image
        if len(outputs) > 1:
            images = nn.functional.normalize(outputs[0].image_embeds, dim=-1)
            wanted = scale * images @ texts.T + (0 if bias is None else bias)
        found = classifier(pixel_values=pixels).logits
    error, largest = (found - wanted).abs().max().item(), wanted.abs().max().item()
    # in half precision the order of the sums shows
    allowed = max(_TOLERANCE, 8 * torch.finfo(found.dtype).eps) * max(largest, 1.0)
    if not error <= allowed:
        raise RuntimeError(
            f"The image classifier made of {kind} returns logits that differ by {error:.2g} from the zero-shot logits "
            f"(at most {largest:.2g}): its image tower is put together in another way. Take a model such as CLIP, "
            "Chinese-CLIP or SigLIP."
        )
    return classifier


def _classifier(model: Any, names: Sequence[str], width: int) -> DualEncoderForImageClassification:
    projection = getattr(model, "visual_projection", None)
    config = DualEncoderImageConfig(
        vision_config=copy.deepcopy(model.config.vision_config),
        projection_dim=width if projection is not None else None,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
        problem_type="single_label_classification",
    )
    classifier = DualEncoderForImageClassification(config)
    classifier.vision_model.load_state_dict(model.vision_model.state_dict())
    if projection is not None:
        classifier.visual_projection.load_state_dict(projection.state_dict())
    return classifier


def _tokens(model: Any, tokenizer: Any, sentences: Sequence[str]) -> dict[str, Tensor]:
    config = model.config.text_config
    longest = min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", 77))
    # SigLIP was trained on texts padded to full length, without a mask
    siglip = "siglip" in model.config.model_type
    tokens = tokenizer(
        list(sentences),
        padding="max_length" if siglip else True,
        truncation=True,
        max_length=longest,
        return_tensors="pt",
    )
    known = {"input_ids"} if siglip else {"input_ids", "attention_mask"}
    return {name: value.to(model.device) for name, value in tokens.items() if name in known}


def _trial_images(config: Any) -> Tensor:
    size = config.image_size
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, getattr(config, "num_channels", 3), size, size, generator=generator)
