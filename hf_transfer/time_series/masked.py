"""Pretraining by masked patches: a loss over observed values, and a trainer whose evaluations mask alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers.trainer_utils import EvalLoopOutput

from hf_transfer.random_state import random_numbers_put_back
from hf_transfer.time_series.models import observed_mask_name
from hf_transfer.time_series.sources import SourceWindows
from hf_transfer.time_series.trainer import ForecastCollator, ForecastTrainer, WindowTrainer


__all__ = ["MaskedTrainer", "ObservedLoss", "SupervisedTrainer"]


class ObservedLoss:
    r"""
    The loss of a masked model over what was both masked and observed; a missing value is nothing to fill in.

    With patches $x$ of the standardised context, their reconstruction $\hat x$, the mask $m$ of patches and $o$ of
    observed values,

    $$ L = \frac{\sum_{bcpj} m_{bcp}\, o_{bcpj}\, (x_{bcpj} - \hat x_{bcpj})^2}{\sum_{bcpj} m_{bcp}\, o_{bcpj}} $$

    over window, channel, patch and row of the patch. It takes the place of the model's own, which counts the values
    that holes were filled with, and equals it where there are none.

    Args:
        model (`PatchTSTForPretraining` or `PatchTSMixerForPretraining`):
            Gets two forward hooks, until [`remove`] is called.

    Degenerate cases:
        Where nothing masked was observed the loss is an exact zero with a graph.

    Example:
        >>> from hf_transfer.time_series.models import pretraining_model
        >>> model = pretraining_model("patchtst", channels=1, context_length=16)
        >>> own = ObservedLoss(model)
        >>> nowhere = torch.zeros(2, 16, 1, dtype=torch.bool)
        >>> model(past_values=torch.randn(2, 16, 1), past_observed_mask=nowhere).loss.item()
        0.0
        >>> own.remove()
    """

    def __init__(self, model: Any):
        self._mask_name = observed_mask_name(model)
        self._patching = model.model.patchifier if hasattr(model.model, "patchifier") else model.model.patching
        self._inner: Any = None
        self._hooks = [
            model.model.register_forward_hook(self._keep),
            model.register_forward_hook(self._replace, with_kwargs=True),
        ]

    def remove(self) -> None:
        """Leave the model with its own loss."""
        for hook in self._hooks:
            hook.remove()

    def _keep(self, model: nn.Module, args: tuple, output: Any) -> None:
        self._inner = output

    def _replace(self, model: nn.Module, args: tuple, kwargs: Mapping[str, Any], output: Any) -> Any:
        inner, self._inner = self._inner, None
        rebuilt = output.prediction_output if "prediction_output" in output else output.prediction_outputs
        counted = inner.mask[..., None].float()  # sums of ones in half precision stop at 256
        observed = kwargs.get(self._mask_name)
        if observed is not None:
            counted = counted * self._patching(observed.float())
        squares = (rebuilt.float() - inner.patch_input.float()).square() * counted
        # over all rows of a patch, also where one number stands for them
        total = counted.expand_as(squares).sum()
        output["loss"] = squares.sum() / total.clamp_min(1.0)
        return output


class _FromSources(WindowTrainer):
    """Batches that hold every source in its share, where there are several."""

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        if not isinstance(self.train_dataset, SourceWindows) or len(self.train_dataset.datasets) < 2:
            return super()._get_train_sampler(train_dataset)
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        return self.train_dataset.sampler(
            batch_size=self.args.per_device_train_batch_size, ranks=self.args.world_size, seed=seed
        )


class SupervisedTrainer(_FromSources, ForecastTrainer):
    """Trains a forecaster on [`SourceWindows`]."""


class MaskedTrainer(_FromSources):
    """
    Trains a model to fill in masked patches of [`SourceWindows`].

    Every evaluation masks the same patches of the same windows, so that the losses of two epochs compare, and leaves
    the random numbers of the training as they were.

    Args:
        model (`PatchTSTForPretraining` or `PatchTSMixerForPretraining`): it has [`ObservedLoss`] from then on.
        args, **kwargs: as for [`TransferTrainer`], without objectives: there are no labels.
    """

    def __init__(self, model: Any, args: Any, **kwargs: Any):
        args.label_names = []
        kwargs.setdefault("data_collator", ForecastCollator(observed_mask_name(model)))
        super().__init__(model, args, **kwargs)
        self.observed_loss = ObservedLoss(model)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The loss alone: what was rebuilt is not kept."""
        inputs = cast(dict[str, Any], self._prepare_inputs(inputs))
        with torch.no_grad(), self.compute_loss_context_manager():
            return cast(Tensor, self.compute_loss(model, inputs)).detach(), None, None

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """As that of `Trainer`, with random numbers of its own."""
        with random_numbers_put_back(self.args.seed):
            return super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
