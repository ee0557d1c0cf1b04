"""Every architecture with which `transformers` classifies or forecasts, built on the meta device."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import transformers
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING


MAPPINGS = (
    "IMAGE_CLASSIFICATION",
    "SEQUENCE_CLASSIFICATION",
    "TOKEN_CLASSIFICATION",
    "AUDIO_CLASSIFICATION",
    "TIME_SERIES_CLASSIFICATION",
    "TIME_SERIES_REGRESSION",
    "TIME_SERIES_PREDICTION",
)

# Forecasters that no mapping lists; three of them have no default horizon
UNMAPPED: dict[str, tuple[str, dict[str, Any]]] = {
    "PatchTSMixerForPrediction": ("patchtsmixer", {}),
    "PatchTSTForPrediction": ("patchtst", {}),
    "AutoformerForPrediction": ("autoformer", {"prediction_length": 8}),
    "InformerForPrediction": ("informer", {"prediction_length": 8}),
    "TimeSeriesTransformerForPrediction": ("time_series_transformer", {"prediction_length": 8}),
}

# What cannot be built from its default configuration with transformers 5.23, and why
UNBUILDABLE = {
    "DinatForImageClassification": "needs the library natten",
    "LayoutLMv2ForSequenceClassification": "needs the library detectron2",
    "LayoutLMv2ForTokenClassification": "needs the library detectron2",
    "TimmWrapperForImageClassification": "needs the library timm",
    "PerceiverForImageClassificationFourier": "default widths do not divide by the number of attention heads",
    "PerceiverForImageClassificationConvProcessing": "default widths do not divide by the number of attention heads",
    "EsmForSequenceClassification": "default vocab_size is None",
    "EsmForTokenClassification": "default vocab_size is None",
    "HunYuanDenseV1ForSequenceClassification": "default head_dim is None",
    "HunYuanMoEV1ForSequenceClassification": "default head_dim is None",
    "MinistralForSequenceClassification": "default head_dim is None",
    "MinistralForTokenClassification": "default head_dim is None",
    "NemotronForSequenceClassification": "default head_dim is None",
    "NemotronForTokenClassification": "default head_dim is None",
    "CohereCompassTextForSequenceClassification": "no default RoPE parameters for its full attention",
}


class Architecture(NamedTuple):
    """One class of a mapping; `overrides` are arguments of the configuration without which it cannot be built."""

    task: str
    model_type: str
    class_name: str
    overrides: tuple[tuple[str, Any], ...] = ()

    @property
    def id(self) -> str:
        return f"{self.class_name}-{self.model_type}"


def _architectures() -> list[Architecture]:
    found = []
    for task in MAPPINGS:
        mapping = getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES")
        for model_type, names in mapping.items():
            for name in [names] if isinstance(names, str) else names:
                found.append(Architecture(task, model_type, name))
    for name, (model_type, overrides) in UNMAPPED.items():
        found.append(Architecture("TIME_SERIES_PREDICTION", model_type, name, tuple(overrides.items())))
    return found


ARCHITECTURES = _architectures()


def build(architecture: Architecture, **config: Any) -> PreTrainedModel:
    """The model on the meta device, without weights, in milliseconds; `config` overrides the default configuration."""
    settings = CONFIG_MAPPING[architecture.model_type](**dict(architecture.overrides), **config)
    with torch.device("meta"):
        return getattr(transformers, architecture.class_name)(settings)


def architecture(class_name: str) -> Architecture:
    """The first architecture of a class."""
    return next(one for one in ARCHITECTURES if one.class_name == class_name)
