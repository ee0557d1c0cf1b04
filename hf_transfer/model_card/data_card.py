"""`write_data_card`: the card of a data set that a model has made, such as features or a teacher's outputs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from hf_transfer.compare.tables import markdown_table
from hf_transfer.model_card.environment import versions
from hf_transfer.model_card.naming import public_name, shown
from hf_transfer.model_card.tables import setting_table
from hf_transfer.model_card.templates import render, template_text
from hf_transfer.model_card.writing import store_card


_KINDS = {
    "features": "Features: what a frozen model makes of the rows of a data set, to fit classifiers on.",
    "teacher outputs": "What a teacher predicts for the rows of a data set, for a student to learn from.",
}
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))

__all__ = ["DataCardFacts", "write_data_card"]


@dataclass
class DataCardFacts:
    """
    What the card of a data set says.

    Args:
        name (`str`): title.
        kind (`str`, *optional*, defaults to `"features"`): `features` or `teacher outputs`, or a sentence of your own.
        source (`str`, *optional*): data set whose rows they are: Hub id, embedded name or path, of which the last part
            is shown.
        source_config (`str`, *optional*): its configuration.
        model (`str`, *optional*): that made them: Hub id, embedded name or path.
        model_revision (`str`, *optional*): its commit.
        settings (`Mapping[str, Any]`, *optional*): of the extraction, such as pooling and type.
        columns (`Mapping[str, str]`, *optional*): what each column holds.
        splits (`Mapping[str, int]`, *optional*): rows by split.
        label_names (`list[str]`, *optional*): by class number.
        repo_id (`str`, *optional*): where it is, or will be, on the Hub.
        license (`str`, *optional*): of the rows, as the Hub abbreviates it.
        notes (`list[str]`, *optional*): further paragraphs on how it was made.
        code (`str`, *optional*): Python that uses it, in place of `load_dataset(repo_id)`.
        limits (`list[str]`, *optional*): sentences.
        tags (`list[str]`, *optional*): further ones for the Hub.
    """

    name: str
    kind: str = "features"
    source: str | None = None
    source_config: str | None = None
    model: str | None = None
    model_revision: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    splits: Mapping[str, int] = field(default_factory=dict)
    label_names: list[str] = field(default_factory=list)
    repo_id: str | None = None
    license: str | None = None
    notes: list[str] = field(default_factory=list)
    code: str | None = None
    limits: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)


def write_data_card(
    facts: DataCardFacts, folder: str | os.PathLike[str], *, template: str | os.PathLike[str] = "data"
) -> Path:
    """
    Write the card of a data set, README.md, into its folder, whose splits lie in `data/<split>.parquet`; a card that a
    person wrote keeps its text.

    Args:
        facts ([`DataCardFacts`]): what to say.
        folder (`str` or path): where the data lie.
        template (`str` or path, *optional*, defaults to `"data"`): a Jinja file of your own.

    Returns:
        `Path`: of the card.

    Raises:
        FileNotFoundError: if there is no such template.
        ImportError: if Jinja is not installed.

    Example:
        >>> import tempfile
        >>> facts = DataCardFacts("mine", source="embedded:digits", model="embedded:image", splits={"train": 1078})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     "| train | 1,078 |" in write_data_card(facts, folder).read_text(encoding="utf-8")
        True
    """
    source, source_hub_id, _ = public_name(facts.source)
    model, model_hub_id, commit = public_name(facts.model)
    rows = sum(facts.splits.values())
    files = [{"split": split, "path": f"data/{split}.parquet"} for split in facts.splits]
    data = DatasetCardData(
        configs=[{"config_name": "default", "data_files": files}] if files else None,
        license=facts.license,
        source_datasets=[source_hub_id] if source_hub_id else None,
        tags=list(dict.fromkeys(["hf_transfer", facts.kind.replace(" ", "-"), *facts.tags]))
        if facts.kind in _KINDS
        else ["hf_transfer", *facts.tags],
        size_categories=next((name for limit, name in _SIZES if rows < limit), "n>10M") if rows else None,
    )
    columns = [[f"`{name}`", holds] for name, holds in facts.columns.items()]
    sizes = [[name, f"{count:,}"] for name, count in facts.splits.items()]
    values = {
        **vars(replace(facts, source=source, model=model, model_revision=facts.model_revision or commit)),
        "about": _KINDS.get(facts.kind, facts.kind),
        "source_hub_id": source_hub_id,
        "model_hub_id": model_hub_id,
        "column_table": markdown_table(["column", "what it holds"], columns),
        "split_table": markdown_table(["split", "rows"], sizes),
        "setting_table": setting_table({name: shown(value) for name, value in facts.settings.items()}),
        "versions": versions(with_peft=False),
    }
    return store_card(render(DatasetCard, data, template_text(template), values), Path(folder))
