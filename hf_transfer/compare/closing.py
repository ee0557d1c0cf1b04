"""The end of a comparison, on one process: the answer, the recommended model, the report, and what is removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from transformers.utils import logging

from hf_transfer.compare.answer import Answer, TableRow
from hf_transfer.compare.arguments import CompareLoopArguments
from hf_transfer.compare.cells import VALIDATION, CellResult, Predictions
from hf_transfer.compare.execution.store import CellStore
from hf_transfer.compare.explaining import confusion, feature_map, find_mistakes
from hf_transfer.compare.inputs import Inputs, name_of, word_of
from hf_transfer.compare.judging.tabulating import answer_of_runs, gains
from hf_transfer.compare.keeping import load_kept
from hf_transfer.compare.outcome import ComparisonResults, FeatureMap
from hf_transfer.compare.planning.budget import Clock, duration
from hf_transfer.compare.problem.problem import Problem
from hf_transfer.compare.report import write_report
from hf_transfer.compare.reproducing import command, loop_words
from hf_transfer.compare.strategies import Strategy
from hf_transfer.compare.winner import best_cell, clear_winner, keep_winner, tell_of_winner, trained_winner
from hf_transfer.hub import push_result
from hf_transfer.model_card.environment import device_name, versions
from hf_transfer.model_card.recipes import data_facts, write_run_card
from hf_transfer.trainer import TransferTrainer


logger = logging.get_logger(__name__)

__all__ = ["Closing"]


@dataclass
class Closing:
    """
    All that a comparison found, for its end.

    Args:
        problem (`Problem`): models and rows.
        strategies (`Mapping[str, Strategy]`): by name, in the order of the table.
        cells (`Sequence[CellResult]`): all runs, those of the learning curve too.
        store (`CellStore`): where they lie.
        rates (`Mapping[tuple[str, str], float]`): learning rates by label of the model and group.
        args (`CompareLoopArguments`): of the comparison.
        clock (`Clock`): how long it took.
        inputs (`Inputs`): what was given.
        options (`Mapping[str, Any]`): other words of the command line.
        own (`set[str]`): names of strategies that no command line knows.
        keep_models (`bool`): whether models of other runs stay.
        trust_remote_code (`bool`): whether to run code from models' repositories.
    """

    problem: Problem
    strategies: Mapping[str, Strategy]
    cells: Sequence[CellResult]
    store: CellStore
    rates: Mapping[tuple[str, str], float]
    args: CompareLoopArguments
    clock: Clock
    inputs: Inputs
    options: Mapping[str, Any]
    own: set[str] = field(default_factory=set)
    keep_models: bool = False
    trust_remote_code: bool = False

    def close(self) -> dict[str, Any]:
        """Answer, keep the winner, write the report, push; the results as JSON has them."""
        row = self._recommended
        trainer, kept = None, None
        if row is None:
            clear_winner(self.args)
        else:
            trainer, kept = self._keep(row)
        results = self._results(row)
        folder = self.store.folder
        if trainer is not None and row is not None and kept is not None:
            self._write_card(trainer, row, kept)
        self._drop(row)
        self.clock.save()
        results.seconds = self.clock.spent
        results.save(folder)
        write_report(results, folder)
        self._tell(results, trainer)
        if trainer is not None and self.args.push_to_hub:
            push_result(trainer, tasks=self.problem.task)
        return results.to_json()

    @cached_property
    def answer(self) -> Answer:
        """Table, recommendation, verdict and curve."""
        labels, names = [model.label for model in self.problem.models], list(self.strategies)
        return answer_of_runs(
            self.cells,
            self.store,
            self.strategies,
            label_names=self.problem.label_names,
            regression=self.problem.regression,
            commands={(model, name): self._command(model, name) for model in labels for name in names},
            seed=self.args.seed,
        )

    @property
    def _recommended(self) -> TableRow | None:
        chosen = self.answer.recommendation
        if chosen is None:
            return None
        return next(row for row in self.answer.rows if (row.model, row.strategy) == (chosen.model, chosen.strategy))

    def _command(self, model: str | None = None, strategy: str | None = None) -> str:
        """The command of all, or of one strategy; empty where something of it is in memory only."""
        models = [word_of(one) for one in _listed(self.inputs.models)]
        others = [self.inputs.data, self.inputs.target, self.inputs.teacher]
        given = [*models, *(word_of(one) for one in others if one is not None)]
        names = set(self.strategies) if strategy is None else {strategy}
        if None in given or names & self.own:
            return ""
        settings = {
            "model_name_or_path": models,
            "dataset_name": word_of(self.inputs.data),
            **self.options,
            **loop_words(self.args, self.inputs.data_args),
        }
        if model is None or strategy is None:
            return command(settings)
        if self.strategies[strategy].rate == "whole":
            # pilot runs of this strategy alone might find another
            settings["learning_rate"] = self.rates.get((model, "whole"))
        own = (model, strategy)
        done = {cell.key.seed for cell in self.cells if cell.finished and (cell.key.model, cell.key.strategy) == own}
        settings["seeds"] = len(done) if len(done) > 1 else None
        labels = [one.label for one in self.problem.models]
        return command(settings, strategy=strategy, model=models[labels.index(model)])

    def _keep(self, row: TableRow) -> tuple[TransferTrainer | None, CellResult]:
        """The winner in the output folder; without a trainer if it could not be had."""
        cell = self._best(row)
        strategy = self.strategies[row.strategy]
        rate = None if strategy.rate is None else self.rates.get((row.model, strategy.rate))
        folder, made = trained_winner(self.problem, strategy, cell, self.args, self.store, rate)
        if folder is None:
            clear_winner(self.args)
            logger.warning(f"No model is saved: training `{row.strategy}` once more failed ({made.reason}).")
            return None, made
        trainer = keep_winner(folder, self.problem, self.args, **self._loading(row))
        return trainer, replace(made, scores={**cell.scores, **made.scores})

    def _loading(self, row: TableRow) -> dict[str, Any]:
        """How a model of this row is loaded: adapters of a model in memory name no base."""
        base = next(base for base in self.problem.models if base.label == row.model)
        own = base.fresh(self._best(row).key.seed) if base.in_memory else None
        return {"trust_remote_code": self.trust_remote_code, "base_model": own}

    def _best(self, row: TableRow) -> CellResult:
        regression = self.problem.regression
        return best_cell(self.cells, self.store, row.model, row.strategy, regression=regression)

    def _write_card(self, trainer: TransferTrainer, row: TableRow, kept: CellResult) -> None:
        config = self.inputs.data_args.dataset_config_name
        data = [data_facts(name_of(self.inputs.data), self.problem.data, config=config)]
        if self.inputs.target is not None:
            data[0].role, data[0].labels_used = "source", True
            target = data_facts(name_of(self.inputs.target), self.problem.data, role="target", labels_used=False)
            target.splits = {**{name: n for name, n in target.splits.items() if name != "train"}}
            data[0].splits = {name: n for name, n in data[0].splits.items() if name == "train"}
            target.splits["train"] = len(self.problem.target or ())
            data.append(target)
        baselines = [name for name, strategy in self.strategies.items() if strategy.baseline]
        tell_of_winner(
            trainer.facts,
            self.answer,
            row,
            kept,
            self._runs_of(row),
            self.problem.metric,
            gains=gains(self.cells, self.store, (row.model, row.strategy), baselines, self.problem.regression),
            titles={name: strategy.label for name, strategy in self.strategies.items()},
        )
        trainer.facts.data = data
        trainer.facts.seconds, trainer.facts.device = kept.costs.seconds, device_name(self.args)
        write_run_card(trainer)

    def _results(self, row: TableRow | None) -> ComparisonResults:
        problem, args = self.problem, self.args
        said = [] if row is None or problem.regression else self._said(row)
        rows = problem.data.train if problem.by_folds else problem.data.eval
        found = ComparisonResults(
            task=problem.task,
            metric=problem.metric,
            label_names=list(problem.label_names),
            data={"name": name_of(self.inputs.data), **_named(self.inputs), **problem.describe()},
            settings=self._shared_settings(),
            answer=self.answer,
            cells=list(self.cells),
            strategies={
                name: {
                    "title": strategy.label,
                    "about": strategy.about,
                    "baseline": strategy.baseline,
                    "paper": strategy.paper,
                }
                for name, strategy in self.strategies.items()
            },
            confusion=confusion(said, len(problem.label_names)),
            mistakes=find_mistakes(said, rows, problem.label_names),
            features=None if row is None else self._map(row),
            environment={**versions(with_peft=True), "device": device_name(args)},
            command=self._command(),
            folder=self.store.folder,
        )
        return found

    def _shared_settings(self) -> dict[str, Any]:
        """What all runs have in common, for the report."""
        args = self.args
        long = {"max_steps": args.max_steps} if args.max_steps > 0 else {"num_train_epochs": args.num_train_epochs}
        return {
            **long,
            "per_device_train_batch_size": args.per_device_train_batch_size,
            "head_lr": args.head_lr,
            **loop_words(args, self.inputs.data_args),
            "seed": args.seed,
            "seeds": len({cell.key.seed for cell in self.cells}),
            "folds": self.inputs.folds,
            "budget": self.options.get("budget"),
            "rates": {f"{model}, {group}": rate for (model, group), rate in self.rates.items()},
        }

    def _said(self, row: TableRow) -> list[Predictions]:
        """What the recommended strategy says of validation rows, for each seed."""
        own = self._runs_of(row)
        return [said for cell in own if (said := self.store.predictions(cell.key, VALIDATION)) is not None]

    def _runs_of(self, row: TableRow) -> list[CellResult]:
        """Its finished runs, by seed."""
        cells = [cell for cell in self.cells if cell.finished and cell.key.share == 1.0]
        return [cell for cell in cells if (cell.key.model, cell.key.strategy) == (row.model, row.strategy)]

    def _map(self, row: TableRow) -> FeatureMap | None:
        """Features of validation rows in two dimensions; none of tokens and regressions, nor where it cannot be."""
        if self.problem.regression or self.problem.task == "token-classification":
            return None
        cell = self._best(row)
        setup = self.problem.setup(cell.key, self.args)
        folder = self.store.model_folder(cell.key)
        after = None
        if self.strategies[row.strategy].rate is not None and folder is not None:
            device = self.args.device
            after = load_kept(folder, self.problem.data, device, **self._loading(row))[0].to(device)
        try:
            size = self.args.per_device_eval_batch_size
            before = setup.fresh().to(self.args.device)
            return feature_map(before, after, setup.validation, setup.collate, batch_size=size)
        except (RuntimeError, ValueError) as error:
            logger.warning(f"The features cannot be shown: {type(error).__name__}: {error}")
            return None

    def _drop(self, row: TableRow | None) -> None:
        """Remove models that are not asked for; the winner's stays, so that another call need not train it again."""
        if self.keep_models:
            return
        best = None if row is None else self._best(row).key
        for cell in self.store.cells():
            if cell.key != best:
                self.store.drop_model(cell.key)

    def _tell(self, results: ComparisonResults, trainer: TransferTrainer | None) -> None:
        folder = self.store.folder
        chosen = self.answer.recommendation
        nothing = "Nothing is recommended: no strategy is better than the majority class. No model is saved."
        if not any(cell.finished and not self.strategies[cell.key.strategy].baseline for cell in self.cells):
            nothing = "Nothing is recommended: no strategy but the baselines came to an end. No model is saved."
        said = [] if chosen is not None else [nothing]
        said += [str(results), "", f"Report: {folder / 'report.html'}"]
        if trainer is not None:
            said.append(f"Model: {folder}")
        logger.info("\n".join([*said, f"It took {duration(results.seconds)}."]))


def _listed(given: Any) -> list[Any]:
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _named(inputs: Inputs) -> dict[str, str]:
    given = {"target": inputs.target, "teacher": inputs.teacher}
    return {f"{role}_name": name_of(one) for role, one in given.items() if one is not None}
