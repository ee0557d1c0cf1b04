"""`ForecastTrainer`: trains forecasters on windows of a series, and scores them by what was observed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import EvalPrediction, PreTrainedModel, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput
from typing_extensions import Unpack

from hf_transfer.arguments import TransferArguments
from hf_transfer.attach import attach
from hf_transfer.functional.task_loss import observed_squared_error
from hf_transfer.time_series.accuracy import ErrorSums
from hf_transfer.time_series.models import observed_mask_name
from hf_transfer.trainer import TransferTrainer
from hf_transfer.trainer_kwargs import TransferTrainerKwargs


TARGET = "future_values"
OBSERVED = "past_observed_mask"

__all__ = ["ForecastCollator", "ForecastMetrics", "ForecastTrainer", "WindowTrainer"]


class WindowTrainer(TransferTrainer):
    """A [`TransferTrainer`] whose rows are [`Windows`], with what of their contexts was observed."""

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns = self._signature_columns or []
        if OBSERVED not in columns:  # PatchTSMixer has another word for it, to which the collator translates
            self._signature_columns = [*columns, OBSERVED]


class ForecastTrainer(WindowTrainer):
    r"""
    A [`TransferTrainer`] of forecasters: PatchTST and PatchTSMixer, whole, frozen in part or under PEFT.

    It trains on [`Windows`] by the squared error over the observed targets. Evaluation gives `eval_mse`, `eval_mae`
    and, with `mase_scale`, `eval_mase`, in the units of the windows, each also at single steps such as
    `eval_mse_at_24`; and `eval_loss`, which is `eval_mse`: over all observed values of the data set, whatever the
    batches. Errors are added up batch by batch, and forecasts are not kept. `predict` returns the forecasts
    `(N, H, C)` too.

    Args:
        model (`PreTrainedModel` or `nn.Module`, *optional*):
            A forecaster, of [`new_forecaster`] or [`load_forecaster`], also under PEFT; or give `model_init`.
        args (`TransferArguments` or `TrainingArguments`, *optional*):
            Options of the loop. `label_names` becomes `["future_values"]`; `batch_eval_metrics` `True`, unless you
            give `compute_metrics`.
        mase_scale (`np.ndarray`, *optional*):
            `(C,)` from [`seasonal_scale`] of the training rows, in the units of the windows.
        **kwargs:
            As for [`TransferTrainer`]. `compute_metrics` of your own gets forecasts and targets `(N, H, C)`, NaN where
            a target is missing. `processing_class` is the [`SeriesProcessor`].

    Raises:
        ValueError: if the model is no forecaster, or forecasts a distribution; and as [`TransferTrainer`] does.

    Example:
        >>> from hf_transfer.time_series.models import new_forecaster
        >>> model = new_forecaster("patchtst", channels=2, context_length=16, prediction_length=4)
        >>> trainer = ForecastTrainer(model, TransferArguments("unused", report_to="none", use_cpu=True))
        >>> trainer.args.label_names
        ['future_values']
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: TrainingArguments | None = None,
        *,
        mase_scale: np.ndarray | None = None,
        **kwargs: Unpack[TransferTrainerKwargs],
    ):
        args = TransferArguments(output_dir="tmp_trainer") if args is None else args
        args.label_names = [TARGET]
        self.forecast_metrics = ForecastMetrics(mase_scale)
        """The errors of the last evaluation, also by step."""
        if kwargs.get("compute_metrics") is None:
            args.batch_eval_metrics = True
            kwargs["compute_metrics"] = self.forecast_metrics
        super().__init__(model, args, **kwargs)
        if kwargs.get("data_collator") is None:
            # what the mask is called hangs on the model, which with `model_init` is there only now
            self.data_collator = cast(Any, ForecastCollator(observed_mask_name(self.model)))

    def _attach(self, model: nn.Module) -> None:
        # Also without objectives: what counts observed targets alone is part of it.
        _check_forecaster(model)
        self.attachment = attach(model, self._objectives)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The squared error over observed targets, the forecast `(B, H, C)` and the targets, NaN where missing."""
        inputs = cast(dict[str, Any], self._prepare_inputs(inputs))
        target = inputs.pop(TARGET, None)
        # The model is not shown the targets: its own loss does not know that some are missing.
        with torch.no_grad(), self.compute_loss_context_manager():
            output = model(**inputs)
        forecast = (output["prediction_outputs"] if isinstance(output, Mapping) else output[0]).float()
        loss = None
        if target is not None:
            loss = observed_squared_error(forecast, target)
        return (loss, None, None) if prediction_loss_only else (loss, forecast, target)

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """As that of `Trainer`; the loss is that of all observed targets, not the mean of those of batches."""
        self.forecast_metrics.reset()
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        metrics = output.metrics or {}
        if self.compute_metrics is self.forecast_metrics and f"{metric_key_prefix}_mse" in metrics:
            metrics[f"{metric_key_prefix}_loss"] = metrics[f"{metric_key_prefix}_mse"]
        return output


class ForecastMetrics:
    """
    A `compute_metrics` that adds up the errors of forecasts batch by batch, as [`ErrorSums`] does.

    Args:
        scale (`np.ndarray`, *optional*): `(C,)` for MASE.

    Example:
        >>> metrics = ForecastMetrics()
        >>> metrics(EvalPrediction(np.zeros((1, 1, 1)), np.ones((1, 1, 1))), compute_result=False)
        {}
        >>> metrics(EvalPrediction(np.zeros((1, 1, 1)), np.full((1, 1, 1), 3.0)))["mae"]
        2.0
    """

    def __init__(self, scale: np.ndarray | None = None):
        self._scale = scale
        self.by_horizon: dict[str, np.ndarray] = {}
        """Errors by step of the last data set that was scored: `mse`, `mae`, `mase`, each `(H,)`."""
        self.reset()

    def reset(self) -> None:
        """Forget batches of an evaluation that did not end."""
        self._sums = ErrorSums(scale=self._scale)

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        """Count a batch in; with `compute_result` the errors of all since the last time."""
        self._sums.add(_array(prediction.predictions), _array(prediction.label_ids))
        if not compute_result:
            return {}
        errors = self._sums.errors()
        self.reset()
        self.by_horizon = {
            name.removesuffix("_by_horizon"): errors.pop(name) for name in list(errors) if name.endswith("_by_horizon")
        }
        return errors


class ForecastCollator:
    """
    Stacks windows and calls the mask of observed inputs what the model calls it.

    Args:
        mask_name (`str`): `"past_observed_mask"` or `"observed_mask"`.

    Example:
        >>> collate = ForecastCollator("observed_mask")
        >>> sorted(collate([{"past_values": torch.zeros(4, 1), "past_observed_mask": torch.ones(4, 1)}] * 2))
        ['observed_mask', 'past_values']
    """

    def __init__(self, mask_name: str):
        self.mask_name = mask_name

    def __call__(self, windows: Iterable[Mapping[str, Any]]) -> dict[str, Tensor]:
        """One batch of them."""
        rows = list(windows)
        names = {name: self.mask_name if name == OBSERVED else name for name in rows[0]}
        return {names[name]: torch.stack([torch.as_tensor(row[name]) for row in rows]) for name in rows[0]}


def _array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _check_forecaster(model: nn.Module) -> None:
    inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    if not type(inner).__name__.endswith("ForPrediction"):
        raise ValueError(
            f"{type(inner).__name__} is no forecaster: it has no forecast to compare with `{TARGET}`. Make one with "
            "`new_forecaster` or `load_forecaster`, which also takes the weights of a pretrained model."
        )
    if getattr(inner.config, "loss", "mse") != "mse":
        raise ValueError(
            f"The model forecasts a distribution (loss={inner.config.loss!r}): its head gives parameters, which have "
            "no squared error. Make one with `new_forecaster`, whose loss is 'mse', or use the stock `Trainer`."
        )
