"""Hyper-parameter search over the choices that matter on little data, through `Trainer.hyperparameter_search`."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from accelerate.utils import broadcast_object_list
from transformers import Trainer
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import SaveStrategy

from hf_transfer.files import whole_file
from hf_transfer.search_space import apply_settings, search_space


if TYPE_CHECKING:
    import optuna


__all__ = ["SearchResult", "Trial", "apply_settings", "search", "search_space"]


@dataclass(frozen=True)
class Trial:
    """
    One run of a search.

    Args:
        number (`int`): its number.
        settings (`dict[str, Any]`): its settings, as recipe options; empty where the trial failed before it had any.
        score (`float`, *optional*): its validation metric; `None` where it failed or was stopped early.
        state (`str`): `"complete"`, `"pruned"` or `"fail"`.
        error (`str`, *optional*): what a failed trial said.
    """

    number: int
    settings: dict[str, Any]
    score: float | None
    state: str
    error: str | None = None


@dataclass(frozen=True)
class SearchResult:
    """
    What a search found.

    Args:
        settings (`dict[str, Any]`): the best trial's settings, as recipe options: write them to a YAML file with
            [`to_yaml`][SearchResult.to_yaml], or put them into effect with [`apply_settings`].
        score (`float`): its validation metric.
        metric (`str`): name of the metric.
        trials (`tuple[Trial, ...]`): all trials, in their order; on the main process only.
    """

    settings: dict[str, Any]
    score: float
    metric: str
    trials: tuple[Trial, ...]

    def to_yaml(self, path: str | os.PathLike[str] | None = None) -> str:
        """The settings as YAML that `--config` reads; also written to `path` where one is given."""
        import yaml

        text = yaml.safe_dump(self.settings, sort_keys=False)
        if path is not None:
            with whole_file(path) as unfinished:
                unfinished.write_text(text, encoding="utf-8")
        return text


def search(
    trainer: Trainer,
    trials: int,
    *,
    space: Callable[[optuna.Trial], dict[str, Any]] = search_space,
    metric: str | None = None,
    greater_is_better: bool | None = None,
    seed: int = 0,
    prune: bool = False,
    timeout: float | None = None,
) -> SearchResult:
    """
    Search the settings with the best validation metric, with Optuna's TPE sampler.

    Each trial is a whole training of a fresh model from `model_init`, with the same seed. Its score is the metric of
    the best evaluation if the trainer keeps the best checkpoint (`load_best_model_at_end`), else that of the last one;
    nothing but the trainer's `eval_dataset` is looked at. Trials write no checkpoints. Afterwards arguments, callbacks
    and weights are as they were, and the trainer has no model until its next `train()` makes one.

    Args:
        trainer (`Trainer`):
            A `TransferTrainer` (or a stock `Trainer`, with a `space` of its arguments only) with `model_init`.
        trials (`int`):
            Number of trials; the first ten are random.
        space (`Callable`, *optional*, defaults to [`search_space`]):
            Settings of a trial; `functools.partial(search_space, stages=None, weights={"l2sp": (1e-4, 0.1)})`.
        metric (`str`, *optional*):
            Name of the validation metric; by default `metric_for_best_model`, or else the loss.
        greater_is_better (`bool`, *optional*):
            Its direction; by default that of the arguments, or that a name ending in `loss` is to fall.
        seed (`int`, *optional*, defaults to 0):
            Seed of the sampler: the same search proposes the same trials.
        prune (`bool`, *optional*, defaults to `False`):
            Stop trials whose metric is worse than the median of the earlier ones at the same step.
        timeout (`float`, *optional*):
            Start no further trial after this many seconds.

    Raises:
        ImportError: without Optuna.
        KeyError: if the evaluation does not report the metric.
        ValueError: if there is no `model_init` or no validation data; if every trial failed. A single trial that
            raises a `ValueError` (more stages than blocks) is recorded as failed, and the others go on.

    Relations:
        With few validation rows the best of many trials is partly luck: confirm it over seeds, with [`summarise`].
        [`lr_find`] is cheaper where only the rate is in question.

    Paper: Akiba et al., "Optuna: A Next-generation Hyperparameter Optimization Framework", KDD 2019, https://huggingface.co/papers/1907.10902
    """
    _check(trainer, trials, prune)
    import optuna

    metric = metric or trainer.args.metric_for_best_model or "loss"
    key = metric if metric.startswith("eval_") else f"eval_{metric}"
    if greater_is_better is None:
        told = trainer.args.greater_is_better if metric == trainer.args.metric_for_best_model else None
        greater_is_better = told if told is not None else not metric.endswith("loss")
    run = _Run(trainer, space, key, greater_is_better, best=trainer.args.load_best_model_at_end)
    storage = optuna.storages.InMemoryStorage()
    found = None
    try:
        with run.in_charge():
            found = trainer.hyperparameter_search(
                hp_space=run.propose,
                compute_objective=run.score,
                n_trials=trials,
                direction="maximize" if greater_is_better else "minimize",
                backend="optuna",
                sampler=optuna.samplers.TPESampler(seed=seed),
                # by default a study prunes
                pruner=optuna.pruners.MedianPruner() if prune else optuna.pruners.NopPruner(),
                storage=storage,
                study_name="search",
                catch=(ValueError,),
                timeout=timeout,
            )
    except ValueError:
        if not run.all_failed:  # then it is Optuna, which finds no best trial
            raise
    if run.all_failed:
        raise ValueError(
            f"All {len(run.errors)} trials failed, the last one with: {[*run.errors.values()][-1]} No settings can be "
            "recommended. Train once without the search until that works, and narrow `space` to what the model takes."
        )
    result: Any = None
    if found is not None:
        study = optuna.load_study(study_name="search", storage=storage)
        best = study.best_trial
        rows = tuple(run.trial(frozen) for frozen in study.get_trials(deepcopy=False))
        result = SearchResult(run.proposed[best.number], float(best.values[0]), metric, rows)
    # the other ranks have followed without a study
    return broadcast_object_list([result], from_process=0)[0]


def _check(trainer: Trainer, trials: int, prune: bool) -> None:
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "`search` needs Optuna, which is not installed: there is nothing to propose settings. Run `pip install "
            "optuna`."
        ) from error
    if trials < 1:
        raise ValueError(
            f"`trials={trials}` runs nothing: there would be no settings to choose from. Give at least 1."
        )
    if trainer.model_init is None:
        raise ValueError(
            "The trainer has a model but no `model_init`: the second trial would go on from what the first has "
            "learned. Pass a function that makes the model, `model_init=lambda: load_model(...)`, in place of `model`."
        )
    if trainer.eval_dataset is None:
        raise ValueError(
            "The trainer has no validation data: settings chosen by the training loss are those that overfit most. "
            "Pass `eval_dataset`, with rows held out from training (in the recipe `--validation_fraction 0.2`)."
        )
    if prune and trainer.args.world_size > 1:
        raise ValueError(
            f"`prune=True` on {trainer.args.world_size} ranks: only the first would stop a trial (transformers 5.23), "
            "and wait for the others for ever. Leave it off, or search on one device."
        )


# what the Trainer adds to the metrics of an evaluation
_NO_SCORES = ("runtime", "per_second", "epoch", "preparation_time")


class _Run:
    """The search as the trainer sees it: begins each trial, scores its evaluations, and keeps its errors."""

    def __init__(
        self,
        trainer: Trainer,
        space: Callable[[optuna.Trial], dict[str, Any]],
        key: str,
        greater_is_better: bool,
        *,
        best: bool,
    ):
        self.trainer: Any = trainer
        self.space, self.key, self.best = space, key, best
        self.sign = 1.0 if greater_is_better else -1.0
        self.proposed: dict[int, dict[str, Any]] = {}
        self.errors: dict[int, str] = {}
        self._so_far = math.nan
        # callbacks with a state of their own, such as the patience of early stopping, start anew with each trial
        self._states = [(c, c.state()) for c in self._callbacks if isinstance(c, ExportableState)]

    @property
    def _callbacks(self) -> list[Any]:
        return self.trainer.callback_handler.callbacks

    @property
    def all_failed(self) -> bool:
        return bool(self.errors) and len(self.errors) == len(self.proposed)

    @contextmanager
    def in_charge(self) -> Iterator[None]:
        """Let the trainer's `train` begin trials, without checkpoints; afterwards it is as it was."""
        args, callbacks = self.trainer.args, list(self._callbacks)
        options = dict(vars(args))
        objectives = getattr(self.trainer, "objectives", {})
        weights = {name: objective.weight for name, objective in objectives.items()}
        self.trainer.train = self._train
        args.save_strategy, args.load_best_model_at_end = SaveStrategy.NO, False
        try:
            yield
        finally:
            del self.trainer.train
            vars(args).clear()
            vars(args).update(options)
            self._callbacks[:] = callbacks
            self._reset_callbacks()
            for name, objective in objectives.items():
                objective.weight = weights[name]
            self.trainer.hp_search_backend = None

    def propose(self, trial: optuna.Trial) -> dict[str, Any]:
        """Note a trial's settings. Nothing is left for the Trainer to set: it would cast a None to text."""
        self.proposed[trial.number] = self.space(trial)
        return {}

    def _train(self, resume_from_checkpoint: Any = None, trial: Any = None, **kwargs: Any) -> Any:
        self._so_far = math.nan
        self._reset_callbacks()
        self.propose(trial)  # again on the main process, where it gives the same; for the first time on the others
        try:
            apply_settings(self.trainer, self.proposed[trial.number])
            return type(self.trainer).train(self.trainer, resume_from_checkpoint, trial, **kwargs)
        except ValueError as error:
            self.errors[trial.number] = str(error)
            if self.trainer.args.process_index == 0:
                raise
            # Optuna catches it on the main process only; bad settings fail alike on all ranks
            self.trainer.objective = math.nan

    def _reset_callbacks(self) -> None:
        for callback, state in self._states:
            fresh = type(callback).from_state(state)
            vars(callback).clear()
            vars(callback).update(vars(fresh))

    def score(self, metrics: dict[str, float]) -> float:
        """The metric so far: the best of the trial where its best checkpoint would be kept."""
        if self.key not in metrics:
            told = (name.removeprefix("eval_") for name in sorted(metrics) if not name.endswith(_NO_SCORES))
            raise KeyError(
                f"`metric={self.key.removeprefix('eval_')}` is not reported by the evaluation: trials could not be "
                f"compared. Choose from {', '.join(told)}, or return it from `compute_metrics`."
            )
        value = metrics[self.key]
        if not self.best or math.isnan(self._so_far) or self.sign * value > self.sign * self._so_far:
            self._so_far = value
        return self._so_far

    def trial(self, frozen: optuna.trial.FrozenTrial) -> Trial:
        """A trial as the result shows it."""
        state = frozen.state.name.lower()
        score = frozen.value if state == "complete" else None
        return Trial(frozen.number, self.proposed.get(frozen.number, {}), score, state, self.errors.get(frozen.number))
