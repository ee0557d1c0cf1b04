"""`choose`: the model that each validator would take."""

from __future__ import annotations

import math
from collections.abc import Mapping


__all__ = ["choose"]


def choose(scores_by_model: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """
    The model with the highest score by each validator; of equals the one named first.

    Args:
        scores_by_model (`Mapping[str, Mapping[str, float]]`):
            What [`validate_without_labels`] returned for each model, by name of the model. `oracle_accuracy` and
            `oracle_macro_f1` may be among them.

    Degenerate batches:
        A score that is not a number never wins; a validator without any other chooses nothing and is left out.

    Raises:
        ValueError: if there is no model; if the models were not scored by the same validators.

    Example:
        >>> choose({"source only": {"snd": 2.0, "dev": -0.4}, "DANN": {"snd": 3.0, "dev": -0.5}})
        {'snd': 'DANN', 'dev': 'source only'}
    """
    if not scores_by_model:
        raise ValueError(
            "No model was given: there is nothing to choose. Pass the scores of `validate_without_labels` by name."
        )
    first, *others = scores_by_model
    for other in others:
        differ = sorted(scores_by_model[first].keys() ^ scores_by_model[other].keys())
        if differ:
            raise ValueError(
                f"`{first}` and `{other}` were not scored alike ({', '.join(differ)} is there for one of them): the "
                "choice would be among those that happen to have a score. Validate all with the same `validators` "
                "and data."
            )
    chosen: dict[str, str] = {}
    for validator in scores_by_model[first]:
        scores = {model: own[validator] for model, own in scores_by_model.items() if not math.isnan(own[validator])}
        if scores:
            chosen[validator] = max(scores, key=scores.__getitem__)
    return chosen
