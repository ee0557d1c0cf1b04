"""Every architecture with which `transformers` classifies or forecasts, small, with random weights and batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.architectures import ARCHITECTURES, Architecture


VOCABULARY, TOKENS, NUM_LABELS, PIXELS = 64, 16, 3, 64

# What needs a library that no environment of ours has
NOT_RUN = {
    "DinatForImageClassification": "natten",
    "LayoutLMv2ForSequenceClassification": "detectron2",
    "LayoutLMv2ForTokenClassification": "detectron2",
    "TimmWrapperForImageClassification": "timm",
}
# Classes that return no loss, so that nothing can be attached to them
WITHOUT_LOSS = {
    "DeiTForImageClassificationWithTeacher",
    "LevitForImageClassificationWithTeacher",
    "PPLCNetForImageClassification",
    "ShieldGemma2ForImageClassification",
}
RUN = [one for one in ARCHITECTURES if one.class_name not in NOT_RUN]

# A field of a default configuration that has one of these names and a larger value gets this one
SMALL: dict[str, int] = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size"), 32),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "moe_intermediate_size", "d_ff", "ffn_dim", "d_inner", "dff"), 32),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "feed_forward_size", "entity_vocab_size"), 32),
    **dict.fromkeys(("head_dim", "d_kv", "d_head"), 8),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 8),
    "num_experts_per_tok": 2,
    "vocab_size": VOCABULARY,
    "image_size": PIXELS,
}
SPECIAL_TOKENS = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}  # likewise, if outside the vocabulary
SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4}
CONVNEXT = {"num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1]}
LATENT_ATTENTION = {"head_dim": 64}  # that of the rotary part, which has a field of its own
LAYER_KINDS = {"layer_types": ["linear_attention", "full_attention"]}
BLOCK_KINDS = {"layers_block_type": ["linear_attention", "hybrid", "hybrid"], "num_hidden_layers": 3}
FULL_ATTENTION = {"attention_type": "original_full"}  # what they change to at their first short batch
HEAD_DIM = {"head_dim": 8}
SERIES = {"context_length": 12, "d_model": 16, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0}
# What the rules above get wrong or leave slow, by model type
SPECIAL: dict[str, dict[str, Any]] = {
    # image
    "bit": {"hidden_sizes": [128] * 4, "depths": [1] * 4},
    "convnext": CONVNEXT,
    "convnextv2": CONVNEXT,
    "cvt": {"embed_dim": [8, 16, 32], "depth": [1, 2, 3], "num_heads": [1, 2, 4]},
    "donut-swin": SWIN,
    "efficientnet": {"width_coefficient": 0.2, "depth_coefficient": 0.2, "hidden_dim": 256, "initializer_range": 1.0},
    "focalnet": {"embed_dim": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
    "hgnet_v2": {
        "stem_channels": [3, 8, 16],
        "stage_in_channels": [16, 16, 32, 32],
        "stage_mid_channels": [8] * 4,
        "stage_out_channels": [16, 32, 32, 64],
        "stage_num_blocks": [1] * 4,
        "stage_numb_of_layers": [2] * 4,
        "hidden_sizes": [16, 32, 32, 64],
    },
    "hiera": {"embed_dim": 8, "depths": [1, 1, 1, 1], "image_size": [PIXELS, PIXELS]},
    "mobilenet_v1": {"classifier_dropout_prob": 0.1},  # for 0.999, which leaves nothing
    "mobilevit": {"image_size": 2 * PIXELS},  # so that it attends over more than one patch
    "perceiver": {"num_latents": 8, "d_latents": 32, "num_self_attends_per_block": 2},
    "poolformer": STAGES,
    "pvt": {"hidden_sizes": [8, 16, 40, 64], "depths": [1] * 4},
    "pvt_v2": {"hidden_sizes": [8, 16, 40, 64], "depths": [1] * 4},
    "regnet": {"hidden_sizes": [64, 64, 128, 128], "depths": [1] * 4},
    "resnet": {"hidden_sizes": [32] * 4, "depths": [1] * 4},
    "segformer": {"hidden_sizes": [8, 16, 40, 64], "depths": [1] * 4},
    "swiftformer": {"embed_dims": [8, 16, 24, 32], "depths": [1] * 4},
    "swin": SWIN,
    "swinv2": SWIN,
    "textnet": {"image_size": [PIXELS, PIXELS]},
    # text
    "axk1": {**LATENT_ATTENTION, "n_routed_experts": 16},  # in 8 groups, of each of which 2 are taken
    "big_bird": FULL_ATTENTION,
    "bigbird_pegasus": FULL_ATTENTION,
    "bros": {"hidden_size": 64},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "deepseek_v3": LATENT_ATTENTION,
    "esm": {"vocab_size": VOCABULARY},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 4},
    "hunyuan_v1_dense": HEAD_DIM,
    "hunyuan_v1_moe": HEAD_DIM,
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4},
    "lilt": {"hidden_size": 48},
    "longformer": {"attention_window": TOKENS // 2},
    "ministral": HEAD_DIM,
    "mistral4": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 4},
    "qwen3_5": {"text_config": LAYER_KINDS, "vision_config": {"depth": 1}},
    "qwen3_5_text": LAYER_KINDS,
    "qwen3_next": LAYER_KINDS,
    "reformer": {
        "attention_head_size": 8,
        "attn_layers": ["local", "lsh"],
        "axial_pos_shape": [4, TOKENS // 4],
        "axial_pos_embds_dim": [8, 24],
        # it draws the seed of its dropout anew in each forward
        "hidden_dropout_prob": 0.0,
        "local_attention_probs_dropout_prob": 0.0,
    },
    "roc_bert": {"shape_vocab_size": VOCABULARY, "pronunciation_vocab_size": VOCABULARY},
    "shieldgemma2": {"yes_token_index": 5, "no_token_index": 6},
    "t5": {"decoder_start_token_id": 0},
    "zamba": BLOCK_KINDS,
    "zamba2": BLOCK_KINDS,
    # audio
    "audio-spectrogram-transformer": {"max_length": 64, "num_mel_bins": 32},
    "whisper": {"max_source_positions": 32},
    # time series
    "autoformer": SERIES,
    "informer": SERIES,
    "patchtst": {"patch_length": 4, "patch_stride": 4, "num_input_channels": 2, "num_targets": NUM_LABELS},
    "patchtsmixer": {"num_input_channels": 2, "num_layers": 2},
    "time_series_transformer": SERIES,
    "timesfm": {"context_length": 64, "horizon_length": 16, "head_dim": 16},
    "timesfm2_5": {"context_length": 64, "horizon_length": 16, "head_dim": 16, "output_quantile_len": 32},
}
ONE_HEAD = {"num_cross_attention_heads": 1, "num_self_attention_heads": 1}
# By class; these two take images of 224 pixels only
SPECIAL_CLASSES: dict[str, dict[str, Any]] = {
    "PerceiverForImageClassificationConvProcessing": ONE_HEAD,
    "PerceiverForImageClassificationFourier": ONE_HEAD,
}


def small_settings(config: PreTrainedConfig, special: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for the class of a default configuration with which its models run in milliseconds."""
    settings: dict[str, Any] = {}
    for key, value in config.to_dict().items():
        inner = getattr(config, key, None)
        if isinstance(inner, PreTrainedConfig):
            settings[key] = small_settings(inner, special.get(key, {}))
        elif key in SMALL and type(value) is int and value > SMALL[key]:
            settings[key] = SMALL[key]
        elif key in SPECIAL_TOKENS and type(value) is int and value >= VOCABULARY:
            settings[key] = SPECIAL_TOKENS[key]
    return {**settings, **{key: value for key, value in special.items() if not isinstance(settings.get(key), dict)}}


