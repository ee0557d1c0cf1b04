"""All methods on all seeds: runs that are missing are trained, the rest is taken from `results.json`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

from datasets import Dataset
from torch import nn
from transformers import set_seed
from transformers.utils import logging

from hf_transfer.adapter_arguments import AdapterOptions
from hf_transfer.compare.results import Cell, Results, fingerprint
from hf_transfer.compare.runs import finite, loop_settings, shared, without_timings
from hf_transfer.distillation.arguments import DistillationArguments, DistillationLoopArguments
from hf_transfer.distillation.methods import Method
from hf_transfer.distillation.rows import Rows, load_data, prepare_rows
from hf_transfer.distillation.students import make_student
from hf_transfer.distillation.teaching import Teaching
from hf_transfer.distillation.training import Run
from hf_transfer.recipe_arguments import DataArguments
from hf_transfer.source import Source
from hf_transfer.teacher import Teacher
from hf_transfer.teacher.cache import cache_teacher


logger = logging.get_logger(__name__)

# options of the recipe that every run depends on
_RELEVANT = (
    *("teacher_name_or_path", "teacher_revision", "train_teacher", "teacher_learning_rate", "teacher_epochs"),
    *("student_blocks", "student_name_or_path", "student_revision", "student_from_scratch", "student_config"),
    *("student_tokenizer", "dataset_name", "unlabelled_dataset"),
)

__all__ = ["Comparison"]


class Comparison:
    """
    The student of a recipe's arguments alone and by every method, with every seed.

    Args:
        recipe (`DistillationArguments`): teacher, student, methods and seeds.
        data_args (`DataArguments`): how rows are chosen and prepared.
        args (`DistillationLoopArguments`): the loop; a folder below its `output_dir` for each run.
        adapter (`AdapterOptions`, *optional*): the adapter of the student to train in place of the student.

    Raises:
        ValueError: if options, models or data do not fit, before anything is trained.
    """

    def __init__(
        self,
        recipe: DistillationArguments,
        data_args: DataArguments,
        args: DistillationLoopArguments,
        *,
        adapter: AdapterOptions | None = None,
    ):
        self.recipe, self.data_args, self.args = recipe, data_args, args
        self.adapter = adapter or AdapterOptions()
        recipe.check(args)
        recipe.check_adapter(self.adapter)
        with args.main_process_first(desc="loading data"):
            self.data, self.unlabelled = load_data(recipe, data_args, args.seed)
        args.choose_by_score(self.data.task)
        args.check_metric(self.data.task)
        self.teaching = Teaching(recipe, self.data, data_args, args)
        self.teacher_model, self.teacher_processor = self.teaching.draft()
        student, self.processor = self.student(args.seed)
        self._try(student)
        self.cells: list[Cell] = []
        self.taught: Cell | None = None
        """What the teacher scores, once it is there."""

    def student(self, seed: int) -> tuple[nn.Module, Any]:
        """The student that all runs of a seed start from, and its processor."""
        set_seed(seed)
        student, processor = make_student(self.recipe, self.data, self.teacher_model, self.teacher_processor)
        return self.adapter.add_to(student), processor

    def _try(self, student: nn.Module) -> None:
        """Build every run once with the teacher as it is: what does not fit must not cost a training first."""
        rows, source = self._rows(), self._source()
        for method in self.recipe.runs:
            self._run(method, rows, source, student, self.args.seed, "")
            student, _ = self.student(self.args.seed)

    def _rows(self, source: Source | None = None) -> Rows:
        """Rows for the student, with what the teacher `source` says of them where it is to be asked now."""
        ask = None
        if source is not None and self._caches:
            source.model.to(self.args.device)
            ask = partial(
                cache_teacher,
                source,
                processor=self.teacher_processor,
                features=self.data.task != "token-classification",  # there they are many
                batch_size=self.args.per_device_train_batch_size,  # kernels then round as in training
                max_length=self.data_args.max_length,
                progress=not self.args.disable_tqdm,
            )
        if ask is not None:
            return self._prepared(lambda split: ask(dataset=split))
        with self.args.main_process_first(desc="preparing rows"):
            return self._prepared(None)

    def _prepared(self, ask: Callable[[Dataset], Dataset] | None) -> Rows:
        own = self.teacher_processor
        return prepare_rows(self.data, self.unlabelled, self.processor, self.data_args, teacher_processor=own, ask=ask)

    @property
    def _caches(self) -> bool:
        """Whether what the teacher says is kept on disk."""
        return (
            self.recipe.cache_teacher
            and self.data_args.augmentation == "none"
            and any(method.asks_teacher for method in self.recipe.runs)
        )

    def _source(self) -> Source:
        """The teacher's model for all runs, with eager attention where one of them reads its maps."""
        if any(method.reads_maps for method in self.recipe.runs):
            cast(Any, self.teacher_model).set_attn_implementation("eager")
        return Source(self.teacher_model)

    def _run(self, method: Method, rows: Rows, source: Source, student: nn.Module, seed: int, name: str) -> Run:
        own = self.args.for_run(str(Path(str(self.args.output_dir)) / name), seed)
        if method.reads_maps:
            cast(Any, student).set_attn_implementation("eager")
        other = self.processor is not self.teacher_processor
        processors = {"processor": self.teacher_processor, "student_processor": self.processor} if other else {}
        # each has one of its own: another method may have asked it for more
        return Run(method, self.data, rows, Teacher(source, **processors), student, self.processor, own)

    def settings(self) -> dict[str, Any]:
        """What every run depends on beside its method and seed."""
        recipe = {name: getattr(self.recipe, name) for name in _RELEVANT}
        return {
            **recipe,
            **vars(self.data_args),
            **self.adapter.settings(),
            **loop_settings(self.args),
            "data_seed": self.args.seed,
        }

    def run(self) -> list[Cell]:
        """Train what is missing, the teacher first; all runs of students, by seed and method."""
        results = None
        if self.args.should_save:
            results = Results(str(self.args.output_dir), self.settings(), resume=self.recipe.resume)
        self.teacher_model, self.taught = self.teaching.teach()
        source, rows = self._source(), None
        for seed in range(self.args.seed, self.args.seed + self.recipe.seeds):
            for method in self.recipe.runs:
                digest = fingerprint({"method": method.name, "parts": method.description()})
                cell = shared(results.found(method.name, seed, digest) if results is not None else None)
                if cell is not None:
                    logger.info(f"{method.name} with seed {seed} is finished: its scores are taken from results.json.")
                else:
                    rows = rows or self._rows(source)
                    cell = shared(self._cell(method, seed, digest, rows, source))
                    if results is not None:
                        results.add(cell)
                self.cells.append(cell)
        return self.cells

    def _cell(self, method: Method, seed: int, digest: str, rows: Rows, source: Source) -> Cell:
        name = f"{method.name}/seed_{seed}"
        logger.info(f"{method.name} with seed {seed}, in {Path(str(self.args.output_dir)) / name}")
        if self.args.should_save:
            (Path(str(self.args.output_dir)) / name).mkdir(parents=True, exist_ok=True)
        student, _ = self.student(seed)
        scores = self._run(method, rows, source, student, seed, name).train()
        return Cell(method.name, seed, digest, name, finite(without_timings(scores)))
