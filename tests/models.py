"""Tiny models made from configs: every kind of classifier in milliseconds, with no file and no network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    Wav2Vec2Config,
    Wav2Vec2ForSequenceClassification,
)


VOCABULARY = 50
NUM_LABELS = 3


def bert_config(**options) -> BertConfig:
    defaults = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 32,
        "num_labels": NUM_LABELS,
    }
    return BertConfig(**{**defaults, **options})


def tiny_bert(**options) -> nn.Module:
    return BertForSequenceClassification(bert_config(**options))


def tiny_token_bert(**options) -> nn.Module:
    return BertForTokenClassification(bert_config(**options))


def tiny_gpt2(**options) -> nn.Module:
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=32,
        num_labels=NUM_LABELS,
        pad_token_id=0,
        **options,
    )
    return GPT2ForSequenceClassification(config)


def llama_config(**options) -> LlamaConfig:
    defaults = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 32,
        "num_labels": NUM_LABELS,
        "pad_token_id": 0,
    }
    return LlamaConfig(**{**defaults, **options})


def tiny_llama(**options) -> nn.Module:
    return LlamaForSequenceClassification(llama_config(**options))


def tiny_causal_llama(**options) -> nn.Module:
    return LlamaForCausalLM(llama_config(**options))


def tiny_vit(**options) -> nn.Module:
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=8,
        patch_size=4,
        num_labels=NUM_LABELS,
        **options,
    )
    return ViTForImageClassification(config)


def tiny_resnet(**options) -> nn.Module:
    defaults = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "num_labels": NUM_LABELS}
    return ResNetForImageClassification(ResNetConfig(layer_type="basic", **{**defaults, **options}))


def tiny_wav2vec2(**options) -> nn.Module:
    config = Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8, 8),
        conv_stride=(5, 2),
        conv_kernel=(10, 3),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        classifier_proj_size=12,
        num_labels=NUM_LABELS,
        apply_spec_augment=False,
        **options,
    )
    return Wav2Vec2ForSequenceClassification(config)


TINY = {
    "bert": tiny_bert,
    "token_bert": tiny_token_bert,
    "gpt2": tiny_gpt2,
    "llama": tiny_llama,
    "vit": tiny_vit,
    "resnet": tiny_resnet,
    "wav2vec2": tiny_wav2vec2,
}


def lora(model: nn.Module, targets: list[str] | str, head: str | None = None, **options) -> nn.Module:
    """`model` under LoRA with its head trained in full."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=targets, modules_to_save=[head] if head else None, **options)
    return get_peft_model(model, config)


def batch_for(model: nn.Module, rows: int = 4, *, seed: int = 0, labelled: bool = True) -> dict[str, Tensor]:
    """A random batch that the model takes, padded where it is text, with labels and alternating domains."""
    generator = torch.Generator().manual_seed(seed)
    # PEFT hides the class of the model it wraps.
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    name = base.main_input_name
    if name == "input_ids":
        ids = torch.randint(1, VOCABULARY, (rows, 6), generator=generator)
        mask = torch.ones_like(ids)
        ids[1::2, 4:], mask[1::2, 4:] = 0, 0
        batch = {"input_ids": ids, "attention_mask": mask}
    elif name == "pixel_values":
        size = getattr(base.config, "image_size", 16)
        batch = {"pixel_values": torch.randn(rows, 3, size, size, generator=generator)}
    else:
        batch = {name: torch.randn(rows, 400, generator=generator)}
    shape = batch["input_ids"].shape if type(base).__name__.endswith("TokenClassification") else (rows,)
    labels = torch.randint(0, NUM_LABELS, shape, generator=generator)
    return {**batch, "labels": labels if labelled else torch.full_like(labels, -100), "domain": torch.arange(rows) % 2}