def small_model(one: Architecture, **options: Any) -> PreTrainedModel:
    """The architecture with random weights, on the CPU, training; decoders pad with token 0 if with nothing else."""
    kind: Any = CONFIG_MAPPING[one.model_type]
    special = {**SPECIAL.get(one.model_type, {}), **SPECIAL_CLASSES.get(one.class_name, {}), **options}
    settings = {**small_settings(kind(), special), **dict(one.overrides)}
    config = kind(**settings, num_labels=NUM_LABELS)
    text: Any = config.get_text_config()
    if getattr(text, "pad_token_id", None) is None:
        text.pad_token_id = 0
    model = getattr(transformers, one.class_name)(config).train()
    if hasattr(model, "set_default_language"):
        model.set_default_language("en_XX")
    return model


# -- batches


def text_batch(config: PreTrainedConfig, name: str, sides: Sequence[str]) -> dict[str, Tensor]:
    """One row for each side at which to pad."""
    text: Any = config.get_text_config()
    ids = torch.randint(8, VOCABULARY, (len(sides), TOKENS))
    mask = torch.ones_like(ids)
    for row, side in enumerate(sides):
        if isinstance(end := getattr(text, "eos_token_id", None), int):  # BART's family pools at it
            ids[row, TOKENS - 6 if side == "right" else TOKENS - 1] = end
        padding = {"none": slice(0), "right": slice(TOKENS - 5, None), "left": slice(5)}[side]
        ids[row, padding], mask[row, padding] = text.pad_token_id, 0
    return {name: ids, "attention_mask": mask}


