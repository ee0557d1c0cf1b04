"""Every architecture that classifies sound, small: from WAV files through the extractor and the collator to a step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers.models.auto.modeling_auto import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES

from hf_transfer import TransferArguments, TransferTrainer
from hf_transfer.data.loading import TransferData
from hf_transfer.data.preparation import collator_for, prepare
from hf_transfer.features import extract_features
from hf_transfer.models import new_model
from tests.data.test_sound import recordings


WIDTH = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
CONVOLUTIONS = {
    "conv_dim": [8, 8],
    "conv_stride": [5, 4],
    "conv_kernel": [10, 4],
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
    "apply_spec_augment": False,
}
SMALL: dict[str, dict[str, Any]] = {
    "audio-spectrogram-transformer": {**WIDTH, "max_length": 24, "num_mel_bins": 16, "patch_size": 8},
    "data2vec-audio": {**WIDTH, **CONVOLUTIONS, "conv_pos_kernel_size": 3, "num_conv_pos_embeddings": 1},
    "hubert": {**WIDTH, **CONVOLUTIONS},
    "sew": {**WIDTH, **CONVOLUTIONS, "squeeze_factor": 2},
    "sew-d": {**WIDTH, **CONVOLUTIONS, "squeeze_factor": 2},
    "unispeech": {**WIDTH, **CONVOLUTIONS},
    "unispeech-sat": {**WIDTH, **CONVOLUTIONS, "num_clusters": 4, "xvector_output_dim": 8},
    "wav2vec2": {**WIDTH, **CONVOLUTIONS, "feat_extract_norm": "layer", "conv_bias": True},
    "wav2vec2-bert": {
        **WIDTH,
        "feature_projection_input_dim": 32,
        "output_hidden_size": 16,
        "classifier_proj_size": 8,
        "apply_spec_augment": False,
        "conv_depthwise_kernel_size": 3,
    },
    "wav2vec2-conformer": {**WIDTH, **CONVOLUTIONS, "conv_depthwise_kernel_size": 3},
    "wavlm": {**WIDTH, **CONVOLUTIONS, "num_buckets": 8, "max_bucket_distance": 16},
    "whisper": {
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "max_source_positions": 50,
        "num_mel_bins": 16,
        "classifier_proj_size": 8,
        "vocab_size": 60,
        "pad_token_id": 1,
        "bos_token_id": 2,
        "eos_token_id": 2,
        "decoder_start_token_id": 3,
    },
}
SMALL["audio-spectrogram-transformer"] |= {"frequency_stride": 8, "time_stride": 8}
SMALL["data2vec-audio"].pop("apply_spec_augment")  # it has no such switch
SMALL["data2vec-audio"]["mask_time_prob"] = 0.0


def data(rows: Dataset) -> TransferData:
    return TransferData(rows, None, None, "audio-classification", ("audio",), ("a", "b"))


def waves(*seconds: float) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.normal(0, 0.1, round(16000 * length)).astype(np.float32) for length in seconds]


def small(kind: str, rows: Dataset, **changes: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    return new_model(kind, data(rows), {**SMALL[kind], **changes})


def test_the_list_is_that_of_transformers():
    assert set(SMALL) == set(MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES)


@pytest.mark.parametrize("kind", SMALL)
def test_a_step_with_the_extractor_of_its_own(kind, tmp_path):
    rows = recordings(*waves(0.3, 0.2, 0.3, 0.25))
    model, processor = small(kind, rows)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = TransferTrainer(
        model,
        TransferArguments(
            output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=4, report_to="none",
            remove_unused_columns=False, learning_rate=0.1, save_strategy="no", use_cpu=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=prepare(rows, processor),
        data_collator=collator_for(processor),
        processing_class=processor,
    )  # fmt: skip
    loss = trainer.train().training_loss
    assert np.isfinite(loss)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("classifier.") for name in moved) and any("classifier" not in name for name in moved)


@pytest.mark.parametrize("kind", ["wav2vec2", "wav2vec2-bert"])
def test_rows_of_a_batch_are_answered_as_alone_where_the_model_masks(kind):
    rows = recordings(*waves(0.3, 0.12, 0.2))
    model, processor = small(kind, rows)
    split, collate = prepare(rows, processor), collator_for(processor)
    with torch.no_grad():
        alone = torch.cat([model.eval()(**collate([split[row]])).logits for row in range(3)])
        batch = collate([split[row] for row in range(3)])
        assert batch["attention_mask"].sum(1).unique().numel() == 3
        together = model(**batch).logits
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_rows_of_a_batch_are_not_answered_as_alone_without_a_mask():
    """What the documentation of the collator warns of; norms over time see the padding."""
    rows = recordings(*waves(0.3, 0.12))
    model, processor = small("wav2vec2", rows, feat_extract_norm="group")
    split, collate = prepare(rows, processor), collator_for(processor)
    batch = collate([split[0], split[1]])
    assert "attention_mask" not in batch
    with torch.no_grad():
        together, alone = model.eval()(**batch).logits[1], model(**collate([split[1]])).logits[0]
    assert (together - alone).abs().max() > 1e-5


@pytest.mark.parametrize("kind", ["audio-spectrogram-transformer", "wav2vec2", "whisper"])
def test_extracted_features_are_what_the_head_is_given_in_training(kind, tmp_path):
    rows = recordings(*waves(0.3, 0.3, 0.2))
    model, processor = small(kind, rows)
    split, collate = prepare(rows, processor), collator_for(processor)
    seen: list[torch.Tensor] = []
    handle = model.classifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for part in ([0, 1], [2]):
            model.eval()(**collate([split[row] for row in part]))
    handle.remove()
    options: dict[str, Any] = {"cache_dir": tmp_path, "progress": False, "num_workers": 0}
    raw = extract_features(model, rows, processor, **options)
    np.testing.assert_allclose(np.array(raw["features"][:]), torch.cat(seen).numpy(), atol=1e-5)
    # rows that were prepared for training are the same entry of the cache
    prepared = extract_features(model, split, **options)
    assert prepared["features"][:] == raw["features"][:] and len(list(tmp_path.rglob("*.arrow"))) <= 1


def test_a_longest_recording_is_another_entry_of_the_cache(tmp_path):
    rows = recordings(*waves(0.3, 0.3))
    model, processor = small("wav2vec2", rows)
    options: dict[str, Any] = {"cache_dir": tmp_path, "progress": False, "num_workers": 0}
    whole = extract_features(model, rows, processor, **options)
    processor.max_seconds = 0.1
    assert extract_features(model, rows, processor, **options)["features"][:] != whole["features"][:]
