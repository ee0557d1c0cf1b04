"""Tiny teachers of many architectures, and the same with blocks passed over, for what a student must equal."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BartConfig,
    BartForSequenceClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    Gemma2Config,
    Gemma2ForSequenceClassification,
    GPTNeoConfig,
    GPTNeoForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    SwinConfig,
    SwinForImageClassification,
    T5Config,
    T5ForSequenceClassification,
    XLMConfig,
    XLMForSequenceClassification,
)

from tests.models import NUM_LABELS, VOCABULARY, tiny_bert, tiny_resnet, tiny_token_bert, tiny_wav2vec2


TEXT = {"vocab_size": VOCABULARY, "num_labels": NUM_LABELS, "pad_token_id": 0}
WIDTHS = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}


def bert(**options) -> nn.Module:
    return tiny_bert(num_hidden_layers=6, **options)


def token_bert() -> nn.Module:
    return tiny_token_bert(num_hidden_layers=6)


def distilbert() -> nn.Module:
    return DistilBertForSequenceClassification(DistilBertConfig(dim=16, hidden_dim=32, n_heads=2, n_layers=6, **TEXT))


def albert() -> nn.Module:
    config = AlbertConfig(embedding_size=8, num_hidden_layers=6, **WIDTHS, **TEXT)
    return AlbertForSequenceClassification(config)


def bart() -> nn.Module:
    sizes = {f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("attention_heads",)}
    config = BartConfig(
        d_model=16,
        encoder_layers=4,
        decoder_layers=4,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=32,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        **sizes,
        **TEXT,
    )
    return BartForSequenceClassification(config)


def t5() -> nn.Module:
    config = T5Config(
        d_model=16, d_kv=8, d_ff=32, num_layers=4, num_heads=2, eos_token_id=2, decoder_start_token_id=0, **TEXT
    )
    return T5ForSequenceClassification(config)


def gemma2() -> nn.Module:
    config = Gemma2Config(num_hidden_layers=6, num_key_value_heads=2, head_dim=8, sliding_window=3, **WIDTHS, **TEXT)
    return Gemma2ForSequenceClassification(config)


def modernbert() -> nn.Module:
    config = ModernBertConfig(
        num_hidden_layers=7,
        local_attention=2,
        cls_token_id=1,
        sep_token_id=2,
        max_position_embeddings=32,
        **WIDTHS,
        **TEXT,
    )
    return ModernBertForSequenceClassification(config)


def gpt_neo() -> nn.Module:
    config = GPTNeoConfig(
        hidden_size=16,
        intermediate_size=32,
        num_heads=2,
        num_layers=4,
        attention_types=[[["global", "local"], 2]],
        window_size=2,
        max_position_embeddings=32,
        **TEXT,
    )
    return GPTNeoForSequenceClassification(config)


def xlm() -> nn.Module:
    return XLMForSequenceClassification(
        XLMConfig(emb_dim=16, n_layers=4, n_heads=2, pad_index=0, n_words=VOCABULARY, num_labels=NUM_LABELS)
    )


def swin() -> nn.Module:
    config = SwinConfig(
        image_size=16, patch_size=2, embed_dim=8, depths=[2, 4], num_heads=[2, 2], window_size=2, num_labels=NUM_LABELS
    )
    return SwinForImageClassification(config)


def convnext() -> nn.Module:
    config = ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[2, 1, 3, 2], patch_size=2, num_labels=NUM_LABELS)
    return ConvNextForImageClassification(config)


def resnet() -> nn.Module:
    return tiny_resnet(depths=[3, 4])


def wav2vec2() -> nn.Module:
    model = tiny_wav2vec2(use_weighted_layer_sum=True)
    return model


def move_norms(model: nn.Module) -> nn.Module:
    """Give every tensor a value of its own, so that no two blocks are alike."""
    for tensor in (*model.parameters(), *(b for n, b in model.named_buffers() if n.endswith(("_mean", "_var")))):
        tensor.data.add_(0.05 * torch.rand_like(tensor))
    return model.eval()


def passing_over(model: nn.Module, blocks: list[str]) -> nn.Module:
    """A copy of a model in which these blocks return what they are given."""
    model = copy.deepcopy(model)

    def identity(module: nn.Module, args: tuple, kwargs: dict, output: object) -> object:
        given: Tensor = args[0] if args else kwargs["hidden_states"]
        return (given, *output[1:]) if isinstance(output, tuple) else given

    for block in blocks:
        model.get_submodule(block).register_forward_hook(identity, with_kwargs=True)
    return model
