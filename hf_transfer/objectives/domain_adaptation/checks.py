"""What a method asks of the model it is attached to."""

from __future__ import annotations

from hf_transfer.batch import ModelSpec
from hf_transfer.objective import Objective


def require_classes(objective: Objective, spec: ModelSpec) -> None:
    """
    Refuse a model whose outputs are not one distribution over classes per row.

    Raises:
        ValueError: if the model is a regression or has several labels a row.
    """
    problem = getattr(getattr(spec.model, "config", None), "problem_type", None)
    if problem == "regression" or spec.num_labels < 2:
        raise ValueError(
            f"{type(objective).__name__} on a regression: it works on probabilities of classes, and one number has "
            "none. Leave it out; `MaximumMeanDiscrepancy`, `DeepCORAL` and `DomainAdversarial` align features alone."
        )
    if problem == "multi_label_classification":
        raise ValueError(
            f"{type(objective).__name__} on a model with several labels a row: their probabilities do not add up to "
            "one, as the method takes for granted. Leave it out; `MaximumMeanDiscrepancy`, `DeepCORAL` and "
            "`DomainAdversarial` align features alone."
        )
