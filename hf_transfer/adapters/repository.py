"""Where an adapter lies: a folder on disk, or one fetched from the Hub; nothing outside of it is opened."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers.utils import logging


logger = logging.get_logger(__name__)

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
# What opening an adapter can need: the adapter, its sidecar, statistics, and the files of tokenizers and processors.
_READ = ("*.json", "*.jinja", "*.model", "*.txt", "*.safetensors")
_PICKLE = re.compile(r"\.(?:bin|pt|pth|pkl|pickle|ckpt)$")

__all__ = ["CONFIG_NAME", "WEIGHTS_NAME", "adapter_folder", "check_names", "refuse_pickle", "unreachable"]


def adapter_folder(
    repo_id_or_path: str | os.PathLike[str],
    *,
    revision: str = "main",
    name: str = "default",
    token: str | bool | None = None,
) -> Path:
    """
    The local folder of an adapter: `repo_id_or_path` or its subfolder `name`, fetched from the Hub if it is no path.

    Args:
        repo_id_or_path (`str` or path): Hub id or folder.
        revision (`str`, *optional*, defaults to `"main"`): branch, tag or commit on the Hub.
        name (`str`, *optional*, defaults to `"default"`): the adapter's subfolder where there is one of that name.
        token (`str` or `bool`, *optional*): for the Hub.

    Raises:
        FileNotFoundError: if there is no such folder, or no adapter in it.
        OSError: if the Hub has no such repository or revision, or cannot be reached.
        ValueError: if a file would lie outside of the folder, or the weights are a pickle.
    """
    check_names([name], of="`name`")
    given = os.fspath(repo_id_or_path)
    top = Path(given).expanduser()
    if top.is_dir():
        _check_links(top)
    elif top.exists() or top.is_absolute() or given.startswith(("~", ".")) or given.count("/") != 1:
        raise FileNotFoundError(
            f"`{given}` is neither a folder nor a Hub id: there is no adapter to load. Check the spelling, or pass a "
            "Hub id such as `user/name`."
        )
    else:
        top = _fetch(given, revision, name, token)
    folder = top / name if (top / name / CONFIG_NAME).is_file() else top
    if not (folder / CONFIG_NAME).is_file():
        _refuse_missing(top, given, name)
    return folder


def check_names(names: Iterable[str], *, of: str) -> None:
    """Refuse names that are absolute or lead out of the folder they stand in."""
    for name in names:
        posix, windows = PurePosixPath(name), PureWindowsPath(name)
        leaves = ".." in posix.parts or ".." in windows.parts or posix.is_absolute() or windows.anchor
        if leaves or not posix.parts:
            raise ValueError(
                f"{of} names the file `{name}`, which would lie outside of its folder: reading or writing it could "
                "touch other files of this machine. Do not use this source; load an adapter from an author you trust."
            )


def unreachable(error: BaseException, what: str, instead: str) -> OSError | None:
    """
    What to tell of a failed request to the Hub; None where the error is of another kind.

    Args:
        error (`BaseException`): as `huggingface_hub` or `transformers` raised it.
        what (`str`): what was asked for, such as "the adapter `user/name`".
        instead (`str`): what to type instead.
    """
    chain: list[BaseException] = [error]
    while (following := chain[-1].__cause__ or chain[-1].__context__) is not None and following not in chain:
        chain.append(following)
    # No message repeats the address or headers of the request: the address may be signed, the headers hold the token.
    for link in chain:
        if isinstance(link, GatedRepoError):
            return OSError(
                f"{what} is gated: the Hub gives it only to those who were granted access. Ask for it on its page, "
                "then log in (`hf auth login`) or pass `token`."
            )
        if isinstance(link, RepositoryNotFoundError):
            return OSError(
                f"The Hub has no repository for {what}: it was moved, deleted or renamed, or it is private and the "
                f"token does not open it. {instead} If it is private, log in (`hf auth login`) or pass `token`."
            )
        if isinstance(link, RevisionNotFoundError):
            return OSError(f"The Hub does not have that revision of {what}: other weights would be read. {instead}")
    for link in chain:
        if isinstance(link, HfHubHTTPError):
            status = link.response.status_code
            return OSError(
                f"The Hub answered {status} to the request for {what}, and no copy of it is in the cache: there is "
                "nothing to load. Try again later, or pass the path of a local copy."
            )
    if any(isinstance(link, LocalEntryNotFoundError | ConnectionError) for link in chain):
        state = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the Hub cannot be reached"
        return OSError(
            f"{what} is not in the cache, and {state}: there is nothing to load. Load it once with a connection, or "
            "pass the path of a local copy."
        )
    return None


def refuse_pickle(names: Iterable[str], where: str) -> None:
    """Refuse weights that only `torch.load` opens, which may run whatever code they hold."""
    pickles = sorted(name for name in names if name.startswith("adapter_model") and _PICKLE.search(name))
    if pickles:
        raise ValueError(
            f"{where} holds its weights as a pickle ({pickles[0]}): opening one may run any code on this machine. If "
            "you trust the author, convert it once, state = torch.load(file, weights_only=True), then "
            f'safetensors.torch.save_file(state, "{WEIGHTS_NAME}"), and load that folder.'
        )


def _fetch(repo_id: str, revision: str, name: str, token: str | bool | None) -> Path:
    what = f"the adapter `{repo_id}` at `{revision}`"
    patterns: list[str] = [*_READ]
    try:
        listed = None if constants.HF_HUB_OFFLINE else _listed(repo_id, revision, token)
        if listed is not None:
            revision, files = listed
            check_names(files, of=f"The repository `{repo_id}`")
            patterns = [glob.escape(file) for file in _needed(files, name)]
            place = f"{name}/" if f"{name}/{CONFIG_NAME}" in files else ""
            if f"{place}{CONFIG_NAME}" in files and f"{place}{WEIGHTS_NAME}" not in files:
                inside = [file.removeprefix(place) for file in files if file.startswith(place)]
                refuse_pickle(inside, f"The repository `{repo_id}`")
        return Path(snapshot_download(repo_id, revision=revision, token=token, allow_patterns=patterns))
    except HFValidationError as error:
        raise FileNotFoundError(
            f"`{repo_id}` is neither a folder nor a Hub id: there is no adapter to load. Check the spelling, or pass "
            "a Hub id such as `user/name`."
        ) from error
    except Exception as error:
        told = unreachable(error, what, "Check the name and `revision`.")
        if told is None:
            raise
        raise told from error


def _listed(repo_id: str, revision: str, token: str | bool | None) -> tuple[str, list[str]] | None:
    """Commit and files of a repository; None where it cannot be asked, so that only the cache is left."""
    try:
        info = HfApi().model_info(repo_id, revision=revision, token=token)
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):
        raise
    except Exception as error:  # no connection, or the Hub is down
        logger.warning(f"The Hub cannot be asked for `{repo_id}` ({type(error).__name__}): the cache is tried.")
        return None
    return info.sha or revision, [sibling.rfilename for sibling in info.siblings or ()]


def _needed(files: Iterable[str], name: str) -> list[str]:
    """Of the files of a repository what opening one adapter can need; no checkpoints, no other adapter's weights."""
    kept = []
    for file in files:
        place, _, base = file.rpartition("/")
        wanted = place in ("", name) and any(fnmatch.fnmatch(base, pattern) for pattern in _READ)
        if wanted or base == CONFIG_NAME:  # of other adapters the config, to say which there are
            kept.append(file)
    return kept


