"""All strategies on shares of a target series with several seeds: what is missing is trained, the rest is kept."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from transformers.utils import logging

from hf_transfer.anatomy import anatomy
from hf_transfer.compare.execution.failures import reason_of
from hf_transfer.compare.results import Cell, Results, fingerprint
from hf_transfer.compare.runs import finite, loop_settings, shared
from hf_transfer.features.cache.digests import weights_digest
from hf_transfer.files import whole_file
from hf_transfer.model_card.naming import public_name
from hf_transfer.time_series.arguments import ForecasterArguments, SeriesArguments, SeriesLoopArguments
from hf_transfer.time_series.baselines import Baseline, LinearForecast, naive, seasonal_naive
from hf_transfer.time_series.models import load_forecaster, new_forecaster
from hf_transfer.time_series.pretraining import pretrain
from hf_transfer.time_series.reading import read_series
from hf_transfer.time_series.running import Run
from hf_transfer.time_series.scored import FILE, Scored, load_scored, of_baseline, save_scored, score_windows
from hf_transfer.time_series.series import Series, seasonal_period
from hf_transfer.time_series.share import Share, before, shares_of, units_of
from hf_transfer.time_series.strategies import BASELINES, STRATEGIES, UNTRANSFERRED, ZERO_SHOT


logger = logging.get_logger(__name__)

PRETRAINED = "pretrained"
"""Folder of the model that is pretrained here."""

_KEPT = "source.json"

__all__ = ["PRETRAINED", "Failure", "SeriesComparison", "data_digest", "key_of"]


@dataclass(frozen=True)
class Failure:
    """
    A run that came to nothing.

    Args:
        strategy (`str`): its name.
        share (`float`): of the training rows.
        seed (`int`): its seed.
        reason (`str`): in one line that may stand in a report.
    """

    strategy: str
    share: float
    seed: int
    reason: str


class SeriesComparison:
    """
    The strategies of a recipe's arguments on every share of the target series, beside its baselines.

    Args:
        recipe (`SeriesArguments`): series, shares and strategies.
        model_args (`ForecasterArguments`): what is transferred, or how it is pretrained.
        args (`SeriesLoopArguments`): the loop; a folder below its `output_dir` for each run.

    Raises:
        ValueError: if options or series do not fit, before anything is trained.
    """

    def __init__(self, recipe: SeriesArguments, model_args: ForecasterArguments, args: SeriesLoopArguments):
        recipe.check(model_args, args)
        self.recipe, self.model_args, self.args = recipe, model_args, args
        with args.main_process_first(desc="reading series"):
            read = partial(read_series, gaps=recipe.gaps)
            self.target, self.report = read(
                recipe.target_series, date_column=recipe.date_column, channels=recipe.channels
            )
            sources = [read(name)[0] for name in recipe.source_series]
        shape = {"context_length": recipe.context_length, "prediction_length": recipe.prediction_length}
        self.shares = shares_of(self.target, recipe.few, **shape, lengths=recipe.lengths)
        whole = shares_of(self.target, [1.0], **shape, lengths=recipe.lengths)[1.0]
        self.season = recipe.season or seasonal_period(self.target)
        self.units = units_of(self.target, whole.parts.known, self.season)
        moment = self.target.dates[whole.parts.test.start]
        known = self.target.dated
        self.sources = [before(source, moment) if known and source.dated else source for source in sources]
        self.folder = Path(str(args.output_dir))
        self.cells: list[Cell] = []
        self.failures: list[Failure] = []
        self.head_is_new = True
        self.transferred = ""
        self.source_digest: str | None = None
        if model_args.model_name_or_path is not None:
            self._load(model_args.model_name_or_path)  # what does not fit must not cost a baseline first
            head = [anatomy(self.start).head] if self.head_is_new else []  # a new one is random, and drawn by each run
            self.source_digest = weights_digest(self.start, without=head)

    @property
    def baselines(self) -> list[str]:
        """Those that say something: seasonal naive only where a season is longer than a row and within the context."""
        seasonal = 1 < self.season <= self.recipe.context_length
        return [name for name in BASELINES if seasonal or name != "seasonal_naive"]

    @property
    def strategies(self) -> list[str]:
        """The strategies, with `zero_shot` where the pretrained model has a head for this horizon."""
        zero_shot = [] if self.head_is_new else [ZERO_SHOT]
        return [*UNTRANSFERRED, *zero_shot, *(name for name in self.recipe.strategies if name not in UNTRANSFERRED)]

    @property
    def fixed(self) -> list[str]:
        """What comes out the same with every seed, and is run once."""
        drawn_nothing = [name for name, own in STRATEGIES.items() if own.pretrained and not own.trains]
        return [*self.baselines, ZERO_SHOT, *drawn_nothing]

    def settings(self) -> dict[str, Any]:
        """What every run depends on beside its strategy, share and seed."""
        recipe = ("context_length", "prediction_length", "split_lengths", "gaps", "channels", "date_column")
        model = {name: value for name, value in vars(self.model_args).items() if name != "model_name_or_path"}
        return {
            **{name: getattr(self.recipe, name) for name in recipe},
            **{name: getattr(self.recipe, name) for name in ("pretrained_lr", "early_stopping_patience")},
            "season": self.season,
            "target": data_digest(self.target),
            "sources": [data_digest(source) for source in self.sources],
            "model": public_name(self.model_args.model_name_or_path)[0],
            "model_digest": self.source_digest,
            **model,
            **loop_settings(self.args),
        }

    def run(self) -> list[Cell]:
        """Pretrain and train what is missing; all finished runs, by share, strategy and seed."""
        results = None
        if self.args.should_save:
            results = Results(self.folder, self.settings(), resume=self.recipe.resume)
        if self.recipe.source_series:
            self._load(self._pretrained())
        elif self.model_args.model_name_or_path is None:
            self.start = new_forecaster(**self.shape, **self._build)
        for share in self.shares.values():
            for name in self.baselines:
                self._add(
                    results, name, share, self.args.seed, lambda name=name, share=share: self._baseline(name, share)
                )
            for number in range(self.recipe.seeds):
                seed = self.args.seed + number
                for name in self.strategies:
                    if number and name in self.fixed:
                        continue
                    make = partial(self._trained, name, share, seed)
                    self._add(results, name, share, seed, make)
        self.cells.sort(key=lambda cell: cell.seed)
        return self.cells

    def scored(self, cell: Cell) -> Scored:
        """The errors of a finished run on the test part."""
        scores = {name[5:]: value for name, value in cell.scores.items() if name.startswith("test_")}
        return load_scored(self.folder / cell.folder, {k: v for k, v in scores.items() if v is not None})

    def of(self, strategy: str, share: float) -> list[Cell]:
        """The finished runs of a strategy or baseline on a share, by seed."""
        return [cell for cell in self.cells if cell.method == key_of(strategy, share)]

    def rerun(self, strategy: str, share: Share, seed: int) -> Run:
        """A run as it was started; nothing is trained yet."""
        return Run(
            strategy,
            self.recipe,
            share,
            self.start,
            self.units,
            self.args.for_run(str(self.folder / _folder(strategy, share.share, seed)), seed),
            head_is_new=self.head_is_new,
        )

    def _add(
        self, results: Results | None, name: str, share: Share, seed: int, make: Callable[[], tuple[Any, Any, Any]]
    ) -> None:
        key = key_of(name, share.share)
        digest = fingerprint({"run": key, **self._own(name)})
        cell = shared(None if results is None else self._finished(results, key, name, seed, digest))
        if cell is None:
            try:
                eval_scores, test, extra = make()
            except Exception as error:
                if self.args.world_size > 1:  # the other ranks may be waiting within a step
                    raise
                reason = reason_of(error)
                logger.warning(f"{key} with seed {seed} failed: {reason}")
                self.failures.append(Failure(name, share.share, seed, reason))
                return
            folder = _folder(name, share.share, seed)
            scores = {f"eval_{own}": value for own, value in eval_scores.items()}
            scores |= {f"test_{own}": value for own, value in test.scores.items()}
            cell = Cell(key, seed, digest, folder, finite(scores), {}, finite(extra))
            if results is not None:
                save_scored(test, self.folder / folder)
                results.add(cell)
            cell = shared(cell)
        else:
            logger.info(f"{key} with seed {seed} is finished: its scores are taken from results.json.")
        self.cells.append(cell)

    def _finished(self, results: Results, key: str, name: str, seed: int, digest: str) -> Cell | None:
        cell = results.found(key, seed)
        if cell is None or cell.fingerprint != digest or not (self.folder / cell.folder / FILE).is_file():
            return None
        return cell if name in BASELINES or (self.folder / cell.folder / "config.json").is_file() else None

    def _own(self, name: str) -> dict[str, Any]:
        """Options that one strategy alone depends on."""
        options = {"gradual": "stages", "lora": "lora_rank", "l2sp": "l2sp_weight"}
        return {options[name]: getattr(self.recipe, options[name])} if name in options else {}

    def _baseline(self, name: str, share: Share) -> tuple[dict[str, float], Scored, dict[str, float]]:
        started = time.perf_counter()
        forecast = self.baseline(name, share)
        found = [
            score_windows(of_baseline(forecast, self.recipe.prediction_length), windows, share.processor, self.units)
            for windows in (share.eval, share.test)
        ]
        return found[0].scores, found[1], {"seconds": time.perf_counter() - started}

    def baseline(self, name: str, share: Share) -> Baseline:
        """A baseline, fitted on a share where there is anything to fit."""
        if name == "linear":
            return LinearForecast.fitted(share.train, share.eval)
        return naive if name == "naive" else seasonal_naive(self.season)

    def _trained(self, name: str, share: Share, seed: int) -> tuple[dict[str, float], Scored, dict[str, float]]:
        run = self.rerun(name, share, seed)
        logger.info(f"{key_of(name, share.share)} with seed {seed}, in {run.args.output_dir}")
        return run.train()

    @property
    def shape(self) -> dict[str, Any]:
        """Channels, context and horizon of every model."""
        return {
            "channels": len(self.target.channels),
            "context_length": self.recipe.context_length,
            "prediction_length": self.recipe.prediction_length,
        }

    @property
    def _build(self) -> dict[str, Any]:
        own = self.model_args
        return {"kind": own.kind, "size": own.size, "overrides": own.config_overrides}

    def _load(self, name: str | Path) -> None:
        own = self.model_args
        here = own.model_name_or_path is None
        self.start, report = load_forecaster(
            name,
            **self.shape,
            interpolate_positions=own.interpolate_positions,
            revision="main" if here else own.model_revision,
        )
        self.head_is_new = any(entry.part == "head" for entry in report.skipped)
        head = "a new head" if self.head_is_new else "its own head"
        self.transferred = f"{len(report.copied) + len(report.resized)} tensors are taken from the source, with {head}"
        logger.info(f"{self.transferred[0].upper()}{self.transferred[1:]}.")

    def _pretrained(self) -> Path:
        """The folder of the model that is pretrained on the sources, now or in an earlier run."""
        own, folder = self.model_args, self.folder / PRETRAINED
        supervised = own.pretraining == "supervised"
        options: dict[str, Any] = {
            **self._build,
            "mode": own.pretraining,
            "context_length": self.recipe.context_length,
            **({"prediction_length": self.recipe.prediction_length} if supervised else {}),
        }
        loop = {name: value for name, value in vars(own).items() if name.startswith("pretraining_")}
        digest = fingerprint(
            {**options, **loop, "seed": self.args.seed, "sources": [data_digest(source) for source in self.sources]}
        )
        kept = folder / _KEPT
        there = kept.is_file() and json.loads(kept.read_text(encoding="utf-8"))["fingerprint"] == digest
        if shared(there and self.recipe.resume and (folder / "config.json").is_file()):
            logger.info(f"The pretrained model in {folder} is taken as it is.")
            return folder
        args = self.args.for_run(str(folder), self.args.seed)
        args.num_train_epochs, args.max_steps = own.pretraining_epochs, own.pretraining_steps
        args.learning_rate = own.pretraining_lr
        if args.load_best_model_at_end:
            args.eval_strategy, args.save_strategy = IntervalStrategy.EPOCH, SaveStrategy.EPOCH
        args.logging_strategy = IntervalStrategy.EPOCH
        pretrain(self.sources, args, **options)
        if self.args.should_save:
            with whole_file(kept) as unfinished:
                unfinished.write_text(json.dumps({"fingerprint": digest}), encoding="utf-8")
        return folder


def key_of(strategy: str, share: float) -> str:
    """
    What the runs of a strategy on a share are called in results.json.

    Example:
        >>> key_of("full", 0.05), key_of("full", 1.0)
        ('full@0.05', 'full@1')
    """
    return f"{strategy}@{share:g}"


def _folder(strategy: str, share: float, seed: int) -> str:
    return f"few_{share:g}/{strategy}" + ("" if strategy in BASELINES else f"/seed_{seed}")


def data_digest(series: Series) -> dict[str, str]:
    """What a series holds, so that a changed file is other data; its name without the folder."""
    values = np.ascontiguousarray(series.values)
    digest = hashlib.sha256(values.tobytes() + series.dates.tobytes()).hexdigest()[:16]
    return {"name": str(public_name(series.name)[0]), "digest": digest}
