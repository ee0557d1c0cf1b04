"""A text classifier on any encoder or decoder, which pools its tokens as sentence encoders do. It imports nothing of
this package: the file is saved beside the weights, and loads elsewhere with `trust_remote_code=True`."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput


POOLINGS = ("mean", "cls", "last")
"""How the vectors of the tokens become one: their mean, the first or the last, none of them of padding."""

__all__ = [
    "POOLINGS",
    "SentenceEncoderConfig",
    "SentenceEncoderForSequenceClassification",
    "check_pooling",
    "without_pooler",
]


def check_pooling(pooling: str) -> None:
    """Refuse a pooling that leaves no row of features for a linear head."""
    if pooling not in POOLINGS:
        raise ValueError(
            f'`pooling="{pooling}"` is none that makes one row of features out of the tokens of a text: the head '
            f"reads one. Choose from {', '.join(POOLINGS)}."
        )


def without_pooler(config: PreTrainedConfig) -> dict[str, Any]:
    """The option by which a model is made without the pooler that nothing here reads; none where it has no such."""
    kind: Any = MODEL_MAPPING.get(type(config), None)
    parameters = inspect.signature(kind.__init__).parameters if inspect.isclass(kind) else {}
    return {"add_pooling_layer": False} if "add_pooling_layer" in parameters else {}


class SentenceEncoderConfig(PreTrainedConfig):
    """
    Configuration of a `SentenceEncoderForSequenceClassification`.

    Args:
        text_config (`dict` or `PreTrainedConfig`, *optional*): of the encoder or decoder; BERT's by default.
        pooling (`str`, *optional*, defaults to `"mean"`): one of `POOLINGS`.
        normalize (`bool`, *optional*, defaults to `False`): whether pooled features are brought to length 1.
        **kwargs: as for any model, the names of the classes among them.

    Raises:
        ValueError: if there is no such pooling.
    """

    model_type = "sentence_encoder"
    sub_configs = {"text_config": AutoConfig}  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

    def __init__(self, text_config: Any = None, pooling: str = "mean", normalize: bool = False, **kwargs: Any):
        check_pooling(pooling)
        if isinstance(text_config, dict):
            text_config = AutoConfig.for_model(**text_config)
        self.text_config = text_config if text_config is not None else AutoConfig.for_model("bert")
        self.pooling, self.normalize = pooling, normalize
        super().__init__(**kwargs)


class SentenceEncoderForSequenceClassification(PreTrainedModel):
    r"""
    Text classifier with the features of a sentence encoder: a linear head on pooled tokens.

    With tokens $h_{it}$ of row $i$ and its real positions $R_i$ the features are $\frac{1}{|R_i|} \sum_{t \in R_i}
    h_{it}$, $h_{i, \min R_i}$ or $h_{i, \max R_i}$, divided by their length where the config says so. Padding may
    stand on either side.

    Args:
        config (`SentenceEncoderConfig`): encoder, pooling and classes.
    """

    config_class = SentenceEncoderConfig
    base_model_prefix = "text_model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: SentenceEncoderConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.text_model = AutoModel.from_config(config.text_config, **without_pooler(config.text_config))
        self.classifier = nn.Linear(int(config.text_config.hidden_size), int(config.num_labels or 0))
        # a tokenizer may return more than the encoder reads
        self._reads = frozenset(inspect.signature(type(self.text_model).forward).parameters)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput | tuple[Any, ...]:
        """Logits `(B, C)` of token ids `(B, T)` and their mask, and with labels the loss."""
        return_dict = kwargs.pop("return_dict", None)
        optional = {"token_type_ids": token_type_ids, "position_ids": position_ids, "inputs_embeds": inputs_embeds}
        kwargs |= {name: value for name, value in optional.items() if value is not None and name in self._reads}
        if "use_cache" in self._reads:
            kwargs.setdefault("use_cache", False)  # nothing is generated
        for name in ("output_hidden_states", "output_attentions"):
            if getattr(self.config, name, False):
                kwargs.setdefault(name, True)
        outputs = self.text_model(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        features = _pooled(outputs.last_hidden_state, attention_mask, self.config.pooling)
        if self.config.normalize:
            features = nn.functional.normalize(features, dim=-1)
        logits = self.classifier(features.to(outputs.last_hidden_state.dtype))
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        output = SequenceClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=getattr(outputs, "hidden_states", None),
            attentions=getattr(outputs, "attentions", None),
        )
        return output.to_tuple() if return_dict is False else output


def _pooled(tokens: Tensor, mask: Tensor | None, pooling: str) -> Tensor:
    """`(B, D)` float32 of tokens `(B, T, D)` and their mask `(B, T)`; all are real without one."""
    tokens = tokens.float()
    real = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if mask is None else mask != 0
    if pooling == "mean":
        # not a product: what stands at padding may be infinite or no number
        return tokens.masked_fill(~real.unsqueeze(-1), 0.0).sum(1) / real.sum(1, keepdim=True).clamp(min=1)
    positions = torch.arange(real.shape[1], device=real.device)
    chosen = real.long().argmax(1) if pooling == "cls" else (positions * real).argmax(1)
    return tokens.gather(1, chosen[:, None, None].expand(-1, 1, tokens.shape[2])).squeeze(1)


AutoConfig.register(SentenceEncoderConfig.model_type, SentenceEncoderConfig, exist_ok=True)
AutoModelForSequenceClassification.register(
    SentenceEncoderConfig, SentenceEncoderForSequenceClassification, exist_ok=True
)
SentenceEncoderConfig.register_for_auto_class()
SentenceEncoderForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
