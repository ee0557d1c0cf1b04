from __future__ import annotations

from typing import Any

import pytest
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    HubertConfig,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    WhisperConfig,
    WhisperFeatureExtractor,
)

from hf_transfer.data.sound_extractors import cutting_extractor, fitting_extractor, new_extractor, same_sound


@pytest.mark.parametrize(("norm", "mask"), [("layer", True), ("group", False)])
def test_samples_come_with_a_mask_where_the_norms_are_by_layer(norm, mask):
    made = new_extractor(Wav2Vec2Config(feat_extract_norm=norm), sampling_rate=8000)
    assert type(made) is Wav2Vec2FeatureExtractor and made.return_attention_mask == mask
    assert made.sampling_rate == 8000 and new_extractor(HubertConfig()).sampling_rate == 16000


def test_spectrograms_are_as_large_as_the_config_says():
    made = new_extractor(ASTConfig(max_length=40, num_mel_bins=24))
    assert type(made) is ASTFeatureExtractor and (made.max_length, made.num_mel_bins) == (40, 24)
    made = new_extractor(WhisperConfig(max_source_positions=100, num_mel_bins=24))
    assert type(made) is WhisperFeatureExtractor and (made.chunk_length, made.feature_size) == (2, 24)
    made = new_extractor(Wav2Vec2BertConfig(feature_projection_input_dim=48))
    assert type(made) is SeamlessM4TFeatureExtractor and made.num_mel_bins == 24


def test_an_extractor_follows_a_changed_config_and_keeps_the_rest():
    kept: Any = ASTFeatureExtractor(num_mel_bins=24, mean=1.0, std=2.0)
    made = fitting_extractor(kept, ASTConfig(max_length=40, num_mel_bins=24))
    assert (made.max_length, made.mean, made.std) == (40, 1.0, 2.0)
    waves = Wav2Vec2FeatureExtractor(do_normalize=False)
    assert fitting_extractor(waves, Wav2Vec2Config(hidden_size=8)) is waves


def test_whisper_of_no_whole_seconds_is_refused():
    with pytest.raises(ValueError, match="max_source_positions=75 are 1.5 seconds of sound.*Take a multiple of 50"):
        new_extractor(WhisperConfig(max_source_positions=75))


def test_the_longest_recording_is_noted_unless_there_is_none():
    assert not hasattr(cutting_extractor(Wav2Vec2FeatureExtractor(), None), "max_seconds")
    assert cutting_extractor(Wav2Vec2FeatureExtractor(), 2.5).max_seconds == 2.5


def test_extractors_are_the_same_if_all_but_length_and_mask_is():
    own = Wav2Vec2FeatureExtractor()
    longer = cutting_extractor(Wav2Vec2FeatureExtractor(return_attention_mask=True), 2.5)
    assert same_sound(own, own) and same_sound(own, longer) and same_sound(longer, own)
    assert not same_sound(own, Wav2Vec2FeatureExtractor(sampling_rate=8000))
    assert not same_sound(ASTFeatureExtractor(num_mel_bins=16), ASTFeatureExtractor(num_mel_bins=24))
    assert not same_sound(own, ASTFeatureExtractor(num_mel_bins=16))
