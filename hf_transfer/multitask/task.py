"""`Task`: what one of several tasks of a model predicts, and in which column its labels are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from hf_transfer.functional.task_loss import TaskRows, labelled_multi_label, labelled_regression, task_loss


Kind = Literal["classification", "regression", "multi_label", "tokens"]
KINDS: tuple[Kind, ...] = ("classification", "regression", "multi_label", "tokens")
TASK_COLUMN = "task"
"""Column that says which task a row was taken from: its number in the list of tasks."""

__all__ = ["KINDS", "TASK_COLUMN", "Kind", "Task", "check_tasks"]


@dataclass(frozen=True)
class Task:
    """
    One of several tasks that share a backbone.

    Args:
        name (`str`):
            An identifier: letters, digits and underscores.
        kind (`str`, *optional*, defaults to `"classification"`):
            `"classification"` (one class per row), `"regression"` (real values), `"multi_label"` (any of the classes)
            or `"tokens"` (one class per token).
        num_labels (`int`, *optional*):
            Number `C` of outputs; by default that of the label names, 1 for a regression.
        label_names (`Sequence[str]`, *optional*):
            Names of the classes, for the exported model.
        weight (`float`, *optional*, defaults to 1.0):
            What the task counts beside the others (dimensionless), before any weighting.

    Raises:
        ValueError: if the name is no identifier, the kind is unknown, or the number of outputs is missing, does not
            fit the names, or is less than 2 for classes; if the weight is not positive.

    Example:
        >>> Task("sentiment", label_names=("negative", "positive")).num_labels, Task("stars", "regression").num_labels
        (2, 1)
        >>> Task("sentiment", num_labels=2).column
        'labels_sentiment'
    """

    name: str
    kind: Kind = "classification"
    num_labels: int = 0
    label_names: Sequence[str] = ()
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(
                f"`{self.name}` as the name of a task is no identifier: it becomes the name of a column, a module and "
                "a folder. Use letters, digits and underscores, such as `news_topic`."
            )
        if self.kind not in KINDS:
            raise ValueError(
                f"Task `{self.name}` is of kind `{self.kind}`: there is no loss for it. Give one of "
                f"{', '.join(KINDS)}."
            )
        object.__setattr__(self, "label_names", tuple(self.label_names))
        outputs = self.num_labels or len(self.label_names) or (1 if self.kind == "regression" else 0)
        if outputs < (1 if self.kind in ("regression", "multi_label") else 2):
            raise ValueError(
                f"Task `{self.name}` has {outputs} labels: a head of that size has nothing to tell apart. Give "
                "`num_labels=` or `label_names=`, 2 or more."
            )
        if self.label_names and len(self.label_names) != outputs:
            raise ValueError(
                f"Task `{self.name}` has num_labels={outputs} and {len(self.label_names)} label names: one of them is "
                "wrong, and outputs would go by the wrong names. Leave `num_labels` out, or name every label."
            )
        object.__setattr__(self, "num_labels", outputs)
        if not self.weight > 0:
            raise ValueError(
                f"Task `{self.name}` has weight={self.weight}: it would not be learned, or unlearned. Give a positive "
                "number, or leave the task out."
            )

    @property
    def column(self) -> str:
        """The column of its labels; -100 where a row has none."""
        return f"labels_{self.name}"

    @property
    def problem_type(self) -> str | None:
        """As the configuration of a model names the problem; None for tokens, whose models have no such field."""
        names = {
            "classification": "single_label_classification",
            "regression": "regression",
            "multi_label": "multi_label_classification",
        }
        return names.get(self.kind)

    def loss(self, logits: Tensor, labels: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """
        The mean loss over the labelled rows of a micro-batch; an exact zero with a graph where there is none.

        Shape:
            - `logits`: `(B, C)`; `(B, T, C)` for tokens.
            - `sample_weight`: `(B,)`, what each row counts, as in [`attach`].
            - `labels`: `(B,)` classes; `(B,)` or `(B, C)` values; `(B, C)` of 0 and 1; `(B, T)` for tokens.
            - returns: scalar float32; nats, or squared units of the labels.
        """
        if self.kind == "regression":
            return labelled_regression(logits, labels, sample_weight)
        if self.kind == "multi_label":
            return labelled_multi_label(logits, labels, sample_weight)
        return task_loss(TaskRows.of(logits, labels, sample_weight))


def check_tasks(tasks: Sequence[Task]) -> tuple[Task, ...]:
    """
    The tasks as a tuple.

    Raises:
        ValueError: if there is none, or two have the same name.
    """
    names = [task.name for task in tasks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice:
        what = f"two tasks are called `{twice[0]}`" if twice else "there is no task"
        raise ValueError(
            f"Several tasks were asked for, but {what}: heads and columns go by the names of the tasks. Give each "
            'task its own, such as `[Task("topic", num_labels=4), Task("stars", "regression")]`.'
        )
    return tuple(tasks)
