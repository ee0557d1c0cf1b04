"""What a classifier says of images, recordings and sentences, in the words of its labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging


logger = logging.get_logger(__name__)

_LONGEST = 512  # tokens, where neither tokenizer nor model says less; as in `hf_transfer.data.preparation`
_SOUND = ("input_values", "input_features")
_MULTI_LABEL = "multi_label_classification"

__all__ = ["predict"]


@torch.no_grad()
def predict(model: Any, processor: Any, inputs: Sequence[str], *, batch_size: int = 32) -> list[dict[str, Any]]:
    """
    Predictions of a classifier with their probabilities, in the order of the inputs.

    A row has `input` and, by the task:

    - one label: `label`, `probability`, and `probabilities` by label (softmax);
    - several labels: `labels` of at least one half, and `probabilities` by label (sigmoid);
    - regression: `value`;
    - tokens: a row for each word, with `position`, `word`, `label` and `probability` (softmax at its first piece).

    Args:
        model (`nn.Module`):
            A classifier of images, sound, text or tokens, with or without an adapter; it is moved to the
            accelerator if any.
        processor (tokenizer, image processor or feature extractor):
            Its own.
        inputs (`Sequence[str]`):
            Paths of images or recordings, or sentences.
        batch_size (`int`, *optional*, defaults to 32):
            Inputs of a forward pass.

    Raises:
        ValueError: if the model takes other inputs, has no processor, or an image or recording cannot be read.
    """
    make = _batch_maker(model, processor)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    model = model.eval() if device is None else model.eval().to(device)
    rows: list[dict[str, Any]] = []
    for start in range(0, len(inputs), batch_size):
        part = inputs[start : start + batch_size]
        batch = make(part)
        logits = model(**{key: values.to(model.device) for key, values in batch.items()}).logits.float().cpu()
        if logits.ndim == 3:
            rows += _word_rows(model, part, batch, logits)
        else:
            rows += [_row(model.config, text, own) for text, own in zip(part, logits, strict=True)]
    return rows


def _batch_maker(model: Any, processor: Any) -> Callable[[Sequence[str]], Any]:
    """What makes a batch of inputs for the model."""
    name = model.main_input_name
    if name not in ("pixel_values", "input_ids", *_SOUND):
        raise ValueError(
            f"The model reads `{name}`: only images, sound and text are classified here. Use `transformers.pipeline` "
            "with the model and processor of `load_adapter`."
        )
    if processor is None:
        raise ValueError(
            "Neither the adapter nor its base model has a tokenizer, image processor or feature extractor: the inputs "
            "cannot be read. Save one with the adapter, `save_adapter(model, folder, processor=...)`."
        )
    if name == "input_ids":
        return partial(_text_batch, model, processor)
    return partial(_image_batch if name == "pixel_values" else _sound_batch, processor)


def _image_batch(processor: Any, paths: Sequence[str]) -> dict[str, Tensor]:
    from hf_transfer.data.pixel_values import pixel_values

    return {"pixel_values": pixel_values(processor, [_opened(path) for path in paths])}


def _sound_batch(processor: Any, paths: Sequence[str]) -> dict[str, Tensor]:
    from hf_transfer.data.sound import SoundCollator, SoundTransform

    heard = SoundTransform(processor)({"audio": list(paths)})
    return SoundCollator(processor)([dict(zip(heard, row, strict=True)) for row in zip(*heard.values(), strict=True)])


def _opened(path: str) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(
            f"`{path}` cannot be read as an image ({type(error).__name__}): nothing can be said of it. Save it anew, "
            "or leave it out."
        ) from error


def _text_batch(model: Any, tokenizer: Any, texts: Sequence[str]) -> Any:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    words = "ForTokenClassification" in type(base).__name__
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # decoders have none
    return tokenizer(
        [text.split() for text in texts] if words else list(texts),
        is_split_into_words=words,
        padding=True,
        truncation=True,
        max_length=min(tokenizer.model_max_length, _LONGEST),
        return_tensors="pt",
    )


def _row(config: Any, text: str, logits: Tensor) -> dict[str, Any]:
    names: Mapping[int, str] = config.id2label
    if config.problem_type == "regression" or len(logits) == 1:
        values = logits.tolist()
        return {"input": text, "value": values[0] if len(values) == 1 else values}
    several = config.problem_type == _MULTI_LABEL
    shares = (logits.sigmoid() if several else logits.softmax(0)).tolist()
    probabilities = {names[number]: share for number, share in enumerate(shares)}
    if several:
        return {
            "input": text,
            "labels": [label for label, share in probabilities.items() if share >= 0.5],
            "probabilities": probabilities,
        }
    best = max(range(len(shares)), key=shares.__getitem__)
    return {"input": text, "label": names[best], "probability": shares[best], "probabilities": probabilities}


def _word_rows(model: Any, texts: Sequence[str], batch: Any, logits: Tensor) -> Iterator[dict[str, Any]]:
    for number, text in enumerate(texts):
        words = text.split()
        pieces = batch.word_ids(number)
        first = {word: place for place, word in reversed([*enumerate(pieces)]) if word is not None}
        if len(first) < len(words):
            logger.warning(f"Only the first {len(first)} of {len(words)} words of `{text[:40]}...` fit the model.")
        for position, place in sorted(first.items()):
            shares = logits[number, place].softmax(0)
            best = int(shares.argmax())
            yield {
                "input": text,
                "position": position,
                "word": words[position],
                "label": model.config.id2label[best],
                "probability": shares[best].item(),
            }
