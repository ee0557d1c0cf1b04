"""The tokenizer, image processor or feature extractor that belongs to a saved adapter."""

from __future__ import annotations

from typing import Any

from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer

from hf_transfer.adapters.base_loading import Base
from hf_transfer.adapters.saved_adapter import SavedAdapter
from hf_transfer.time_series.processor import SeriesProcessor


_KINDS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "pixel_values": (AutoImageProcessor, ("preprocessor_config.json", "processor_config.json")),
    "input_ids": (AutoTokenizer, ("tokenizer_config.json", "tokenizer.json")),
    "input_values": (AutoFeatureExtractor, ("preprocessor_config.json", "processor_config.json")),
    "input_features": (AutoFeatureExtractor, ("preprocessor_config.json", "processor_config.json")),
    "past_values": (SeriesProcessor, ("preprocessor_config.json",)),
}

__all__ = ["load_processor"]


def load_processor(saved: SavedAdapter, base: Base | None, model: Any) -> Any:
    """From the adapter's folder or the one above it, else from the base model; None if nobody has one."""
    main_input = model.get_base_model().main_input_name
    if main_input not in _KINDS:
        return None
    auto, files = _KINDS[main_input]
    # PEFT puts each adapter that is not the default one into a folder of its own
    for folder in (saved.folder, saved.folder.parent):
        if any((folder / file).is_file() for file in files):
            trust = base is not None and base.options["trust_remote_code"]
            return auto.from_pretrained(folder, trust_remote_code=trust)
    if base is None:
        return None
    try:
        return auto.from_pretrained(base.path, **base.options)
    except (OSError, ValueError):
        return None
