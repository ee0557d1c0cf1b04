"""Labels given by name or by number."""

from __future__ import annotations

from typing import TypeAlias

from hf_transfer.batch import ModelSpec


__all__ = ["LabelKey", "label_number"]

LabelKey: TypeAlias = str | int
"""A label: its name in the model's configuration, or its number."""


def label_number(label: LabelKey, spec: ModelSpec, *, rule: str) -> int:
    """
    The number of a label.

    Args:
        label (`str` or `int`): name in `config.label2id`, or number.
        spec (`ModelSpec`): the model.
        rule (`str`): the rule that asks, for the error.

    Raises:
        ValueError: if the model has no such label.

    Example:
        >>> label_number(1, ModelSpec(feature_dim=4, num_labels=3), rule="example")
        1
    """
    names = dict(getattr(getattr(spec.model, "config", None), "label2id", None) or {})
    if isinstance(label, str):
        if label in names:
            return int(names[label])
        known = ", ".join(sorted(names, key=names.__getitem__)) or "none"
        raise ValueError(
            f"Rule `{rule}` speaks of label {label!r}; the labels of the model are {known}. It could not be evaluated."
            " Give one of these names, or set `id2label` and `label2id` when you load the model."
        )
    if not 0 <= label < spec.num_labels:
        raise ValueError(
            f"Rule `{rule}` speaks of label {label}; the model has {spec.num_labels}, counted from 0. It could not be "
            f"evaluated. Give a number from 0 to {spec.num_labels - 1}, or the label's name."
        )
    return int(label)
