"""The teacher of a recipe: taken as it is, or fine-tuned first and found again by the next run."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoConfig
from transformers.utils import logging

from hf_transfer.compare.results import Cell, Results, fingerprint
from hf_transfer.compare.runs import finite, loop_settings, shared, without_timings
from hf_transfer.data.loading import TransferData
from hf_transfer.data.preparation import collator_for, prepare
from hf_transfer.distillation.arguments import DistillationArguments, DistillationLoopArguments
from hf_transfer.distillation.classes import matching, take_classes
from hf_transfer.distillation.methods import TEACHER
from hf_transfer.fine_tuning import FineTuning
from hf_transfer.method_arguments import MethodArguments
from hf_transfer.metrics import compute_metrics_for
from hf_transfer.models import AUTO_MODELS, load_processor, resolve_name
from hf_transfer.recipe import score
from hf_transfer.recipe_arguments import DataArguments
from hf_transfer.trainer import TransferTrainer


logger = logging.get_logger(__name__)

__all__ = ["Teaching"]


class Teaching:
    """
    How the teacher of a recipe comes about.

    Args:
        recipe (`DistillationArguments`): which teacher, and whether it is fine-tuned first.
        data (`TransferData`): what the students are trained on, with rows held out to validate.
        data_args (`DataArguments`): how rows are chosen and prepared.
        args (`DistillationLoopArguments`): the loop, of which the teacher has a copy with rates of its own.

    Raises:
        ValueError: if its classes are not those of the data and it is not to be fine-tuned.
        OSError: if there is no such model.
    """

    def __init__(
        self,
        recipe: DistillationArguments,
        data: TransferData,
        data_args: DataArguments,
        args: DistillationLoopArguments,
    ):
        self.recipe, self.data, self.data_args, self.args = recipe, data, data_args, args
        self.folder = Path(str(args.output_dir)) / TEACHER
        self.reason = self._reason()
        """Why it is fine-tuned first; `None` if it is taken as it is."""

    def _reason(self) -> str | None:
        if self.recipe.train_teacher != "auto":
            return "`--train_teacher true`" if self.recipe.train_teacher == "true" else None
        name, data = self.recipe.teacher_name_or_path, self.data
        config = AutoConfig.from_pretrained(resolve_name(name), **self._options)
        kind = AUTO_MODELS[data.task].__name__.removeprefix("AutoModel")
        if not any(kind in str(architecture) for architecture in config.architectures or ()):
            return f"its checkpoint has no head for {data.task}"
        if config.num_labels != data.num_labels:
            return f"it has {config.num_labels} outputs, the data asks for {data.num_labels}"
        try:
            matching(config, data)
        except ValueError:
            return "its classes are not those of the data"
        return None

    @property
    def _options(self) -> dict[str, Any]:
        return {"revision": self.recipe.teacher_revision, "trust_remote_code": self.recipe.trust_remote_code}

    def draft(self) -> tuple[nn.Module, Any]:
        """The teacher's model before any training, to try what it is used for, and its processor."""
        if self.reason is not None:
            return self.recipe.teacher.load(self.data)
        name = self.recipe.teacher_name_or_path
        processor = load_processor(name, self.data, **self._options)
        return self._load(name, self._options), processor

    def teach(self) -> tuple[nn.Module, Cell]:
        """The teacher's model, fine-tuned unless it is taken as it is, and what it scores."""
        if self.reason is not None:
            cell = self._fine_tuned()
            trust = {"trust_remote_code": self.recipe.trust_remote_code}
            return self._load(str(self.folder), trust), cell
        logger.info(f"The teacher {self.recipe.teacher_name_or_path} is taken as it is.")
        model, processor = self.draft()
        return model, self._scored(model, processor)

    def _load(self, name: str, options: Mapping[str, Any]) -> nn.Module:
        model = AUTO_MODELS[self.data.task].from_pretrained(resolve_name(name), **options)
        return take_classes(model, self.data)

    def _loop(self) -> DistillationLoopArguments:
        own = self.args.for_run(str(self.folder), self.args.seed)
        if self.recipe.teacher_learning_rate is not None:
            own.learning_rate = self.recipe.teacher_learning_rate
        if self.recipe.teacher_epochs is not None:
            own.num_train_epochs, own.max_steps = self.recipe.teacher_epochs, -1
        return own

    def _settings(self, own: DistillationLoopArguments) -> dict[str, Any]:
        names = ("teacher_name_or_path", "teacher_revision", "dataset_name")
        recipe = {name: getattr(self.recipe, name) for name in names}
        return {**recipe, **vars(self.data_args), **loop_settings(own), "seed": own.seed}

    def _fine_tuned(self) -> Cell:
        own = self._loop()
        results = None
        if own.should_save:
            self.folder.mkdir(parents=True, exist_ok=True)
            results = Results(self.folder, self._settings(own), resume=self.recipe.resume)
        digest = fingerprint({})
        cell = shared(results.found(TEACHER, own.seed, digest) if results is not None else None)
        if cell is not None:
            logger.info(f"The fine-tuned teacher in {self.folder} is finished, and is taken from there.")
            return cell
        logger.info(f"The teacher is fine-tuned first, in {self.folder}: {self.reason}.")
        run = FineTuning(
            self.recipe.dataset_name, MethodArguments(), self.recipe.teacher, self.data_args, own, validate=True
        )
        cell = Cell(TEACHER, own.seed, digest, ".", finite(without_timings(run.run())))
        if results is not None:
            results.add(cell)
        return cell

    def _scored(self, model: nn.Module, processor: Any) -> Cell:
        own = self._loop()
        own.without_validation()
        data = self.data
        trainer = TransferTrainer(
            model,
            own,
            processing_class=processor,
            data_collator=collator_for(processor, tokens=data.task == "token-classification"),
            compute_metrics=compute_metrics_for(data.task, data.label_names),
        )
        ready = partial(prepare, processor=processor, max_length=self.data_args.max_length)
        if own.should_save:
            self.folder.mkdir(parents=True, exist_ok=True)
        scores: dict[str, float] = {}
        for name, split in (("eval", data.eval), ("test", data.test)):
            if split is not None:
                scores |= score(trainer, ready(split), name)
        return Cell(TEACHER, own.seed, "", ".", finite(without_timings(scores)))
