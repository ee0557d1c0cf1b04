"""Which row of a head is which class of a probe, told by name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np


if TYPE_CHECKING:
    from hf_transfer.features.probes.probe import Probe


_PLACEHOLDER = re.compile(r"LABEL_\d+")
_PROBLEMS = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}

__all__ = ["name_classes", "order_of"]


def order_of(probe: Probe, outputs: int, config: Any) -> np.ndarray:
    """
    The row of a head with `outputs` rows for each class of a probe.

    By name where both have names, else by number.

    Raises:
        ValueError: if the head has too few rows or other names, or the model is for another kind of labels.
    """
    wanted, present = _PROBLEMS.get(probe.task), getattr(config, "problem_type", None)
    if wanted is not None and present is not None and wanted != present:
        raise ValueError(
            f"The model's `problem_type` is {present}, the probe is for {wanted}: its loss and its answers would not "
            f'be those of the probe. Load the model with `problem_type="{wanted}"`.'
        )
    names = probe.label_names
    if outputs < probe.classes or (names and outputs != len(names)):
        raise ValueError(
            f"The head of the model has {outputs} outputs, the probe {probe.classes}"
            f"{f' ({chr(44).join(names[:5])}, ...)' if names else ''}: classes would be missing or never meant. Load "
            f"the model with `num_labels={probe.classes}`."
        )
    own = _names(config, outputs)
    if not names or own is None:
        return np.arange(probe.classes)
    for fold in (str, str.casefold):
        by_name = {fold(name): number for number, name in enumerate(own)}
        if len(by_name) == len(own) and {fold(name) for name in names} == by_name.keys():
            return np.array([by_name[fold(name)] for name in names])
    raise ValueError(
        f"The classes of the model are {', '.join(own[:5])}, those of the probe {', '.join(names[:5])}: a class would "
        "get the weights of another. Load the model with `id2label=` and `label2id=` of the probe's `label_names`."
    )


def name_classes(probe: Probe, outputs: int, config: Any) -> None:
    """Names and kind of the labels into a model's configuration that says nothing of them."""
    if config is None:
        return
    if probe.label_names and _names(config, outputs) is None:
        config.id2label = dict(enumerate(probe.label_names))
        config.label2id = {name: number for number, name in enumerate(probe.label_names)}
    if probe.task in _PROBLEMS and getattr(config, "problem_type", None) is None:
        config.problem_type = _PROBLEMS[probe.task]


def _names(config: Any, outputs: int) -> list[str] | None:
    """The names of the classes in the order of the head's rows, unless they are placeholders."""
    found = getattr(config, "id2label", None) or {}
    names = [str(found.get(number, "LABEL_0")) for number in range(outputs)]
    return None if all(_PLACEHOLDER.fullmatch(name) for name in names) else names
