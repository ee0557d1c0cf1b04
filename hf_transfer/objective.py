"""`Objective`: one term of the loss, with its own parameters, that travels inside a model."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, cast

from torch import Tensor, nn
from torch.utils.data import Sampler
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.task_loss import TaskRows, task_loss
from hf_transfer.schedules import Progress, Schedule, evaluate


class Objective(nn.Module):
    """
    A term of the training loss. Subclass it to add a method; hyper-parameters are keyword-only and stored under their
    own names, parameters are made in `build`, the term is computed in `forward`.

    Args:
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Multiplier of the term in the total loss (dimensionless), a number or a function of progress.

    Shape:
        - `forward` returns a scalar float32: the mean over the micro-batch, unweighted.

    Degenerate batches:
        A subclass returns an exact zero that depends on its inputs where its term is undefined (one domain, no
        labelled row), never a constant: every rank must run the same backward.

    Raises:
        ValueError: if `weight` is negative.

    Example:
        >>> class FeatureNorm(Objective):
        ...     def forward(self, batch: TransferBatch) -> Tensor:
        ...         return batch.features.square().sum(-1).mean()
        >>> FeatureNorm(weight=0.1).name
        'feature_norm'
    """

    columns: ClassVar[tuple[str, ...]] = ()
    """Columns of the data set, besides the model's own inputs, that `forward` reads from the batch."""

    optional_columns: tuple[str, ...] = ()
    """Columns that `forward` reads where the data has them; may be set in `build`."""

    needs_classes: ClassVar[bool] = False
    """Whether the class reads class labels or the probabilities of classes: a model that forecasts or predicts numbers
    of a series is then refused by `attach`."""

    learns_from_data: bool = False
    """Whether `fit` must see the training data before the first step. `TransferTrainer` calls it."""

    reads_inputs: ClassVar[bool] = False
    """Whether `forward` reads `batch.inputs`. A cache of frozen blocks otherwise leaves inputs unread."""

    alters_rows: ClassVar[bool] = True
    """Whether `transform`, where a class has one, makes other examples of the rows: what was stored of them, such as a
    teacher's predictions, then no longer holds. Doubling rows with all their columns does not."""

    replaces_task_loss: bool = False
    """Whether the term stands in place of the task loss of the model's own head, which then counts nothing."""

    hidden_states: tuple[str, ...] = ()
    """Modules whose outputs `forward` reads from `batch.hidden_states`, by name; set in `build`."""

    attentions: tuple[str, ...] = ()
    """Attention layers whose maps `forward` reads from `batch.attentions`, by name; set in `build`."""

    def __init__(self, *, weight: float | Schedule = 1.0):
        super().__init__()
        if not callable(weight) and weight < 0:
            raise ValueError(
                f"`weight={weight}` is negative: the model would be trained to make {type(self).__name__} worse. Give "
                "zero or a positive number, or a schedule such as `warmup(gamma=10.0)`."
            )
        self.weight = weight
        self.diagnostics: dict[str, Tensor] = {}

    def build(self, spec: ModelSpec) -> Self:
        """Make the objective's own parameters from the widths of the model; called by `attach`. Returns itself."""
        return self

    def fit(self, model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> None:
        """
        Learn buffers from the training data, once, before the first step; for classes that set `learns_from_data`.
        The buffers are registered in `build`, empty if their size is not known there, so that the exported model
        leaves them out.

        Args:
            model (`nn.Module`): the model the objective is attached to, as it starts.
            batches (`Iterable[Mapping]`): collated batches of the whole training set, in its order; can be iterated
                more than once. Every rank gets all of them.
        """

    def inspect(self, model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> None:
        """
        Look at the training data before the first step, to warn or to refuse; nothing is changed. `TransferTrainer`
        calls it, on every rank, where the data has a length.

        Args:
            model (`nn.Module`): the model the objective is attached to, as it starts.
            batches (`Iterable[Mapping]`): as for `fit`.
        """

    def sampler(self, dataset: Any, *, batch_size: int, ranks: int, seed: int) -> Sampler[int] | None:
        """
        The order of the training rows, for a class whose batches must be composed in a certain way; None leaves it to
        the trainer. `TransferTrainer` asks the objectives in turn and takes the first answer.

        Args:
            dataset (`Dataset`): the training set as given, with all its columns.
            batch_size (`int`): rows of a micro-batch of one rank. Consecutive rows form a batch, and the ranks take
                whole batches in turn.
            ranks (`int`): number of processes.
            seed (`int`): of the order, which is to be a function of it, of the epoch (`set_epoch`) and of the position
                alone, so that a run resumes exactly.
        """
        return None

    def begin_step(self) -> None:
        """
        An optimizer step begins, before the first of its micro-batches. Called by whatever sets the progress of the
        attachment, as `TransferTrainer` and [`TrackProgress`] do.
        """

    def transform(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """
        Change the inputs of a training forward before the model sees them; labels and columns are among them.

        Rows may be added behind those there are: the model's logits are cut back to the rows that came in.
        """
        return inputs

    def prepare(self, batch: TransferBatch) -> None:
        """
        Begin with what needs nothing of the model, before its forward fills the memory: of the batch there are inputs
        and columns so far. `forward` gets the same `batch.inputs` object.
        """

    def forward(self, batch: TransferBatch) -> Tensor:
        """The unweighted term for one micro-batch: a scalar float32."""
        raise NotImplementedError(f"{type(self).__name__} must define `forward(batch)` and return a scalar.")

    def weight_at(self, progress: Progress) -> float | Tensor:
        """The weight at `progress` in [0, 1]."""
        return evaluate(self.weight, progress)

    @property
    def name(self) -> str:
        """The class name in snake case: the key of the term in `Attachment.terms` and, after `loss_`, in the logs."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()

    @property
    def paper(self) -> str:
        """The paper the objective implements, as its docstring gives it; empty if it names none."""
        found = re.search(r"^Paper: (.*)$", inspect.getdoc(type(self)) or "", flags=re.MULTILINE)
        return found.group(1) if found else ""

    def config(self) -> dict[str, Any]:
        """The hyper-parameters by name, as the constructor takes them."""
        parameters = inspect.signature(type(self).__init__).parameters
        return {name: getattr(self, name) for name in parameters if name != "self"}

    @property
    def transforms(self) -> bool:
        """Whether the class changes the inputs."""
        return type(self).transform is not Objective.transform

    @property
    def prepares(self) -> bool:
        """Whether the class has something to do before the model's forward."""
        return type(self).prepare is not Objective.prepare

    @property
    def inspects_data(self) -> bool:
        """Whether the class looks at the training data before the first step."""
        return type(self).inspect is not Objective.inspect

    def extra_repr(self) -> str:
        """The hyper-parameters, for `print`."""
        return ", ".join(f"{name}={value}" for name, value in self.config().items())


class TaskTerm(Objective):
    """
    A change of the task loss itself instead of a term beside it: of the targets, or of what a row or class counts.

    Subclass it and define `adjust`. Several are applied in the order in which they are attached, so that label
    smoothing, class weights and focal weights combine. The result is logged as `loss_task`; there is no weight.

    Raises:
        ValueError: at attach time if the model is a regression.
    """

    needs_classes: ClassVar[bool] = True

    def __init__(self):
        super().__init__(weight=1.0)

    def build(self, spec: ModelSpec) -> Self:
        """Check that there are classes."""
        problem = getattr(getattr(spec.model, "config", None), "problem_type", None)
        if problem == "regression" or spec.num_labels < 2:
            raise ValueError(
                f"{type(self).__name__} on a regression: it changes a loss over classes, and the squared error has "
                "none. Leave it out, or give the model `num_labels` of 2 or more."
            )
        return self

    def adjust(self, rows: TaskRows, batch: TransferBatch) -> TaskRows:
        """`rows` with other targets or weights."""
        raise NotImplementedError(f"{type(self).__name__} must define `adjust(rows, batch)` and return `TaskRows`.")

    def forward(self, batch: TransferBatch) -> Tensor:
        """The task loss with this change alone, in nats per row."""
        return adjusted_task_loss([self], batch)


def adjusted_task_loss(terms: Iterable[TaskTerm], batch: TransferBatch, sample_weight: Tensor | None = None) -> Tensor:
    """
    The task loss of a batch with the changes of all `terms`, in their order: a scalar float32, in nats per row.
    `sample_weight` `(B,)` is what each example counts.
    """
    assert batch.logits is not None and batch.labels is not None  # `attach` gives both
    rows = TaskRows.of(batch.logits, batch.labels, sample_weight)
    for term in terms:
        rows = term.adjust(rows, batch)
    return task_loss(rows)


class Objectives(nn.ModuleDict):
    """
    The objectives of a model by name; prints as the formula of the total loss.

    Example:
        >>> print(Objectives([Objective(weight=0.5), Objective()]))
        loss = task + 0.5 * objective + objective_2
    """

    attachment: Any
    """The `Attachment` to a model, while there is one."""

    def __init__(self, objectives: Iterable[Objective] = ()):
        super().__init__()
        for objective in objectives:
            if not isinstance(objective, Objective):
                raise TypeError(
                    f"{objective!r} is no `Objective`: it has no weight and cannot be built for the model. Pass "
                    "instances such as `DomainAdversarial()`; for a class of your own, subclass `Objective`."
                )
            name, copies = objective.name, 1
            while name in self:
                copies += 1
                name = f"{objective.name}_{copies}"
            self[name] = objective

    @property
    def by_name(self) -> dict[str, Objective]:
        """The objectives by name, as a plain dictionary."""
        return cast(dict[str, Objective], dict(self.items()))

    @property
    def task_terms(self) -> list[TaskTerm]:
        """Those that change the task loss, in order."""
        return [objective for objective in self.by_name.values() if isinstance(objective, TaskTerm)]

    @property
    def terms(self) -> dict[str, Objective]:
        """Those that add a term, by name."""
        return {name: objective for name, objective in self.by_name.items() if not isinstance(objective, TaskTerm)}

    @property
    def replace_task_loss(self) -> bool:
        """Whether one of them stands in place of the task loss."""
        return any(objective.replaces_task_loss for objective in self.by_name.values())

    def columns(self) -> set[str]:
        """Every extra column that some objective reads, where the data has it."""
        return {
            column
            for objective in self.by_name.values()
            for column in (*objective.columns, *objective.optional_columns)
        }

    def __str__(self) -> str:
        task = "task"
        for term in self.task_terms:
            task = f"{term.name}({task})"
        terms = [] if self.replace_task_loss else [task]
        for name, objective in self.terms.items():
            terms.append(name if objective.weight == 1 else f"{objective.weight} * {name}")
        return "loss = " + " + ".join(terms)
