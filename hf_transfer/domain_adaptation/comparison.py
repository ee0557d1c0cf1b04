"""All methods on all seeds: runs that are missing are trained, the rest is taken from `results.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers.utils import logging

from hf_transfer.adapter_arguments import AdapterOptions
from hf_transfer.compare.results import Cell, Results, fingerprint
from hf_transfer.compare.runs import finite, loop_settings, shared, without_timings
from hf_transfer.domain_adaptation.arguments import AdaptationLoopArguments, DomainArguments
from hf_transfer.domain_adaptation.domains import Domains, load_domains
from hf_transfer.domain_adaptation.judging import domain_distance, largest_shares, validated
from hf_transfer.domain_adaptation.methods import TARGET_ORACLE, Method
from hf_transfer.domain_adaptation.outputs import save_outputs
from hf_transfer.domain_adaptation.training import OUTPUTS, Run
from hf_transfer.recipe_arguments import DataArguments, ModelArguments


logger = logging.get_logger(__name__)

START = "start"
"""Folder of the outputs of the untrained models."""

__all__ = ["START", "Comparison"]


class Comparison:
    """
    Every method of a recipe's arguments with every seed.

    Args:
        recipe (`DomainArguments`): domains, methods and seeds.
        model_args (`ModelArguments`): the model that all start from.
        data_args (`DataArguments`): how rows are chosen and prepared.
        args (`AdaptationLoopArguments`): the loop; a folder below its `output_dir` for each run.
        adapter (`AdapterOptions`, *optional*): the adapter that every run trains in place of the model.

    Raises:
        ValueError: if options or data do not fit, before anything is trained.
    """

    def __init__(
        self,
        recipe: DomainArguments,
        model_args: ModelArguments,
        data_args: DataArguments,
        args: AdaptationLoopArguments,
        *,
        adapter: AdapterOptions | None = None,
    ):
        self.recipe, self.model_args, self.data_args, self.args = recipe, model_args, data_args, args
        self.adapter = adapter or AdapterOptions()
        recipe.check(args)
        self.adapter.check_model(model_args)
        with args.main_process_first(desc="loading data"):
            self.domains = self._domains(args.seed)  # what does not fit must not cost a training first
        recipe.check_domains(self.domains)
        if len(recipe.runs) > 1:  # nor must what the last method cannot do
            for method in recipe.runs:
                own = args.for_run(str(args.output_dir), args.seed)
                Run(method, self.domains, model_args, own, adapter=self.adapter, weigh=False)
        self.task = self.domains.data.task
        self.cells: list[Cell] = []
        self._started: dict[int, dict[str, float]] = {}

    def _domains(self, seed: int) -> Domains:
        own = self.args.for_run(str(self.args.output_dir), seed)
        return load_domains(
            self.recipe.source_dataset,
            self.recipe.target_dataset,
            self.model_args,
            self.data_args,
            own,
            validation_rows=self.recipe.validation_rows,
            oracle=any(method.name == TARGET_ORACLE for method in self.recipe.runs),
        )

    def settings(self) -> dict[str, Any]:
        """What every run depends on beside its method and seed."""
        recipe = ("source_dataset", "target_dataset", "validation_rows", "validators", "diagnostics")
        return {
            **{name: getattr(self.recipe, name) for name in recipe},
            **vars(self.model_args),
            **vars(self.data_args),
            **self.adapter.settings(),
            **loop_settings(self.args),
        }

    def run(self) -> list[Cell]:
        """Train what is missing; all runs, by seed and method."""
        folder = Path(str(self.args.output_dir))
        results = None
        if self.args.should_save:
            results = Results(folder, self.settings(), resume=self.recipe.resume)
        domains: Domains | None = self.domains
        for seed in range(self.args.seed, self.args.seed + self.recipe.seeds):
            for method in self.recipe.runs:
                digest = fingerprint({"method": method.name, "parts": method.description()})
                cell = shared(results.found(method.name, seed, digest) if results is not None else None)
                if cell is not None:
                    logger.info(f"{method.name} with seed {seed} is finished: its scores are taken from results.json.")
                else:
                    if domains is None:
                        with self.args.main_process_first(desc="loading data"):
                            domains = self._domains(seed)
                    cell = shared(self._cell(method, seed, digest, domains))
                    if results is not None:
                        results.add(cell)
                self.cells.append(cell)
            domains = None  # another seed draws other rows
        return self.cells

    def _cell(self, method: Method, seed: int, digest: str, domains: Domains) -> Cell:
        name = f"{method.name}/seed_{seed}"
        folder = Path(str(self.args.output_dir)) / name
        logger.info(f"{method.name} with seed {seed}, in {folder}")
        own = self.args.for_run(str(folder), seed)
        if method.is_reference:
            own.resume_from_checkpoint = None
        if own.should_save:
            folder.mkdir(parents=True, exist_ok=True)
        run = Run(method, domains, self.model_args, own, adapter=self.adapter)
        diagnostics: dict[str, float] = {}
        if self.recipe.diagnostics:
            if seed not in self._started:
                self._started[seed] = self._start(run, seed)
            diagnostics |= self._started[seed]
        scores = run.train()
        if self.recipe.diagnostics:
            outputs = run.outputs()
            if own.should_save:
                save_outputs(outputs, folder / OUTPUTS)
            diagnostics |= domain_distance(outputs, seed=seed) | largest_shares(outputs)
        return Cell(
            method=method.name,
            seed=seed,
            fingerprint=digest,
            folder=name,
            scores=finite(without_timings(scores)),
            validators=finite(validated(run, self.recipe.validators)),
            diagnostics=finite(diagnostics),
        )

    def _start(self, run: Run, seed: int) -> dict[str, float]:
        """How far apart the domains are for the untrained model of a seed, from which all its runs start."""
        outputs = run.outputs()
        if self.args.should_save:
            folder = Path(str(self.args.output_dir)) / START
            folder.mkdir(exist_ok=True)
            save_outputs(outputs, folder / f"seed_{seed}.safetensors")
        return {f"{name}_before": value for name, value in domain_distance(outputs, seed=seed).items()}
