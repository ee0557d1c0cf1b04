"""Feature extractors for models of sound that start from a config, and for recordings of a longest length."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig


_HOP, _RATE = 160, 16_000  # of Whisper: samples from one frame to the next, and in a second

__all__ = ["cutting_extractor", "fitting_extractor", "new_extractor", "same_sound"]


def new_extractor(config: PreTrainedConfig, *, sampling_rate: int | None = None) -> Any:
    """
    The feature extractor whose outputs a model of this config reads.

    Spectrograms are as high and long as the config says. Samples (wav2vec2 and its relatives) come with a mask if the
    norms of the model's convolutions are by layer, and without one if the first is over time (`feat_extract_norm`).

    Args:
        config (`PreTrainedConfig`): of a model that classifies sound.
        sampling_rate (`int`, *optional*): samples a second; by default that of the extractor, 16,000.

    Raises:
        ValueError: if there is no such extractor.

    Example:
        >>> from transformers import ASTConfig
        >>> new_extractor(ASTConfig(max_length=64, num_mel_bins=32)).max_length
        64
    """
    from transformers import FEATURE_EXTRACTOR_MAPPING, SeamlessM4TFeatureExtractor

    # transformers 5.23 maps this type to the extractor of samples; its checkpoints name the one of filter banks
    special = {"wav2vec2-bert": SeamlessM4TFeatureExtractor}
    kind: Any = special.get(config.model_type) or FEATURE_EXTRACTOR_MAPPING[type(config)]
    fields = _fields(config)
    if "feat_extract_norm" in config.to_dict():
        fields["return_attention_mask"] = getattr(config, "feat_extract_norm", "group") == "layer"
    if sampling_rate is not None:
        fields["sampling_rate"] = sampling_rate
    return kind(**fields)


def fitting_extractor(extractor: Any, config: PreTrainedConfig) -> Any:
    """
    The same extractor for spectrograms as high and long as a changed config says.

    Args:
        extractor (`FeatureExtractionMixin`): of the checkpoint.
        config (`PreTrainedConfig`): with changes.

    Raises:
        ValueError: if there is no such extractor.
    """
    fields = _fields(config)
    return type(extractor).from_dict({**extractor.to_dict(), **fields}) if fields else extractor


def cutting_extractor(extractor: Any, seconds: float | None) -> Any:
    """
    The extractor with the field `max_seconds`, by which [`SoundTransform`] cuts recordings; `None` leaves it alone.

    Args:
        extractor (`FeatureExtractionMixin`): of a model.
        seconds (`float`, *optional*): of the longest recording.
    """
    if seconds is not None:
        extractor.max_seconds = seconds  # a field of its own: what it does not know it saves and loads as it is
    return extractor


def same_sound(first: Any, second: Any) -> bool:
    """
    Whether two extractors make the same inputs of a recording, and leave aside how much of it they take.

    Example:
        >>> from transformers import Wav2Vec2FeatureExtractor
        >>> same_sound(Wav2Vec2FeatureExtractor(), Wav2Vec2FeatureExtractor(do_normalize=False))
        False
    """
    drop = {"max_seconds", "processor_class", "return_attention_mask"}
    fields = [{name: value for name, value in one.to_dict().items() if name not in drop} for one in (first, second)]
    return type(first) is type(second) and fields[0] == fields[1]


def _fields(config: PreTrainedConfig) -> dict[str, Any]:
    """What an extractor must share with the config of its model."""
    own: Any = config
    if config.model_type == "audio-spectrogram-transformer":
        return {"num_mel_bins": own.num_mel_bins, "max_length": own.max_length}
    if config.model_type == "wav2vec2-bert":  # two frames side by side
        bands = own.feature_projection_input_dim // 2
        return {"feature_size": bands, "num_mel_bins": bands}
    if config.model_type != "whisper":
        return {}
    seconds, rest = divmod(2 * own.max_source_positions * _HOP, _RATE)
    if rest:
        raise ValueError(
            f"max_source_positions={own.max_source_positions} are {seconds + rest / _RATE:g} seconds of sound, and "
            "the extractor of Whisper makes whole seconds: the encoder would refuse what it is given. Take a "
            "multiple of 50."
        )
    return {"feature_size": own.num_mel_bins, "chunk_length": seconds}
