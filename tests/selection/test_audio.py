"""Sources for sound, by name: a small model beside its control, on embedded recordings."""

from __future__ import annotations

from typing import Any

import torch
from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

from hf_transfer.selection import rank_models


def save_small_audio_model(folder: Any) -> str:
    """A spectrogram transformer of one block, of other classes than the target."""
    config: Any = ASTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, patch_size=8,
        frequency_stride=8, time_stride=8, max_length=48, num_mel_bins=32,
    )  # fmt: skip
    config.num_labels = 4
    torch.manual_seed(0)
    ASTForAudioClassification(config).save_pretrained(folder)
    ASTFeatureExtractor(num_mel_bins=32, max_length=48).save_pretrained(folder)
    return str(folder)


def test_a_checkpoint_is_ranked_on_embedded_recordings(tmp_path):
    options = {"cache_dir": tmp_path / "cache", "progress": False, "device": "cpu", "bootstrap": 4, "folds": 3}
    ranking = rank_models(
        {"own": save_small_audio_model(tmp_path / "own")},
        "embedded:tones",
        scores=["logme", "leep"],
        max_rows=96,
        **options,
    )
    own = ranking.outcome("own")
    assert own.scored, own.reason
    assert ranking.best() == "own" and ranking.metric == "accuracy" and own.width == 16
    probe, majority = own.value("probe"), ranking.outcome("majority").value("probe")
    assert probe is not None and majority is not None and probe > majority + 0.1
    assert own.value("logme") is not None and own.value("leep") is not None