def batch_for(one: Architecture, model: PreTrainedModel, *, rows: int = 3) -> dict[str, Tensor]:
    """Rows that the model takes, without labels; of three rows of text one is padded on each side."""
    config: Any = model.config
    name = model.main_input_name
    if one.model_type == "siglip2":  # an image is a sequence of patches
        vision = config.vision_config
        patches = torch.randn(rows, vision.num_patches, 3 * vision.patch_size**2)
        shapes = torch.tensor([[16, 16]] * rows)
        return {name: patches, "pixel_attention_mask": torch.ones(patches.shape[:2]), "spatial_shapes": shapes}
    if one.class_name in SPECIAL_CLASSES:
        return {name: torch.randn(rows, 3, 224, 224)}
    if name == "pixel_values" or one.class_name == "PerceiverForImageClassificationLearned":
        size = getattr(getattr(config, "vision_config", config), "image_size", PIXELS)
        return {name: torch.randn(rows, 3, *([size, size] if isinstance(size, int) else size))}
    if one.model_type == "audio-spectrogram-transformer":
        return {name: torch.randn(rows, config.max_length, config.num_mel_bins)}
    if one.model_type == "whisper":
        return {name: torch.randn(rows, config.num_mel_bins, 2 * config.max_source_positions)}
    if one.model_type == "wav2vec2-bert":
        return {name: torch.randn(rows, 20, config.feature_projection_input_dim)}
    if name == "input_values":
        return {name: torch.randn(rows, 4000)}
    # ShieldGemma2 reads the last token whatever it is: its processor pads on the left
    second = "left" if one.model_type == "shieldgemma2" else "right"
    batch = text_batch(config, name, [("none", second, "left")[row % 3] for row in range(rows)])
    if one.model_type == "bros":
        batch["bbox"] = torch.rand(rows, TOKENS, config.dim_bbox)
    return batch


def labels_for(one: Architecture, *, rows: int = 3) -> Tensor:
    return torch.randint(NUM_LABELS, (rows, TOKENS) if one.task.startswith("TOKEN") else (rows,))


def series_batch(one: Architecture, model: PreTrainedModel, *, rows: int = 3) -> dict[str, Tensor]:
    """Series with the classes, the values or the future that the model is to predict from them."""
    config: Any = model.config
    channels = getattr(config, "num_input_channels", 1)
    if one.model_type.startswith("timesfm"):
        return {
            "past_values": torch.randn(rows, config.context_length).cumsum(1),
            "future_values": torch.randn(rows, config.horizon_length),
        }
    if one.model_type.startswith("patch"):
        batch = {"past_values": torch.randn(rows, config.context_length, channels)}
        if one.task == "TIME_SERIES_CLASSIFICATION":
            return {**batch, "target_values": torch.randint(NUM_LABELS, (rows,))}
        if one.task == "TIME_SERIES_REGRESSION":
            return {**batch, "target_values": torch.randn(rows, config.num_targets)}
        return {**batch, "future_values": torch.randn(rows, config.prediction_length, channels)}
    past = config.context_length + max(config.lags_sequence)
    return {
        "past_values": torch.rand(rows, past),
        "past_time_features": torch.rand(rows, past, config.num_time_features),
        "past_observed_mask": torch.ones(rows, past),
        "future_values": torch.rand(rows, config.prediction_length),
        "future_time_features": torch.rand(rows, config.prediction_length, config.num_time_features),
    }


def training_batch(one: Architecture, model: PreTrainedModel, *, rows: int = 4) -> dict[str, Tensor]:
    """Rows that the model takes, with what it is to predict."""
    if one.task.startswith("TIME_SERIES"):
        return series_batch(one, model, rows=rows)
    return {**batch_for(one, model, rows=rows), "labels": labels_for(one, rows=rows)}
