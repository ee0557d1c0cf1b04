"""Names of the columns the data modules agree on, and the search for the label column."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence


DOMAIN_COLUMN = "domain"
IGNORE_INDEX = -100
LABEL_COLUMNS = ("label", "labels", "ner_tags", "tags")


def listed(names: Iterable[object]) -> str:
    """
    The names in backticks, for an error message.

    Example:
        >>> listed(["text", "label"])
        '`text`, `label`'
    """
    return ", ".join(f"`{name}`" for name in names) or "none"


def find_label_column(
    columns: Collection[str], label_column: str | None = None, *, where: str = "the data set"
) -> str:
    """
    The column of the labels: `label_column` if given, else the only one of `label`, `labels`, `ner_tags`, `tags`.

    Args:
        columns (`Collection[str]`):
            Column names to search.
        label_column (`str`, *optional*):
            Name chosen by the user.
        where (`str`, *optional*, defaults to `"the data set"`):
            What the columns belong to; used in the error messages only.

    Raises:
        ValueError: if `label_column` is not among the columns, or if none or several of the known names are.

    Example:
        >>> find_label_column(["tokens", "ner_tags"])
        'ner_tags'
    """
    if label_column is not None:
        if label_column in columns:
            return label_column
        raise ValueError(
            f"{where} has no column `{label_column}`; its columns are {listed(columns)}. Without labels there is "
            "nothing to learn from. Pass `label_column=` with one of these names."
        )
    found = [name for name in LABEL_COLUMNS if name in columns]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"{where} has {len(found)} columns that may hold the labels: {listed(found)}. Taking the wrong one would "
            "train on something else, or leak labels. Pass `label_column=`, or remove the other with `remove_columns`."
        )
    raise ValueError(
        f"{where} has no label column; its columns are {listed(columns)}. Labels are looked for under the names "
        f"{listed(LABEL_COLUMNS)}. Pass `label_column=` with the column that holds them."
    )


def find_label_columns(
    columns: Sequence[Collection[str]], label_column: str | None, labelled: Collection[int]
) -> list[str | None]:
    """
    The label column of every domain, given the column names of each; `None` where an unlabelled domain has none.

    Raises:
        ValueError: as [`find_label_column`]; an unlabelled domain may lack the column, but not have two.

    Example:
        >>> find_label_columns([["text", "label"], ["text", "labels"], ["text"]], None, {0})
        ['label', 'labels', None]
    """
    found: list[str | None] = []
    for number, names in enumerate(columns):
        wanted = label_column if label_column in names or number in labelled else None
        if wanted is None and number not in labelled and not any(name in names for name in LABEL_COLUMNS):
            found.append(None)
        else:
            found.append(find_label_column(names, wanted, where=domain_name(number)))
    return found


def domain_name(number: int) -> str:
    """
    How error messages call a domain.

    Example:
        >>> domain_name(0), domain_name(2)
        ('the source (domain 0)', 'the target (domain 2)')
    """
    return f"the {'target' if number else 'source'} (domain {number})"


def check_columns(columns: Sequence[Sequence[str]]) -> None:
    """
    Check the input columns (labels left out) of every domain against those of the source.

    Raises:
        ValueError: if a domain has a column `domain`, or a column the source has not, or lacks one.
    """
    for number, names in enumerate(columns):
        if DOMAIN_COLUMN in names:
            raise ValueError(
                f"{domain_name(number)} has a column `{DOMAIN_COLUMN}` already; mix_domains writes the domain numbers "
                f'there. Rename it: `dataset.rename_column("{DOMAIN_COLUMN}", "domain_name")`.'
            )
        missing = [name for name in columns[0] if name not in names]
        extra = [name for name in names if name not in columns[0]]
        if missing or extra:
            raise ValueError(
                f"{domain_name(number)} has other columns than the source: it lacks {listed(missing)} and has "
                f"{listed(extra)} besides. Rows of one batch need the same columns. "
                "Rename or remove columns (`rename_column`, `remove_columns`, `select_columns`) until they agree."
            )


def check_not_empty(sizes: Sequence[int]) -> None:
    """
    Check that every domain has a row.

    Raises:
        ValueError: if a size is 0.
    """
    for number, size in enumerate(sizes):
        if size == 0:
            raise ValueError(
                f"{domain_name(number)} is empty; every batch must hold rows of every domain. "
                "Check the split and the filters that it went through."
            )
