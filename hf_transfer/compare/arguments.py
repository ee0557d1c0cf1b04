"""The options of `recipes/compare.py`: which models, on which data, by which strategies, within which time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from typing_extensions import Self

from hf_transfer.recipe_arguments import LoopArguments


MODALITIES = {"image": "compare.yaml", "text": "compare_text.yaml", "audio": "compare_audio.yaml"}
"""The file of embedded data for each, beside the recipe."""

_WITHOUT_SENSE = {
    "load_best_model_at_end": "every run keeps its last weights, so that all strategies have the same steps",
    "eval_strategy": "no checkpoint is chosen inside a run, and validation would only cost time",
    "save_strategy": "a run leaves its scores and not its checkpoints, and one that was cut starts anew",
    "resume_from_checkpoint": "it is not said which of the runs is meant, and finished ones are never run again",
    "metric_for_best_model": "strategies are compared by the main score of the task",
    "layer_decay": "it belongs to the strategy `gradual`, and on all of them nothing would tell that one apart",
    "lora_plus_ratio": "it belongs to an adapter, and the whole models beside it would have another rate",
    "cache_frozen_prefix": "few strategies freeze anything, and their costs would not be told from those of others",
    "push_objectives": "the pushed model has no objectives",
    "deepspeed": "ranks share the runs, each of which stays on one of them",
    "fsdp": "ranks share the runs, each of which stays on one of them",
}
"""Options of the loop that a comparison refuses, and why."""

__all__ = ["MODALITIES", "CompareArguments", "CompareLoopArguments", "example_words"]


@dataclass
class CompareArguments:
    """What is compared, how often, and how long it may take."""

    _argument_group_name = "the recipe"  # a heading of --help

    model_name_or_path: list[str] = field(
        default_factory=list,
        metadata={"help": "Hub ids or folders of pretrained models, one or several; embedded:image for a try."},
    )
    dataset_name: str | None = field(
        default=None, metadata={"help": "Hub id, folder or file of the data; embedded:digits for a try."}
    )
    target_dataset: str | None = field(
        default=None,
        metadata={
            "help": "Labelled data of another domain: training rows are those of --dataset_name and the target's "
            "without labels, validation and test rows are the target's."
        },
    )
    teacher_name_or_path: str | None = field(
        default=None, metadata={"help": "Hub id or folder of a fine-tuned model, for distillation."}
    )
    strategies: list[str] = field(
        default_factory=list,
        metadata={
            "help": "What is compared, by default all that model and data allow: majority, scratch, probe, full, "
            "frozen_bn (batch normalisation), gradual, l2sp, lora, lp_ft, and distillation with a teacher, dann and "
            "coral with a target."
        },
    )
    modality: str = field(
        default="image",
        metadata={
            "help": "Without a model and data: which embedded data to compare on.",
            "choices": list(MODALITIES),
        },
    )
    budget: str | None = field(
        default=None, metadata={"help": "Time for all of it, such as 90s, 30m or 1h30m; by default as long as needed."}
    )
    seeds: int = field(default=1, metadata={"help": "Repeat with this many seeds from --seed on."})
    halving: bool | None = field(
        default=None,
        metadata={
            "help": "Give each further seed to the better half of the strategies only; by default with --budget.",
            "nargs": "?",
            "const": True,
        },
    )
    folds: int = field(
        default=5,
        metadata={"help": "Without a validation split: parts of the training rows, one of which validates each seed."},
    )
    curve: bool = field(
        default=True, metadata={"help": "Train the leaders on a quarter and a half of the labelled rows too."}
    )
    keep_models: bool = field(
        default=False, metadata={"help": "Leave the best model of every strategy in the folder `cells`."}
    )
    resume: bool = field(
        default=True, metadata={"help": "Take finished runs from the output folder; false runs all of them anew."}
    )
    retry_failed: bool = field(default=False, metadata={"help": "Run those again that failed before."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the models on the Hub."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code from the models' repositories. Only for authors you trust."}
    )

    def __post_init__(self):
        self.strategies = _words(self.strategies)
        if bool(self.model_name_or_path) != (self.dataset_name is not None):
            missing = "--dataset_name" if self.model_name_or_path else "--model_name_or_path"
            raise ValueError(
                f"`{missing}` is missing: there is nothing to compare on one alone. Give both, or neither to try "
                "it on embedded data."
            )

    def options(self) -> dict[str, Any]:
        """As keyword arguments of `compare`, without the models and the data."""
        named = {
            "model_name_or_path": None,
            "dataset_name": None,
            "modality": None,
            "target_dataset": "target",
            "teacher_name_or_path": "teacher",
            "strategies": "strategies",
        }
        found = {named.get(own.name, own.name): getattr(self, own.name) for own in fields(self)}
        found.pop(None, None)
        return {**found, "strategies": self.strategies or None}


@dataclass(repr=False)
class CompareLoopArguments(LoopArguments):
    """`LoopArguments` of runs that all train as long, and keep their last weights."""

    output_dir: str | None = field(
        default="outputs/compare", metadata={"help": "Folder for the report, the runs and the recommended model."}
    )
    learning_rate: float = field(
        default=0.0,
        metadata={
            "help": "Of strategies that train the whole model; adapters take 10 times as much, scratch at least 1e-3. "
            "0 finds a rate for each by short trials."
        },
    )
    warmup_steps: float = field(
        default=0.1,
        metadata={
            "help": "Steps in which the rate rises, or the share of all steps: short runs at high rates need it."
        },
    )
    num_train_epochs: float = field(default=10.0, metadata={"help": "Passes over the training rows."})
    eval_strategy: str = field(default="no", metadata={"help": "Leave this: runs are scored when they end."})
    save_strategy: str = field(default="no", metadata={"help": "Leave this: runs leave no checkpoints."})
    load_best_model_at_end: bool = field(default=False, metadata={"help": "Leave this off: the last weights count."})

    def __post_init__(self):
        # before the parents, which would quietly put some of them right
        for own in fields(self):
            if own.name in _WITHOUT_SENSE and not _same(getattr(self, own.name), own.default):
                raise ValueError(
                    f"`--{own.name} {_shown(getattr(self, own.name))}` in a comparison: {_WITHOUT_SENSE[own.name]}. "
                    "Leave it out."
                )
        if (
            self.lr_schedule is not None
            and self.warmup_steps == type(self).__dataclass_fields__["warmup_steps"].default
        ):
            self.warmup_steps = 0.0  # the curve has a rise of its own
        super().__post_init__()

    @property
    def finds_rates(self) -> bool:
        """Whether learning rates are to be found, because none was given."""
        return self.learning_rate == 0

    @classmethod
    def of(cls, args: LoopArguments | None, output_dir: str | Path) -> Self:
        """
        Arguments of any loop as those of a comparison: what is at its default there takes the default here.

        Args:
            args (`LoopArguments`, *optional*): the loop; its own folder counts for nothing.
            output_dir (`str` or path): the folder.
        """
        if isinstance(args, cls):
            return args.for_run(str(output_dir), args.seed) if str(args.output_dir) != str(output_dir) else args
        given = {}
        if args is not None:
            theirs, own = type(args)(output_dir="unused"), {f.name for f in fields(cls) if f.init}
            ignored = {"output_dir", "logging_strategy", "dataloader_pin_memory", "metric_for_best_model"}
            ignored |= {"greater_is_better", "load_best_model_at_end", "eval_strategy", "save_strategy"}
            for name in sorted(own - ignored):
                value = getattr(args, name)
                if not _same(value, getattr(theirs, name)):
                    given[name] = value
        return cls(output_dir=str(output_dir), **given)


def example_words(words: Sequence[str], folder: Path) -> list[str]:
    """
    The words of a command line that names neither model nor data nor a file of options, with the file of the embedded
    data for its modality; any other as it is.

    Args:
        words (`Sequence[str]`): of the command line, without the script.
        folder (`Path`): of the recipe.

    Example:
        >>> example_words(["--modality", "text", "--seeds", "3"], Path("recipes"))
        ['--config', 'recipes/compare_text.yaml', '--modality', 'text', '--seeds', '3']
        >>> example_words(["--dataset_name", "beans"], Path("recipes"))
        ['--dataset_name', 'beans']
    """
    found = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    if {"--config", "--model_name_or_path", "--dataset_name", "--help", "-h"} & set(found):
        return list(words)
    modality = found[found.index("--modality") + 1] if "--modality" in found[:-1] else "image"
    name = MODALITIES.get(modality, MODALITIES["image"])  # what is no modality is refused by the parser
    return ["--config", (folder / name).as_posix(), *words]


def _words(given: Sequence[str]) -> list[str]:
    return [name.strip() for word in given for name in word.split(",") if name.strip()]


def _same(value: Any, default: Any) -> bool:
    """Also for what is an enumeration after it was parsed."""
    if value in (None, "", [], {}) and default in (None, "", [], {}):
        return True
    return _shown(value) == _shown(default)


def _shown(value: Any) -> str:
    return str(getattr(value, "value", value))
