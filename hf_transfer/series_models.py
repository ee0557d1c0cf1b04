"""Models of time series in `transformers`: what their batches call the target, and their outputs the prediction."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hf_transfer.functional.task_loss import UNLABELLED
from hf_transfer.language_models import pretrained_part


Kind = Literal["classification", "regression", "forecast", "reconstruction"]

# In the order in which they are looked for; what a class of `transformers` predicts has one of these names
OUTPUTS = (
    *("logits", "prediction_logits", "prediction_outputs", "prediction_output", "regression_outputs"),
    *("mean_predictions", "params"),
)

TARGETS = frozenset({"labels", "target_values", "future_values"})
"""What batches of `transformers` call the target."""

BESIDES = (
    *("last_hidden_state", "hidden_states", "attentions", "loc", "scale", "mask", "patch_input", "static_features"),
    *("past_key_values", "decoder_hidden_states", "decoder_attentions", "cross_attentions"),
    *("encoder_last_hidden_state", "encoder_hidden_states", "encoder_attentions"),
)
"""What models of series return beside their predictions, and no metric reads."""

__all__ = ["BESIDES", "OUTPUTS", "TARGETS", "Kind", "SeriesModel", "TargetCollator", "labels_of", "named_output"]
__all__ += ["predicts_values", "series_model"]


@dataclass(frozen=True)
class SeriesModel:
    """
    What a model of time series takes as its target and gives as its prediction; made by [`series_model`].

    Args:
        name (`str`):
            Its class, for errors.
        kind (`str`):
            `"classification"`, `"regression"`, `"forecast"`, or `"reconstruction"` of its own input.
        target (`str`, *optional*):
            Name of the target in a batch, `"target_values"` or `"future_values"`; a reconstruction has none.
        squared_error (`bool`):
            Whether its loss is the mean squared error of its output, which can be had without missing targets.
        channels (`tuple[int, ...]`, *optional*):
            The channels of the target that it forecasts, where not all.
    """

    name: str
    kind: Kind
    target: str | None
    squared_error: bool
    channels: tuple[int, ...] | None = None

    @property
    def has_classes(self) -> bool:
        """Whether it predicts classes."""
        return self.kind == "classification"

    @property
    def in_pieces(self) -> bool:
        """Whether its head reads channels, patches or steps one by one, over which features are to be averaged."""
        return self.kind in ("forecast", "reconstruction")

    def is_asked(self, inputs: Mapping[str, Any]) -> bool:
        """Whether a forward with these inputs computes a loss."""
        if inputs.get("return_loss") is False:  # PatchTSMixer
            return False
        return self.target is None or inputs.get(self.target) is not None

    def with_labels(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs with the target under the name `labels`, as objectives know it."""
        return {"labels" if name == self.target else name: value for name, value in inputs.items()}

    def for_model(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """
        The inputs as the model takes them: the target under its own name, and 0 where it is missing.

        Raises:
            ValueError: if a target is missing of a loss that cannot leave it out.
        """
        if self.target is None:
            return dict(inputs)
        target: Tensor = inputs["labels"]
        if self.kind in ("forecast", "regression"):
            if not self.squared_error and not torch.compiler.is_compiling():
                self._check_whole(target)
            target = torch.where(target.isnan(), 0.0, target)
        return {self.target if name == "labels" else name: value for name, value in inputs.items()} | {
            self.target: target
        }

    def labels(self, inputs: Mapping[str, Any]) -> Tensor | None:
        """
        The target as objectives see it: of the channels that are forecast, with NaN where a value is missing; -100 of
        a regression and of a classification.
        """
        if self.target is None:
            return None
        target: Tensor = inputs["labels"]
        if self.kind == "regression":
            return torch.where(target.isnan(), float(UNLABELLED), target)
        return target if self.channels is None else target[..., list(self.channels)]

    def _check_whole(self, target: Tensor) -> None:
        missing = target.isnan() if self.kind == "forecast" else target.isnan() | (target == UNLABELLED)
        if missing.any():
            raise ValueError(
                f"{int(missing.sum())} values of `{self.target}` are missing, and the loss of {self.name} is not a "
                "squared error: what it would be without them cannot be told from outside, and a filled value would "
                'be learned. Leave such rows out, or use a model of `loss="mse"`, such as PatchTST.'
            )

    def check_shape(self, prediction: Tensor, target: Tensor) -> None:
        """
        Check that prediction and target belong together, entry by entry.

        Raises:
            ValueError: if their shapes differ.
        """
        if prediction.shape != target.shape:
            raise ValueError(
                f"`{self.target}` has shape {tuple(target.shape)}, and {self.name} predicts "
                f"{tuple(prediction.shape)}: a mean over entries that do not belong together would be no error of the "
                "model. Give one target for each prediction."
            )


def series_model(model: nn.Module) -> SeriesModel | None:
    """
    What a model of time series takes and gives, also under PEFT; `None` for any other model, whose batches have
    `labels` and whose outputs have `logits`.

    Example:
        >>> from transformers import PatchTSTConfig, PatchTSTForPrediction
        >>> config = PatchTSTConfig(d_model=8, num_attention_heads=2, num_hidden_layers=1)
        >>> found = series_model(PatchTSTForPrediction(config))
        >>> found.kind, found.target, found.squared_error
        ('forecast', 'future_values', True)
    """
    _, owner = pretrained_part(model)
    if getattr(type(owner), "main_input_name", None) != "past_values":
        return None
    name = type(owner).__name__
    config: Any = getattr(owner, "config", None)
    takes = inspect.signature(type(owner).forward).parameters
    if "labels" in takes:
        return None
    squared = getattr(config, "loss", None) == "mse"
    if "future_values" in takes:
        chosen = getattr(config, "prediction_channel_indices", None)
        # in rising order, as PatchTSMixer's head sorts them
        channels = None if chosen is None else tuple(sorted(chosen))
        return SeriesModel(name, "forecast", "future_values", squared, channels)
    if "target_values" in takes:
        kind: Kind = "classification" if name.endswith("Classification") else "regression"
        return SeriesModel(name, kind, "target_values", squared)
    return SeriesModel(name, "reconstruction", None, False) if name.endswith("ForPretraining") else None


class TargetCollator:
    """
    A collator whose batches call the target what a model of series does, where the data call it `label` or `labels`.

    Args:
        collate (`Callable`): makes a batch of rows.
        target (`str`): the name in [`SeriesModel.target`].

    Example:
        >>> from transformers import default_data_collator
        >>> collate = TargetCollator(default_data_collator, "target_values")
        >>> collate([{"past_values": [[0.5]], "label": 1}])["target_values"]
        tensor([1])
    """

    def __init__(self, collate: Callable[[Any], Any], target: str):
        self.collate = collate
        self.target = target

    def __call__(self, rows: Any) -> Any:
        """One batch of them."""
        batch = self.collate(rows)
        if self.target not in batch and "labels" in batch:
            batch[self.target] = batch.pop("labels")
        return batch


def predicts_values(model: nn.Module | None) -> bool:
    """Whether a model of series predicts numbers: a forecast, a regression, or its own input."""
    series = None if model is None else series_model(model)
    return series is not None and not series.has_classes


def labels_of(batch: Mapping[str, Any]) -> Tensor:
    """
    What a collated batch gives as the target, for whoever learns from data before the training: `labels`, or the
    target of a model of series; future values as `(B, H * C)`, with -100 where one is missing.

    Raises:
        ValueError: if there is none.

    Example:
        >>> labels_of({"past_values": torch.zeros(1, 8, 1), "future_values": torch.tensor([[[1.0], [torch.nan]]])})
        tensor([[   1., -100.]])
    """
    name = next((name for name in ("labels", "target_values", "future_values") if batch.get(name) is not None), None)
    if name is None:
        raise ValueError(
            f"The batch has {', '.join(batch)} and no target: there is nothing to learn from before the training. "
            "Give `labels`, `target_values` or `future_values`."
        )
    target = torch.as_tensor(batch[name])
    return target.flatten(1).nan_to_num(nan=UNLABELLED) if name == "future_values" else target


def named_output(output: Mapping[str, Any]) -> str:
    """
    The name under which a model returns what it predicts.

    Raises:
        ValueError: if there is none that is known.

    Example:
        >>> named_output({"loss": 0.5, "prediction_outputs": torch.zeros(2, 4, 1)})
        'prediction_outputs'
    """
    name = next((name for name in OUTPUTS if output.get(name) is not None), None)
    if name is None:
        raise ValueError(
            f"The model returned {', '.join(output)}, none of which is known to be its prediction: objectives have "
            f"nothing to read. Return it under one of the names {', '.join(OUTPUTS)}."
        )
    return name
