"""A checksum of what a processor does to its input."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from hf_transfer.features.cache.checksums import bytes_digest, class_name, object_digest, plain, text_digest


# Where a processor came from says nothing about what it does.
_ORIGIN = {
    *("_name_or_path", "name_or_path", "_processor_class", "processor_class", "transformers_version"),
    *("image_processor_type", "feature_extractor_type"),
}
# What the last call with padding or truncation leaves behind in the backend of a fast tokenizer.
_LAST_CALL = {"padding", "truncation"}

__all__ = ["processor_digest"]


def processor_digest(processor: Any) -> str:
    """
    A checksum of how a processor turns images, sound or text into a model's inputs.

    Fast tokenizers count by what their backend does, without the padding and truncation that the last call left in
    it; slow ones by the files they would save; image processors and feature extractors by all their fields; processors
    of several by their members.

    Args:
        processor (`Any`): of `transformers`; `None`; or any other object that can be pickled.

    Raises:
        TypeError: if a field can be neither written as JSON nor pickled.

    Example:
        >>> from transformers import WhisperFeatureExtractor
        >>> ordinary, longer = WhisperFeatureExtractor(), WhisperFeatureExtractor(chunk_length=60)
        >>> processor_digest(ordinary) == processor_digest(longer)
        False
    """
    return text_digest(json.dumps(_state(processor), sort_keys=True))


def _state(processor: Any) -> Any:
    # here, since they import what decodes images, which models of text do not need
    from transformers import FeatureExtractionMixin, ImageProcessingMixin, ProcessorMixin

    if processor is None:
        return None
    if isinstance(processor, PreTrainedTokenizerBase):
        return [class_name(processor), _tokenizer_options(processor), _tokenizer_content(processor)]
    if isinstance(processor, ProcessorMixin):
        members = {name: _state(getattr(processor, name, None)) for name in processor.get_attributes()}
        return [class_name(processor), members, _fields(processor, without=set(members))]
    if isinstance(processor, (FeatureExtractionMixin, ImageProcessingMixin)):
        return [class_name(processor), _fields(processor)]
    return [class_name(processor), object_digest(processor)]


def _fields(processor: Any, without: set[str] | None = None) -> Any:
    # not `to_dict`, from which feature extractors leave out their filter banks
    drop = _ORIGIN | (without or set())
    return plain({name: value for name, value in vars(processor).items() if name not in drop})


def _tokenizer_options(tokenizer: PreTrainedTokenizerBase) -> Any:
    names = ("padding_side", "truncation_side", "pad_token_type_id", "split_special_tokens", "model_input_names")
    options = {name: getattr(tokenizer, name, None) for name in names}
    options["model_max_length"] = tokenizer.model_max_length
    options["special_tokens"] = tokenizer.special_tokens_map
    return plain(options)


def _tokenizer_content(tokenizer: Any) -> Any:
    if tokenizer.is_fast:
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        return {name: value for name, value in backend.items() if name not in _LAST_CALL}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        return {str(path.relative_to(folder)): _file_content(path) for path in files}


def _file_content(path: Path) -> Any:
    if path.suffix != ".json":
        return bytes_digest(path.read_bytes())
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        return content
    return {name: value for name, value in content.items() if name not in _ORIGIN}
