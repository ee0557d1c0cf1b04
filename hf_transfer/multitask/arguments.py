"""The options of `recipes/multitask.py`: which tasks, how they are weighted and mixed, how often."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from hf_transfer.multitask.sampler import MIXES
from hf_transfer.multitask.task import Task
from hf_transfer.objectives.multitask.multi_task import MultiTask
from hf_transfer.objectives.multitask.surgery import METHODS, GradientSurgery
from hf_transfer.recipe_arguments import DataArguments, LoopArguments


RESERVED = "runs"
"""Folder of the runs, beside those of the tasks."""

__all__ = ["RESERVED", "MultitaskArguments", "MultitaskLoopArguments"]


@dataclass
class MultitaskArguments:
    """Which tasks, and how they share the model."""

    _argument_group_name = "the recipe"  # a heading of --help

    task_datasets: list[str] = field(
        default_factory=list,
        metadata={
            "help": "A data set for each task, name=data: a Hub id, folder, file or embedded set, such as "
            "books=embedded:reviews/books topic=ag_news."
        },
    )
    dataset_name: str | None = field(
        default=None,
        metadata={"help": "Instead: one data set whose rows are labelled for all tasks; with --label_columns."},
    )
    label_columns: list[str] = field(
        default_factory=list,
        metadata={"help": "With --dataset_name: the label column of each task, column or name=column."},
    )
    weighting: str = field(
        default="equal",
        metadata={
            "help": "What each task counts: equal, uncertainty, dwa, gradnorm, random, tchebycheff or famo.",
            "choices": ["equal", "uncertainty", "dwa", "gradnorm", "random", "tchebycheff", "famo"],
        },
    )
    surgery: str = field(
        default="none",
        metadata={
            "help": "How gradients of tasks that conflict are combined: none adds them; pcgrad, cagrad, nash, upgrad "
            "or mgda.",
            "choices": ["none", *METHODS],
        },
    )
    surgery_on: str = field(
        default="parameters",
        metadata={
            "help": "With --surgery: of which gradients, those of the shared parameters or, faster and where rows are "
            "labelled for several tasks, of the representation.",
            "choices": ["parameters", "representation"],
        },
    )
    sampling: str = field(
        default="proportional",
        metadata={
            "help": "Share of a batch that each task gets: proportional to its rows, sqrt, temperature, round_robin.",
            "choices": list(MIXES),
        },
    )
    temperature: float = field(
        default=5.0, metadata={"help": "Of --sampling temperature: 1 is proportional, large ones equal shares."}
    )
    seeds: int = field(default=1, metadata={"help": "Repeat with this many seeds from --seed on; rows are the same."})
    compare: bool = field(
        default=True,
        metadata={
            "help": "Train every task alone too, on the rows that it has in a batch and in as many steps, and report "
            "which tasks the others help or hurt."
        },
    )

    def __post_init__(self):
        if self.seeds < 1:
            raise ValueError(f"`--seeds {self.seeds}` trains nothing. Give 1 or more.")
        if bool(self.task_datasets) == bool(self.dataset_name):
            what = "name the tasks twice" if self.dataset_name else "are both missing: there is no task"
            raise ValueError(
                f"`--task_datasets` and `--dataset_name` {what}. Give a data set for each task, `--task_datasets "
                "name=data ...`, or one with `--label_columns`."
            )
        if bool(self.dataset_name) != bool(self.label_columns):
            raise ValueError(
                "`--dataset_name` and `--label_columns` go together: one is the data of all tasks, the other their "
                "labels. Give both, or a data set for each task with `--task_datasets`."
            )
        option = "task_datasets" if self.task_datasets else "label_columns"
        self.sources = _named(getattr(self, option), option)
        """Data set, or label column, of each task."""
        if len(self.sources) < 2:
            raise ValueError(
                f"`--{option} {next(iter(self.sources))}` is one task: there is nothing to share. Give two or more, "
                "or train it with recipes/finetune.py."
            )

    def check(self, data_args: DataArguments, args: LoopArguments) -> None:
        """Refuse what several tasks or several runs cannot share, before anything is loaded."""
        for option in ("resume_from_checkpoint", "push_to_hub"):
            if getattr(args, option):
                raise ValueError(
                    f"`--{option}` with several tasks: there are several runs and a model for each task, and it is "
                    "not said which is meant. Leave it out; push the folder of a task with `huggingface-cli upload`."
                )
        if not self.label_columns:
            return
        for option in ("label_column", "samples_per_class"):
            if getattr(data_args, option) is not None:
                raise ValueError(
                    f"`--{option}` with `--label_columns`: rows are labelled for several tasks, and one would decide "
                    "for all. Leave it out; `--max_samples` takes fewer rows."
                )

    def objective(self, tasks: list[Task]) -> MultiTask:
        """The tasks as the options weigh and mix them."""
        surgery = None
        if self.surgery != "none" and len(tasks) > 1:
            surgery = GradientSurgery(self.surgery, on=self.surgery_on)
        return MultiTask(
            tasks,
            weighting=self.weighting if len(tasks) > 1 else "equal",
            surgery=surgery,
            sampling=cast(Any, self.sampling),
            temperature=self.temperature,
        )


def _named(words: list[str], option: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        name, given, source = word.partition("=")
        if not given and option == "label_columns":
            source = name
        if not name.isidentifier() or not source or name in found or name == RESERVED:
            reason = "is given twice" if name in found else "is no name=value with a name of letters and digits"
            reason = "is the folder of the runs" if name == RESERVED else reason
            raise ValueError(
                f"`--{option} {word}`: `{name}` {reason}, and columns, heads and folders go by the names of tasks. "
                "Write for instance books=embedded:reviews/books."
            )
        found[name] = source
    return found


@dataclass(repr=False)
class MultitaskLoopArguments(LoopArguments):
    """`LoopArguments` that keep the epoch of the best mean score over the tasks: losses have different units."""

    def __post_init__(self):
        if self.metric_for_best_model is None:
            self.metric_for_best_model, self.greater_is_better = "mean", True
        super().__post_init__()

    def check_common_metric(self) -> None:
        """Refuse to choose the best checkpoint by a metric that not every run reports, also that of another task."""
        known = ("mean", "loss")
        chosen = str(self.metric_for_best_model).removeprefix("eval_")
        if chosen not in known:
            raise ValueError(
                f"`--metric_for_best_model {chosen}` is not reported by every run: that of one task alone has no "
                f"score of the others, and would fail at its first checkpoint. Choose from {', '.join(known)}."
            )
