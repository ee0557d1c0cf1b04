"""The options of `recipes/distillation.py`: which teacher, which student, which methods, how often."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hf_transfer.adapter_arguments import NONE, AdapterOptions
from hf_transfer.compare.composition import read_loss
from hf_transfer.distillation.methods import ALONE, TEACHER, VOCABULARY, Method
from hf_transfer.json_options import json_object
from hf_transfer.metrics import MAIN_METRIC
from hf_transfer.option_checks import RESUME_HELP
from hf_transfer.recipe_arguments import LoopArguments, ModelArguments


STUDENTS = ("student_blocks", "student_name_or_path", "student_from_scratch")
"""Options of which one says what the student is."""

__all__ = ["DistillationArguments", "DistillationLoopArguments"]


@dataclass
class DistillationArguments:
    """Who teaches whom, on what, and how."""

    _argument_group_name = "the recipe"  # a heading of --help

    teacher_name_or_path: str = field(
        metadata={"help": "Hub id or folder of the teacher: fine-tuned, or pretrained and fine-tuned in this run."}
    )
    dataset_name: str = field(metadata={"help": "Hub id, folder or file of the data; embedded:digits for a try."})
    student_blocks: str | None = field(
        default=None,
        metadata={
            "help": "The student is cut out of the teacher and keeps so many blocks (3), these (0,2,5) or those of a "
            "rule (every_other, first, last), and its weights."
        },
    )
    student_name_or_path: str | None = field(
        default=None, metadata={"help": "Hub id or folder of a pretrained student of any other architecture."}
    )
    student_from_scratch: str | None = field(
        default=None,
        metadata={"help": "A student of random weights: a type such as vit, or a Hub id or folder for its config."},
    )
    student_config: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": 'With --student_from_scratch: changes of the config, as JSON: {"hidden_size": 64}.'},
    )
    student_tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "With a type for --student_from_scratch and text: whose tokenizer; by default the teacher's."
        },
    )
    methods: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Ways to learn from the teacher, by default kd: acronyms (kd, jsd, mse, ls, dkd, dist, hint, pkd, "
            "at, embedding, attention, rkd, sp, crd) or classes in snake case; several joined by + train together, "
            "also with terms that need no teacher."
        },
    )
    loss: list[str] = field(
        default_factory=list,
        metadata={
            "help": "YAML files of composed losses, each a method more, called by the stem of the file: a mapping of "
            "names to weights, or to options such as {weight: 1.0, temperature: 2.0}."
        },
    )
    temperature: float | None = field(
        default=None,
        metadata={"help": "Temperature of the terms that read the teacher's predictions; by default their own."},
    )
    distillation_weight: float | None = field(
        default=None,
        metadata={
            "help": "Weight of every term that asks the teacher, beside the labels' of 1; by default their own. With "
            "the labels weighted a and the teacher 1 - a it is (1 - a) / a."
        },
    )
    alone: bool = field(default=True, metadata={"help": "Train the student without the teacher first, to compare."})
    seeds: int = field(
        default=1, metadata={"help": "Repeat with this many seeds from --seed on; teacher and rows are the same."}
    )
    unlabelled_dataset: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Data whose labels are not read: the teacher labels its rows, and every batch of a run with the "
            "teacher has as many of them as of the data. Makes room for terms of domain adaptation."
        },
    )
    train_teacher: str = field(
        default="auto",
        metadata={
            "help": "Fine-tune the teacher first: auto does where its checkpoint has no head for the classes of the "
            "data; true and false decide. It is kept in the folder `teacher`, and found there by the next run."
        },
    )
    teacher_learning_rate: float | None = field(
        default=None, metadata={"help": "For fine-tuning the teacher; by default --learning_rate."}
    )
    teacher_epochs: float | None = field(
        default=None, metadata={"help": "For fine-tuning the teacher; by default --num_train_epochs."}
    )
    teacher_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the teacher."})
    student_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the student."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code from the models' repositories. Only for authors you trust."}
    )
    cache_teacher: bool = field(
        default=True,
        metadata={
            "help": "Run the teacher once over the training rows and keep on disk what it says. Off where images are "
            "augmented at random: it would speak of other images."
        },
    )
    measure: bool = field(
        default=True, metadata={"help": "Measure latency and throughput of teacher and student on this device."}
    )
    resume: bool = field(default=True, metadata={"help": RESUME_HELP})

    def __post_init__(self):
        self.methods = [name.strip() for word in self.methods for name in word.split(",") if name.strip()]
        if not self.methods and not self.loss:
            self.methods = ["kd"]
        self.train_teacher = self.train_teacher.lower()
        if self.train_teacher not in ("auto", "true", "false"):
            raise ValueError(
                f"`--train_teacher {self.train_teacher}` does not say whether to fine-tune it. Give auto, true or "
                "false."
            )
        if self.seeds < 1:
            raise ValueError(f"`--seeds {self.seeds}` trains nothing. Give 1 or more.")
        for option in ("teacher_epochs", "teacher_learning_rate"):
            value = getattr(self, option)
            if value is not None and value <= 0:
                raise ValueError(f"`--{option} {value}` trains no teacher. Give more than 0, or leave it out.")
        if isinstance(self.student_config, str):
            self.student_config = json_object(
                "student_config",
                self.student_config,
                cost="the student would be another one",
                example='{"hidden_size": 64}',
            )
        self._check_student()
        self.runs = self._runs()

    def _check_student(self) -> None:
        named = [f"--{option}" for option in STUDENTS if getattr(self, option) is not None]
        if len(named) != 1:
            what = f"{' and '.join(named)} name two students" if named else "No student is given: nobody would learn"
            raise ValueError(
                f"{what}. Pass one of `--student_blocks` (cut out of the teacher), `--student_name_or_path` "
                "(pretrained) and `--student_from_scratch` (random weights)."
            )
        for option in ("student_config", "student_tokenizer"):
            if getattr(self, option) is not None and self.student_from_scratch is None:
                raise ValueError(
                    f"`--{option}` without `--student_from_scratch`: a student that exists has its own, and the "
                    "option would be ignored. Leave it out."
                )

    def _runs(self) -> list[Method]:
        runs = [VOCABULARY.parse(name) for name in self.methods] + [read_loss(path, VOCABULARY) for path in self.loss]
        if self.alone and ALONE not in {method.name for method in runs}:
            runs.insert(0, Method(ALONE))
        names = [method.name for method in runs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"`{twice[0]}` is named twice: its second run would be the first again. Name it once, or give a file "
                "for `--loss` another name."
            )
        if TEACHER in names:
            raise ValueError(
                f"`--loss {TEACHER}.yaml` is called like the teacher: the table would not tell them apart. Rename the "
                "file."
            )
        for method in runs:
            if method.needs_domains and not self.unlabelled_dataset:
                raise ValueError(
                    f"`{method.name}` brings two domains together, and the data is one. Name the other with "
                    "`--unlabelled_dataset`, or leave the term out."
                )
        given = {"weight": self.distillation_weight, "temperature": self.temperature}
        return [method.with_defaults(**given) for method in runs]

    @property
    def blocks(self) -> str | int | list[int] | None:
        """`--student_blocks` as `student_from_teacher` takes it."""
        text = self.student_blocks
        if text is None:
            return None
        try:
            numbers = [int(word) for word in text.split(",") if word.strip()]
        except ValueError:
            return text
        return numbers[0] if "," not in text else numbers

    @property
    def teacher(self) -> ModelArguments:
        """The teacher, as recipes name a model."""
        return ModelArguments(
            model_name_or_path=self.teacher_name_or_path,
            model_revision=self.teacher_revision,
            trust_remote_code=self.trust_remote_code,
        )

    def check(self, args: LoopArguments) -> None:
        """Refuse to resume a run that is not said."""
        if args.resume_from_checkpoint:
            raise ValueError(
                "`--resume_from_checkpoint` with several runs: it is not said which is meant. Leave it out: finished "
                "runs are taken from results.json, and the others start anew."
            )

    def check_adapter(self, adapter: AdapterOptions) -> None:
        """Refuse an adapter of a student that exists in this run only."""
        if adapter.adapter != NONE and self.student_name_or_path is None:
            option = "student_blocks" if self.student_from_scratch is None else "student_from_scratch"
            raise ValueError(
                f"`--adapter {adapter.adapter}` with `--{option}`: only the adapter is saved, and the student below "
                "it would be lost. Pass a pretrained student with `--student_name_or_path`, or leave the adapter out."
            )


@dataclass(repr=False)
class DistillationLoopArguments(LoopArguments):
    """`LoopArguments` that keep the epoch of the best score, not of the best loss: a teacher makes one less sure."""

    def __post_init__(self):
        self._named = self.metric_for_best_model is not None
        super().__post_init__()

    def choose_by_score(self, task: str) -> None:
        """Keep the checkpoint of the best main score of the task, unless another metric was named."""
        if self._named or not self.load_best_model_at_end:
            return
        self.metric_for_best_model, self.greater_is_better = MAIN_METRIC[task], True
