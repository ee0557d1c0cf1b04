"""What a strategy of a comparison is: a name, words for the report, and how it makes a model of a setup."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from hf_transfer.compare.strategies.identity import identity_of


if TYPE_CHECKING:
    from hf_transfer.compare.problem.setup import Setup
    from hf_transfer.trainer import TransferTrainer


RATES = ("whole", "fixed_statistics", "probed", "adapter", "scratch")
"""Groups of strategies that share a learning rate. Where batch statistics stay fixed, or the head is good from the
start, a rate that suits full fine-tuning can ruin a model."""

_SAID = ("title", "about", "paper", "needs", "baseline")
"""Fields that the result does not depend on."""

__all__ = ["RATES", "Fitted", "Strategy"]


@dataclass(frozen=True)
class Fitted:
    """
    What a strategy made.

    Args:
        model (`nn.Module`, *optional*): that answers, and is saved where it wins; `None` if there is none to save, as
            of the majority class.
        trained_parameters (`int`, *optional*, defaults to 0): weights that were trained.
        steps (`int`, *optional*, defaults to 0): optimizer steps.
        trainer (`TransferTrainer`, *optional*): that trained it; its facts get into the model card.
        logits (`Mapping[str, np.ndarray]`, *optional*): what it says of `validation` and `test`, where that is known
            without running the model, `(N, C)` in the order of the rows.
        note (`str`, *optional*): what is to be told of the run.
    """

    model: nn.Module | None
    trained_parameters: int = 0
    steps: int = 0
    trainer: TransferTrainer | None = None
    logits: Mapping[str, np.ndarray] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Strategy(ABC):
    """
    A way to get a model for a task. Strategies of your own are subclasses with a method `fit`, or instances of
    [`FineTune`] with other objectives, callbacks and options.

    Args:
        name (`str`): word in tables, folders and on the command line.
        title (`str`, *optional*): words in the report; by default the name.
        about (`str`, *optional*): what it does, in a sentence.
        needs (`frozenset[str]`, *optional*): what must be given: `teacher`, `target`.
        baseline (`bool`, *optional*, defaults to `False`): whether others are measured by it; it is never recommended.
        rate (`str`, *optional*): which learning rate it takes: that of `whole` models, of such with `fixed_statistics`
            of batch normalisation or a `probed` head, of an `adapter`, or of a model from `scratch`; `None` where
            nothing is trained by gradient.
        paper (`str`, *optional*): link to the paper of the method.

    Raises:
        ValueError: if the name cannot name a folder, or there is no such group of rates.

    Example:
        A nearest-class-mean probe on the features that other strategies share:

        >>> from hf_transfer.features import fit_probe
        >>> class ClassMeans(Strategy):
        ...     def fit(self, setup):
        ...         probe = fit_probe(setup.features("train"), kind="nearest_class_mean", seed=setup.seed)
        ...         return Fitted(probe.fold_into(setup.fresh()), trained_parameters=probe.arrays["weight"].size)
        >>> means = ClassMeans(name="class_means", about="The class whose mean is nearest.")
        >>> means.label, means.rate
        ('class_means', None)
    """

    name: str
    title: str = ""
    about: str = ""
    needs: frozenset[str] = frozenset()
    baseline: bool = False
    rate: str | None = None
    paper: str = ""

    def __post_init__(self):
        if not re.fullmatch(r"\w[\w.+-]*", self.name):
            raise ValueError(
                f"The strategy name {self.name!r} names a folder of its runs too, which it cannot: they would lie "
                "elsewhere or nowhere. Use letters, digits and `_`, `.`, `+`, `-`, such as `my_method`."
            )
        if self.rate is not None and self.rate not in RATES:
            raise ValueError(
                f"`rate={self.rate!r}` of the strategy `{self.name}` is no group of learning rates: none would be "
                f"found for it. Choose from {', '.join(RATES)}, or None where nothing is trained by gradient."
            )

    @abstractmethod
    def fit(self, setup: Setup) -> Fitted:
        """
        Make the model.

        Args:
            setup (`Setup`): rows, fresh models, features and arguments of this run; all random choices follow its
                seed.
        """

    @property
    def label(self) -> str:
        """What it is called in the report."""
        return self.title or self.name

    def settings(self) -> dict[str, Any]:
        """
        What its result depends on, for the fingerprint of a run: options, and functions by their names and a digest of
        their code. Of a class of your own the methods count too. [`identity_of`] says what it cannot see: give the
        strategy another name, or a new output folder, where something of that kind has changed.
        """
        own = [f.name for f in fields(self) if f.name not in _SAID]
        return {"class": identity_of(type(self)), **{name: identity_of(getattr(self, name)) for name in own}}
