"""One push is one commit: all of it is on the Hub afterwards, or nothing of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from transformers.utils import logging

from hf_transfer.hub.files import is_stale, pushed_files
from hf_transfer.hub.repository import open_repository, patiently
from hf_transfer.hub.staging import without_machine_paths
from hf_transfer.hub.telling import FAILURES, push_command, told


logger = logging.get_logger(__name__)

__all__ = ["push_files", "push_folder"]


def push_files(
    files: Mapping[str, str | os.PathLike[str] | bytes],
    repo_id: str,
    *,
    folder: str | os.PathLike[str],
    message: str,
    stale: Callable[[str], bool] = lambda path: False,
    token: str | bool | None = None,
    private: bool | None = None,
    revision: str | None = None,
    repo_type: str = "model",
) -> CommitInfo:
    """
    Push files in one commit: a push that is cut leaves the repository as it was, and the next is complete. Files that
    are there already are not sent again; where nothing changed there is no commit.

    Args:
        files (`Mapping[str, path or bytes]`): what to push, by path in the repository.
        repo_id (`str`): a repository that is there.
        folder (`str` or path): where all of it lies, for the message of a push that failed.
        message (`str`): of the commit.
        stale (`Callable`, *optional*): whether a file of the repository goes with the same commit.
        token, private, revision, repo_type: as for [`open_repository`].

    Raises:
        PermissionError: if the Hub refuses.
        ConnectionError: if it cannot be reached or is broken, after it was asked again for a while.
        OSError: if a file cannot be read.
    """
    api = HfApi()

    def once() -> CommitInfo:
        there = api.list_repo_files(repo_id, revision=revision, repo_type=repo_type, token=token)
        old = [path for path in there if path not in files and stale(path)]
        if old:
            logger.info(f"{repo_id} held files of another model, which this push removes: {', '.join(old)}")
        # made anew each time: they remember what the repository held when they were first sent
        sent = [CommitOperationAdd(path, _source(file)) for path, file in files.items()]
        operations = [*(CommitOperationDelete(path) for path in old), *sent]
        return api.create_commit(
            repo_id, operations, commit_message=message, revision=revision, repo_type=repo_type, token=token
        )

    try:
        return patiently(once)
    except FAILURES as error:
        command = push_command(folder, repo_id, private=private, revision=revision, repo_type=repo_type)
        raise told(
            error,
            what=f"The push to {repo_id}",
            then=f"Nothing changed there, and everything is in {folder}. Push it later with `{command}`.",
            token=token,
        ) from error


def push_folder(
    folder: str | os.PathLike[str],
    name: str,
    *,
    message: str | None = None,
    token: str | bool | None = None,
    private: bool | None = None,
    revision: str | None = None,
    repo_type: str = "model",
) -> CommitInfo:
    """
    Push what a run left in its folder: `python -m hf_transfer push FOLDER NAME`.

    Beyond `hf upload` it leaves out what is nobody's business (checkpoints, pickles, runs, logs) and takes what an
    older model left out of the repository, in one commit.

    Args:
        folder (`str` or path): `output_dir` of a run.
        name (`str`): `user/name` of the repository, which is created if there is none.
        message (`str`, *optional*): of the commit.
        token, private, revision, repo_type: as for [`open_repository`].

    Raises:
        FileNotFoundError, ValueError: as [`pushed_files`].
        PermissionError, ConnectionError: as [`push_files`].

    Example:
        >>> push_folder("no/such/folder", "user/x")
        Traceback (most recent call last):
        ...
        FileNotFoundError: There is no folder no/such/folder: nothing can be pushed from it. Name the ...
    """
    files = table_files(folder) if repo_type == "dataset" else pushed_files(folder)
    content = files if repo_type == "dataset" else without_machine_paths(files)
    repo_id = open_repository(name, token=token, private=private, revision=revision, repo_type=repo_type)
    return push_files(
        content,
        repo_id,
        folder=folder,
        message=message or f"Push {Path(folder).name or 'files'}",
        stale=is_old_split if repo_type == "dataset" else lambda path: is_stale(path, files),
        token=token,
        private=private,
        revision=revision,
        repo_type=repo_type,
    )


def table_files(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """The card and the Parquet files of a folder that holds tables: `README.md` and `data/*.parquet`."""
    folder = Path(folder)
    found = {f"data/{path.name}": path for path in sorted((folder / "data").glob("*.parquet"))}
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no data/*.parquet: there is no table to push. Name the `--output_dir` of "
            "`extract_features.py`."
        )
    card = folder / "README.md"
    return {**({"README.md": card} if card.is_file() else {}), **found}


def is_old_split(path: str) -> bool:
    """Whether a file of a repository of tables is one that a push takes the place of, if it does not bring it."""
    return path.startswith("data/") and path.endswith(".parquet")


def _source(file: str | os.PathLike[str] | bytes) -> str | bytes:
    return file if isinstance(file, bytes) else os.fspath(file)
