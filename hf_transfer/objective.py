"""`Objective`: one term of the loss, with its own parameters, that travels inside a model."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any, ClassVar, cast

from torch import Tensor, nn
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
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

    def extra_repr(self) -> str:
        """The hyper-parameters, for `print`."""
        return ", ".join(f"{name}={value}" for name, value in self.config().items())


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

    def columns(self) -> set[str]:
        """Every extra column that some objective reads."""
        return {column for objective in self.by_name.values() for column in objective.columns}

    def __str__(self) -> str:
        terms = ["task"]
        for name, objective in self.by_name.items():
            terms.append(name if objective.weight == 1 else f"{objective.weight} * {name}")
        return "loss = " + " + ".join(terms)
