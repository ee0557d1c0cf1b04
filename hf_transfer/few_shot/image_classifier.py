"""An image classifier on the image tower of a model with two towers. It imports nothing of this package: the file is
saved beside the weights, and loads elsewhere with `trust_remote_code=True`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput


__all__ = ["DualEncoderForImageClassification", "DualEncoderImageConfig"]


class DualEncoderImageConfig(PreTrainedConfig):
    """
    Configuration of a `DualEncoderForImageClassification`.

    Args:
        vision_config (`dict` or `PreTrainedConfig`, *optional*): of the image tower.
        projection_dim (`int`, *optional*): width of the space that images and texts share; none where the tower ends
            in it, as SigLIP's does.
        **kwargs: as for any model, the names of the classes among them.
    """

    model_type = "dual_encoder_image"
    sub_configs = {"vision_config": AutoConfig}  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

    def __init__(self, vision_config: Any = None, projection_dim: int | None = None, **kwargs: Any):
        if isinstance(vision_config, dict):
            vision_config = AutoConfig.for_model(**vision_config)
        self.vision_config = vision_config if vision_config is not None else AutoConfig.for_model("clip_vision_model")
        self.projection_dim = projection_dim
        super().__init__(**kwargs)


class DualEncoderForImageClassification(PreTrainedModel):
    """
    Image classifier with the features that a model such as CLIP or SigLIP compares with texts: pooled by its image
    tower, projected, and of length 1. With text embeddings as head its logits are the zero-shot logits.

    Args:
        config (`DualEncoderImageConfig`): image tower, projection and classes.
    """

    config_class = DualEncoderImageConfig
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: DualEncoderImageConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.vision_model = AutoModel.from_config(config.vision_config)
        hidden, width = int(config.vision_config.hidden_size), config.projection_dim
        self.visual_projection = nn.Identity() if width is None else nn.Linear(hidden, width, bias=False)
        self.classifier = nn.Linear(hidden if width is None else width, int(config.num_labels or 0))
        self.post_init()

    def forward(
        self, pixel_values: Tensor | None = None, labels: Tensor | None = None, **kwargs: Any
    ) -> ImageClassifierOutput | tuple[Any, ...]:
        """Logits `(B, C)` of images `(B, 3, H, W)`, and with labels the loss."""
        return_dict = kwargs.pop("return_dict", None)
        outputs = self.vision_model(pixel_values=pixel_values, **kwargs)
        embeddings = self.visual_projection(outputs.pooler_output)
        # divided by the length as it is: what the models do
        logits = self.classifier(embeddings / torch.linalg.vector_norm(embeddings, dim=-1, keepdim=True))
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        output = ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
        return output.to_tuple() if return_dict is False else output


AutoConfig.register(DualEncoderImageConfig.model_type, DualEncoderImageConfig, exist_ok=True)
AutoModelForImageClassification.register(DualEncoderImageConfig, DualEncoderForImageClassification, exist_ok=True)
DualEncoderImageConfig.register_for_auto_class()
DualEncoderForImageClassification.register_for_auto_class("AutoModelForImageClassification")
