"""Methods of domain adaptation by the names that a command line knows, alone or joined by `+`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from hf_transfer import callbacks, objectives
from hf_transfer.compare.methods import Method as Ingredients
from hf_transfer.compare.methods import Vocabulary, required, snake_case
from hf_transfer.domain_adaptation.weighting import WEIGHTINGS


SOURCE_ONLY = "source_only"
TARGET_ORACLE = "target_oracle"
REFERENCES = (SOURCE_ONLY, TARGET_ORACLE)
"""Runs that adapt nothing: the labelled source alone, and the target with its labels."""

ACRONYMS = {
    "dann": "DomainAdversarial",
    "cdan": "ConditionalAdversarial",
    "mdd": "MarginDisparity",
    "wdgrl": "WassersteinDistance",
    "mcd": "MaximumClassifierDiscrepancy",
    "dan": "MaximumMeanDiscrepancy",
    "jan": "JointMaximumMeanDiscrepancy",
    "dsan": "LocalMaximumMeanDiscrepancy",
    "coral": "DeepCORAL",
    "cmd": "CentralMomentDiscrepancy",
    "swd": "SlicedWasserstein",
    "entropy": "EntropyMinimization",
    "im": "InformationMaximization",
    "mcc": "MinimumClassConfusion",
    "bnm": "BatchNuclearNorm",
    "afn": "AdaptiveFeatureNorm",
    "bsp": "BatchSpectralPenalization",
    "pseudo_labels": "PseudoLabels",
    "fixmatch": "FixMatch",
    "adabn": "AdaptBatchNorm",
}
"""The field's names of classes that are exported by `hf_transfer.objectives` or `hf_transfer.callbacks`."""

CALLBACKS = ("AdaptBatchNorm",)

__all__ = [
    "ACRONYMS",
    "REFERENCES",
    "SOURCE_ONLY",
    "TARGET_ORACLE",
    "VOCABULARY",
    "Method",
    "known_parts",
    "parse_method",
]


@dataclass(frozen=True)
class Method(Ingredients):
    """One way to adapt: terms, callbacks and weights of the source rows; or a reference run, which has none."""

    @property
    def needs_target(self) -> bool:
        """Whether batches hold rows of the target."""
        return any(part.is_objective for part in self.parts)

    @property
    def weighting(self) -> Any:
        """What gives the source rows their weights, or `None`."""
        return next((part.built() for part in self.parts if part.is_weighting), None)


@cache
def known_parts() -> dict[str, Any]:
    """
    Every ingredient by name: acronyms first, then the classes in snake case.

    Objectives that need more than options, such as a source model, are left out.
    """
    classes = {name: getattr(objectives, name) for name in objectives.__all__}
    classes = {name: made for name, made in classes.items() if not required(made)}
    classes |= {name: getattr(callbacks, name) for name in CALLBACKS if name in callbacks.__all__}
    known = {acronym: classes[name] for acronym, name in ACRONYMS.items() if name in classes}
    return {**known, **WEIGHTINGS, **{snake_case(name): made for name, made in classes.items()}}


VOCABULARY = Vocabulary(Method, known_parts, REFERENCES, trial=lambda: {"data": (), "num_domains": 2})
"""What `--methods` and `--loss` know."""


def parse_method(text: str) -> Method:
    """
    The method that a word of the command line names: one ingredient, or several joined by `+`.

    Raises:
        ValueError: for an unknown name, or a reference run that is to be joined with something.

    Example:
        >>> method = parse_method("dann+l2sp")
        >>> method.name, [type(term).__name__ for term in method.objectives(num_domains=2)]
        ('dann+l2sp', ['DomainAdversarial', 'L2SP'])
    """
    return VOCABULARY.parse(text)
