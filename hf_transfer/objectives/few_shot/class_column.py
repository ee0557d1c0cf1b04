"""What few-shot objectives ask of their training set and their model: one class a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils.data import Subset


__all__ = ["class_column", "refuse_other_problems"]


def class_column(name: str, dataset: Any) -> Any:
    """
    The classes of a training set as the samplers of episodes and pairs take them: the data set itself where it has
    columns, so that no input is decoded, else the labels of its rows.

    Args:
        name (`str`): of the objective that asks.
        dataset (`datasets.Dataset` or torch dataset): with a column `labels` or `label`.

    Raises:
        ValueError: if the data set is a stream, or its rows have no labels.

    Example:
        >>> class_column("PairSimilarity", [{"labels": 1}, {"labels": 0}])
        [1, 0]
    """
    if not hasattr(dataset, "__len__"):
        raise ValueError(
            f"{name} on a {type(dataset).__name__}: it draws rows by their class, and a stream is not known before it "
            "is read. Give a data set of rows, such as `Dataset.from_list(list(stream))`."
        )
    if hasattr(dataset, "column_names") or (isinstance(dataset, Subset) and hasattr(dataset.dataset, "column_names")):
        return dataset
    rows: list[Any] = [dataset[number] for number in range(len(dataset))]
    first: Any = rows[0] if rows else {}
    columns = sorted(first) if isinstance(first, Mapping) else [f"a {type(first).__name__}"]
    column = next((column for column in ("labels", "label", "target_values") if column in columns), None)
    if column is None:
        seen = f"rows of {', '.join(columns)}" if rows else "no rows"
        raise ValueError(
            f"{name} on a data set with {seen}: without `labels` it cannot tell which rows are of one class. Add "
            "them, -100 where a row has no label."
        )
    return [int(row[column]) for row in rows]


def refuse_other_problems(name: str, model: Any, num_labels: int) -> None:
    """
    Refuse a model that is known not to put each row into one class.

    Raises:
        ValueError: for regression, several labels a row and token classification.
    """
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    problem = getattr(getattr(inner, "config", None), "problem_type", None)
    seen = {"multi_label_classification": "several labels a row", "regression": "a regression"}.get(problem or "", "")
    if num_labels < 2:
        seen = "a regression"
    if "TokenClassification" in type(inner).__name__:
        seen = "a token classifier"
    if seen:
        raise ValueError(
            f"{name} on {seen}: it compares whole rows by their one class, and there is none. Leave it out, or train "
            "a classifier with one class a row."
        )
