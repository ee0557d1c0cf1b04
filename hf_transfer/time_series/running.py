"""One run of a forecast comparison: a strategy on a share of the target series with a seed."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from hf_transfer.compare.execution.failures import DivergedError
from hf_transfer.model_card.recipes import keep_facts
from hf_transfer.time_series.arguments import SeriesArguments, SeriesLoopArguments
from hf_transfer.time_series.head_fit import fit_forecast_head
from hf_transfer.time_series.scored import Scored, Units, of_model, score_windows
from hf_transfer.time_series.share import Share
from hf_transfer.time_series.strategies import (
    STRATEGIES,
    ZERO_SHOT,
    callbacks_of,
    objectives_of,
    plain_model,
    rates,
    start_model,
)
from hf_transfer.time_series.trainer import ForecastTrainer


__all__ = ["Run"]


@dataclass
class Run:
    """
    A strategy on a share of the target with a seed: it trains, scores and saves.

    All runs of a share and seed see the same windows in the same order, for the same number of steps where none stops
    early. The checkpoint of the lowest error on the evaluation part is kept; the test part is scored once, at the end.

    Args:
        strategy (`str`): its name.
        recipe (`SeriesArguments`): options of strategies.
        share ([`Share`]): what is learned from.
        start (`nn.Module`): the pretrained forecaster, which is left alone.
        units ([`Units`]): of the errors.
        args (`SeriesLoopArguments`): with folder and seed of the run; changed.
        head_is_new (`bool`): whether the head of `start` is random.
    """

    strategy: str
    recipe: SeriesArguments
    share: Share
    start: nn.Module
    units: Units
    args: SeriesLoopArguments
    head_is_new: bool

    @property
    def trains(self) -> bool:
        """Whether any step is done."""
        return self.strategy != ZERO_SHOT and STRATEGIES[self.strategy].trains

    def trainer(self) -> ForecastTrainer:
        """The trainer of the run, its model as training begins."""
        recipe, args = self.recipe, self.args
        args.data_seed = args.seed  # of the order of the windows
        model = start_model(
            self.strategy,
            self.start,
            seed=args.seed,
            head_is_new=self.head_is_new,
            lora_rank=recipe.lora_rank,
        )
        if self.strategy != ZERO_SHOT and STRATEGIES[self.strategy].fitted_head:
            size = args.per_device_eval_batch_size
            fit_forecast_head(model.to(args.device), self.share.train, eval_windows=self.share.eval, batch_size=size)
        patience = recipe.early_stopping_patience if args.load_best_model_at_end else 0
        options: dict[str, Any] = {"processing_class": self.share.processor}
        if self.trains:
            args.learning_rate, args.head_lr = rates(
                self.strategy,
                learning_rate=args.learning_rate,
                pretrained_lr=recipe.pretrained_lr or args.learning_rate,
                head_is_new=self.head_is_new,
            )
            options |= {
                "train_dataset": self.share.train,
                "eval_dataset": self.share.eval,
                "objectives": objectives_of(self.strategy, l2sp_weight=recipe.l2sp_weight),
                "callbacks": callbacks_of(self.strategy, stages=recipe.stages, patience=patience),
            }
        else:
            args.without_validation()
        return ForecastTrainer(model, args, **options)

    def train(self) -> tuple[dict[str, float], Scored, dict[str, float]]:
        """
        Train, score and save.

        Returns:
            The scores on the evaluation part, the errors on the test part, and seconds and steps.

        Raises:
            DivergedError: if the errors are not finite.
        """
        started = time.perf_counter()
        trainer = self.trainer()
        if self.args.should_save:
            Path(str(self.args.output_dir)).mkdir(parents=True, exist_ok=True)
        if self.trains:
            self._fit(trainer)
        seconds = time.perf_counter() - started
        keep_facts(trainer)
        eval_scores = self._scored(trainer, self.share.eval).scores
        if not math.isfinite(eval_scores["mse"]):
            raise DivergedError("the error on the evaluation part is not finite; lower `--learning_rate`")
        test = self._scored(trainer, self.share.test)
        self._save(trainer)
        return eval_scores, test, {"seconds": seconds, "steps": float(trainer.state.global_step)}

    def _fit(self, trainer: ForecastTrainer) -> None:
        """Train; the start is one of the checkpoints that are chosen from, so that no step is kept that did harm."""
        if not self.args.load_best_model_at_end:
            trainer.train()
            return
        model: Any = trainer.model
        start = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        before = self._scored(trainer, self.share.eval).scores["mse"]
        trainer.train()
        model = trainer.accelerator.unwrap_model(trainer.model)  # pyright: ignore[reportArgumentType]
        if before < self._scored(trainer, self.share.eval).scores["mse"]:
            model.load_state_dict(start)
            trainer.facts.strategy.append("No step lowered the error on the evaluation part: the start was kept.")

    def _scored(self, trainer: ForecastTrainer, windows: Any) -> Scored:
        model: Any = trainer.accelerator.unwrap_model(trainer.model)  # pyright: ignore[reportArgumentType]
        return score_windows(
            of_model(model.to(self.args.device), self.args.device),
            windows,
            self.share.processor,
            self.units,
            batch_size=self.args.per_device_eval_batch_size,
        )

    def _save(self, trainer: ForecastTrainer) -> None:
        """The model as an ordinary one, also where an adapter was trained."""
        model: Any = trainer.accelerator.unwrap_model(trainer.model)  # pyright: ignore[reportArgumentType]
        if not hasattr(model, "peft_config"):
            trainer.save_model()
            return
        if trainer.attachment is not None:
            trainer.attachment.detach()
        plain = plain_model(model)
        if self.args.should_save:
            plain.save_pretrained(str(self.args.output_dir))
            self.share.processor.save_pretrained(str(self.args.output_dir))
