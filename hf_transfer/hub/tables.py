"""Tables on the Hub: Parquet files and a data card, in one commit, for `datasets.load_dataset`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from huggingface_hub import CommitInfo
from transformers.utils import logging

from hf_transfer.files import whole_file
from hf_transfer.hub.pushing import is_old_split, push_files
from hf_transfer.hub.repository import open_repository


logger = logging.get_logger(__name__)

__all__ = ["push_table", "table_card", "write_card_file"]


def table_card(title: str, paragraphs: Sequence[str], splits: Mapping[str, int], *, tags: Sequence[str]) -> str:
    """
    The card of a data set of tables: a header that names the files of each split, then text.

    Args:
        title (`str`): the heading.
        paragraphs (`Sequence[str]`): what the rows are, in Markdown.
        splits (`Mapping[str, int]`): rows of each split, which lies in `data/<split>.parquet`.
        tags (`Sequence[str]`): for the search of the Hub.

    Example:
        >>> print(table_card("Features", ["Of a model."], {"train": 3}, tags=["feature-extraction"]))
        ---
        configs:
        - config_name: default
          data_files:
          - split: train
            path: data/train.parquet
        tags:
        - feature-extraction
        ---
        <BLANKLINE>
        # Features
        <BLANKLINE>
        Of a model.
        <BLANKLINE>
        | split | rows |
        | --- | --- |
        | train | 3 |
        <BLANKLINE>
    """
    files = [{"split": split, "path": f"data/{split}.parquet"} for split in splits]
    header = {"configs": [{"config_name": "default", "data_files": files}], "tags": list(tags)}
    rows = "\n".join(f"| {split} | {count} |" for split, count in splits.items())
    text = "\n\n".join([f"# {title}", *paragraphs, f"| split | rows |\n| --- | --- |\n{rows}"])
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n\n{text}\n"


def write_card_file(card: str, folder: str | os.PathLike[str]) -> Path:
    """Write a card as README.md into a folder. Atomic."""
    with whole_file(Path(folder) / "README.md") as unfinished:
        unfinished.write_text(card, encoding="utf-8")
    return Path(folder) / "README.md"


def push_table(
    files: Mapping[str, Path],
    name: str,
    *,
    folder: str | os.PathLike[str],
    message: str,
    token: str | bool | None = None,
    private: bool | None = None,
    revision: str | None = None,
) -> CommitInfo:
    """
    Push the Parquet files of all splits, with the README.md of their folder, as a data set.

    Args:
        files (`Mapping[str, Path]`): a Parquet file for each split. Splits that the repository holds beside go.
        name (`str`): `user/name`.
        folder (`str` or path): where the files lie, in `data`, and the card.
        message (`str`): of the commit.
        token, private, revision: as for [`open_repository`].

    Raises:
        PermissionError, ConnectionError: as [`push_files`].
    """
    repo_id = open_repository(name, token=token, private=private, revision=revision, repo_type="dataset")
    card = Path(folder) / "README.md"
    sent = {f"data/{split}.parquet": file for split, file in files.items()}
    commit = push_files(
        {
            **({"README.md": card} if card.is_file() else {}),
            **sent,
        },
        repo_id,
        folder=folder,
        message=message,
        stale=is_old_split,
        token=token,
        private=private,
        revision=revision,
        repo_type="dataset",
    )
    logger.info(f"The table is on the Hub: datasets/{repo_id}")
    return commit