def _check_links(folder: Path) -> None:
    """Refuse links out of the folder, but for those by which the Hub's cache stores its files."""
    inside = [folder.resolve()]
    if folder.resolve().parent.name == "snapshots":
        inside.append(folder.resolve().parents[1] / "blobs")
    for path in folder.iterdir():
        target = path.resolve()
        if path.is_symlink() and not any(place in target.parents for place in inside):
            raise ValueError(
                f"`{path.name}` in the folder of the adapter is a link that leaves it: another file of this machine "
                "would be read in its place. Put the file itself there, or load the adapter from its source."
            )


def _refuse_missing(top: Path, given: str, name: str) -> None:
    others = sorted(path.parent.name for path in top.glob(f"*/{CONFIG_NAME}"))
    if others:
        raise FileNotFoundError(
            f"`{given}` holds several adapters and none at its top or under `{name}`: which one is meant cannot be "
            f'guessed. Choose from {", ".join(others)}: load_adapter(..., name="{others[0]}").'
        )
    has_config = (top / "config.json").is_file()
    whole = "; it holds a complete model, for `AutoModel...from_pretrained`" if has_config else ""
    raise FileNotFoundError(
        f"`{given}` has no {CONFIG_NAME}{whole}: without it there is no adapter to load. Check the name, or save the "
        "adapter with `save_adapter`."
    )
