"""`MultiTask`: several tasks on one backbone, each with a head of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.task_loss import SAMPLE_WEIGHT, UNLABELLED
from hf_transfer.multitask.heads import TaskHeads
from hf_transfer.multitask.task import Task, check_tasks
from hf_transfer.objective import Objective
from hf_transfer.objectives.multitask.label_columns import check_label_columns, missing_column
from hf_transfer.objectives.multitask.row_gradients import row_gradient_norms
from hf_transfer.objectives.multitask.weighting import TaskWeighting
from hf_transfer.objectives.multitask.weightings import task_weighting
from hf_transfer.schedules import Schedule


if TYPE_CHECKING:
    from hf_transfer.multitask.sampler import Mix
    from hf_transfer.objectives.multitask.surgery import GradientSurgery


__all__ = ["MultiTask"]


class MultiTask(Objective):
    r"""
    Multi-task learning (MTL): a head for each of several tasks on the features of one backbone, learned together.

    With the mean losses $L_k$ of the tasks over their labelled rows of the micro-batch, the weights $w_k$ of a
    weighting and the weights $p_k$ of the tasks themselves, the term is

    $$ L = \sum_{k=1}^{K} w_k \, p_k \, L_k $$

    It stands in place of the task loss: the model's own head counts nothing.

    Args:
        tasks (`Sequence[Task]`):
            The tasks, of different names: classification, regression, several labels, tokens.
        weighting (`str` or `TaskWeighting`, *optional*, defaults to `"equal"`):
            What gives the $w_k$: `"equal"`, `"uncertainty"` (UW), `"dwa"`, `"gradnorm"`, `"random"` (RLW),
            `"tchebycheff"` (STCH), `"famo"`, or an instance with options of its own, such as
            `GradientNormalization(alpha=0.5)`.
        surgery (`str` or `GradientSurgery`, *optional*):
            How gradients of tasks that point against each other are combined, in place of added up.
        sampling (`str`, *optional*, defaults to `"proportional"`):
            What share of a batch each task gets where rows are of one task each: `"proportional"` to its number of
            rows, `"sqrt"`, `"temperature"` or `"round_robin"` (equal); see [`TaskSampler`].
        temperature (`float`, *optional*, defaults to 5.0):
            Of `sampling="temperature"` (dimensionless).
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Multiplier of the term in the total loss.

    Shape:
        - `batch.features`: `(B, D)`; `(B, T, D)` for a token classifier, whose tasks are all of tokens. A sequence
          classifier gives tasks of tokens the states of its base model.
        - columns `labels_<name>`: `(B,)` classes; `(B,)` or `(B, C)` values; `(B, C)` of 0 and 1; `(B, T)` for tokens.
          -100 where there is no label. A column `sample_weight` `(B,)` weighs the rows of every task as in [`attach`].
        - returns: scalar float32, in the units of the losses: nats, or squared units of the labels.

    Degenerate batches:
        A task without a labelled row adds an exact zero that depends on the features and its head, and leaves the
        weights of the other tasks as they are. With no label at all the term is an exact zero.

    Deviations from the paper:
        Losses are means over the labelled rows of each task, so that a task with few rows in a batch counts like the
        others; by default rows are drawn in proportion to the sizes of the tasks.

    Raises:
        ValueError: if there is no task or two of one name, or `weighting`, `surgery` or `sampling` is unknown; at
            attach time if a task does not fit the kind of model; before the first step if the column of a task is
            missing or holds no label, or one its head has not.

    Relations:
        `MultiTaskTrainer` adds the collator, scores for each task and its export as an ordinary model. The weightings
        need a `begin_step` for each optimizer step: in a loop of your own, set `attachment.progress` at its start.
        Logged are `multi_task_loss_<name>` and `multi_task_weight_<name>` of each task, the last value where a
        micro-batch has none of its rows.

    Example:
        >>> import torch
        >>> from hf_transfer import ModelSpec, Task, TransferBatch
        >>> tasks = [Task("topic", num_labels=4), Task("stars", "regression")]
        >>> objective = MultiTask(tasks).build(ModelSpec(feature_dim=2, num_labels=2))
        >>> labels = {"labels_topic": torch.tensor([3, -100]), "labels_stars": torch.tensor([-100.0, 2.0])}
        >>> batch = TransferBatch(features=torch.zeros(2, 2), columns=labels)
        >>> round(objective(batch).item(), 4)  # log 4 + 2 ** 2
        5.3863

    Paper: Caruana, "Multitask Learning", Machine Learning 28, 1997, https://doi.org/10.1023/A:1007379606734
    """

    replaces_task_loss = True

    preference: Tensor
    last_losses: Tensor

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        weighting: str | TaskWeighting = "equal",
        surgery: str | GradientSurgery | None = None,
        sampling: Mix = "proportional",
        temperature: float = 5.0,
        weight: float | Schedule = 1.0,
    ):
        from hf_transfer.multitask.sampler import shares

        super().__init__(weight=weight)
        self.tasks = check_tasks(tasks)
        self.optional_columns = ("task", SAMPLE_WEIGHT, *(task.column for task in self.tasks))
        shares([1], sampling, temperature)  # refuses what is unknown
        self.sampling: Mix = sampling
        self.temperature = temperature
        self._word = weighting if isinstance(weighting, str) else None
        self.weigher = task_weighting(weighting)
        self._method = surgery if isinstance(surgery, str) else None
        self.surgeon = _surgery(surgery)
        self.heads: TaskHeads

    @property
    def weighting(self) -> str | TaskWeighting:
        """As it was given."""
        # Kept as a child once, under a name of its own: a checkpoint holds no tensor twice.
        return self.weigher if self._word is None else self._word

    @property
    def surgery(self) -> str | GradientSurgery | None:
        """As it was given."""
        return self.surgeon if self._method is None else self._method

    def build(self, spec: ModelSpec) -> Self:
        """Make the heads and what the weighting learns."""
        self.heads = TaskHeads(self.tasks, spec)
        self.hidden_states = (self.heads.states,) if self.heads.states else ()
        self.weigher.build(self.tasks)
        if self.surgeon is not None:
            self.surgeon.build(spec, self.heads)
        self.register_buffer("preference", torch.tensor([task.weight for task in self.tasks]), persistent=False)
        self.register_buffer("last_losses", torch.zeros(len(self.tasks)))
        return self

    def inspect(self, model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> None:
        """Refuse data that some task cannot learn from, or that the surgery cannot be done on."""
        check_label_columns(self.tasks, batches)
        if self.surgeon is not None:
            self.surgeon.inspect(model, batches)

    def sampler(self, dataset: Any, *, batch_size: int, ranks: int, seed: int) -> Sampler[int] | None:
        """Batches of one composition, where the rows are of one task each."""
        from hf_transfer.multitask.sampler import task_sampler

        return task_sampler(
            dataset,
            self.tasks,
            self.sampling,
            batch_size=batch_size,
            ranks=ranks,
            seed=seed,
            temperature=self.temperature,
        )

    def begin_step(self) -> None:
        """Let the weights follow what the micro-batches of the last step showed."""
        self.weigher.begin_step()
        if self.surgeon is not None:
            self.surgeon.begin_step()

    def forward(self, batch: TransferBatch) -> Tensor:
        """The weighted sum of the losses of the tasks."""
        labels = [self._labels(task, batch) for task in self.tasks]
        counts = batch.columns.get(SAMPLE_WEIGHT)
        inputs = [self.heads.read(task, batch.features, batch.hidden_states) for task in self.tasks]
        surgeon: Any = self.surgeon  # its methods are out of the sight of compilers, and their types with them
        given = inputs if surgeon is None else surgeon.branch(inputs)
        losses = torch.stack(
            [
                task.loss(self.heads.logits(task, features), own, counts)
                for task, features, own in zip(self.tasks, given, labels, strict=True)
            ]
        )
        present = torch.stack([(own != UNLABELLED).any() for own in labels])
        norms = None
        if self.weigher.reads_gradients:
            norms = row_gradient_norms(self.tasks, self.heads, inputs, labels)
        # The preference for a task is no matter of the weighting, which would even it out.
        weighted = self.preference * self.weigher(losses, present, norms)
        self._note(losses, present)
        if surgeon is None:
            return weighted.sum()
        total = surgeon.total(weighted, batch)
        self.diagnostics.update(surgeon.diagnostics)
        return total

    @torch.no_grad()
    def _note(self, losses: Tensor, present: Tensor) -> None:
        self.last_losses.copy_(torch.where(present, losses, self.last_losses))
        shown = {"loss": self.last_losses.clone(), "weight": self.weigher.weights.clone()}
        self.diagnostics = {
            f"{key}_{task.name}": values[number]
            for key, values in shown.items()
            for number, task in enumerate(self.tasks)
        }

    def _labels(self, task: Task, batch: TransferBatch) -> Tensor:
        if task.column not in batch.columns:
            raise missing_column(task, batch.columns)
        return batch.columns[task.column]


def _surgery(chosen: str | GradientSurgery | None) -> GradientSurgery | None:
    if chosen is None:
        return None
    from hf_transfer.objectives.multitask.surgery import GradientSurgery

    return chosen if isinstance(chosen, GradientSurgery) else GradientSurgery(chosen)
