"""Tables on the Hub: Parquet files and a data card, in one commit, for `datasets.load_dataset`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import CommitInfo
from transformers.utils import logging

from hf_transfer.hub.pushing import is_old_split, push_files
from hf_transfer.hub.repository import open_repository


logger = logging.get_logger(__name__)

__all__ = ["push_table"]


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
        {**({"README.md": card} if card.is_file() else {}), **sent},
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
