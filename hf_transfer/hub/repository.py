"""The repository that a run pushes to: its name, and whether it can be written to, known before the training."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError
from transformers.utils import logging

from hf_transfer.hub.telling import FAILURES, HTTP_ERROR, push_command, status_of, told, unreachable


if TYPE_CHECKING:
    from transformers import TrainingArguments

logger = logging.get_logger(__name__)

WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before a request is repeated that the client (huggingface_hub 2.4) itself gives up at once."""

_T = TypeVar("_T")
_ONCE = ("/commit/", "/repos/create")
"""Requests that the client sends once; it repeats all others of a push."""

__all__ = ["WAITS", "check_push", "open_repository", "patiently", "repository_name"]


def patiently(request: Callable[[], _T]) -> _T:
    """
    Repeat a request while the Hub is overloaded or out of reach, where the client does not.

    The client waits and repeats by `http_backoff` whatever it may repeat without harm; a commit or the creation of a
    repository it sends once. Ours do no harm the second time: a commit of what is there already is none.

    Args:
        request (`Callable`): may be carried out any number of times.
    """
    for wait in WAITS:
        try:
            return request()
        except (HfHubHTTPError, HTTP_ERROR) as error:
            status = status_of(error)
            if not (any(part in str(_address(error)) for part in _ONCE) and unreachable(error)):
                raise
            if isinstance(error, HfHubHTTPError) and status == 429:
                after = error.response.headers.get("Retry-After", "")
                wait = max(wait, float(after)) if after.isdigit() else wait
            logger.warning(f"The Hub {f'answered {status}' if status else 'was not reached'}; again in {wait:g} s.")
            time.sleep(wait)
    return request()


def _address(error: Exception) -> object:
    if isinstance(error, HfHubHTTPError):  # its own `request` is lost when it is made (huggingface_hub 2.4)
        return error.response.request.url
    try:
        return error.request.url  # pyright: ignore[reportAttributeAccessIssue]
    except RuntimeError:  # of the HTTP library, where the request was never made
        return None


def repository_name(args: TrainingArguments) -> str:
    """What `hub_model_id` says, else the name of the output folder."""
    return args.hub_model_id or Path(str(args.output_dir)).absolute().name


def open_repository(
    name: str,
    *,
    token: str | bool | None = None,
    private: bool | None = None,
    revision: str | None = None,
    repo_type: str = "model",
) -> str:
    """
    Create a repository, or see that the one that is there can be written to.

    Args:
        name (`str`): `user/name`, or `name` for the one who is logged in.
        token (`str`, *optional*): by default that of this machine.
        private (`bool`, *optional*): who may see a new one. One that is there is never changed.
        revision (`str`, *optional*): branch to push to, `main` by default.
        repo_type (`str`, *optional*, defaults to `"model"`): or `"dataset"`.

    Returns:
        `str`: `user/name`.

    Raises:
        PermissionError: if there is no token, or it may not write there; if the repository is public and `private` is
            asked for.
        ValueError: if the name is none.
        ConnectionError: if the Hub cannot be reached.
    """
    api = HfApi()
    try:
        repo_id = patiently(
            lambda: api.create_repo(name, token=token, private=private, repo_type=repo_type, exist_ok=True)
        ).repo_id
        # creating one that is there succeeds for a token that may only read; this does not, and changes nothing
        probe = CommitOperationAdd("README.md", b"# card\n")
        api.preupload_lfs_files(repo_id, [probe], token=token, repo_type=repo_type, revision=revision)
        public = bool(private) and not api.repo_info(repo_id, repo_type=repo_type, token=token).private
    except FAILURES as error:
        raise told(
            error,
            what=f"Opening the repository {name}",
            then="Nothing can be pushed there. Give a name of your own as `hub_model_id` and a token that may write, "
            "or leave `push_to_hub` out and push the folder later.",
            token=token,
        ) from error
    if public:
        raise PermissionError(
            f"`hub_private_repo=True` and {repo_id} is public: everybody would see what is pushed. Make it private in "
            "its settings, name another as `hub_model_id`, or leave `hub_private_repo` out."
        )
    return repo_id


def check_push(args: TrainingArguments, *, repo_type: str = "model") -> str | None:
    """
    Find out before a run whether it can be pushed after it. Only the main process asks.

    What the Hub refuses is an error now, not after hours of training. A Hub that is out of reach is a warning: a run
    on a machine without a network is kept in its folder and pushed from another.

    Args:
        args (`TrainingArguments`): of the run.
        repo_type (`str`, *optional*, defaults to `"model"`): or `"dataset"`.

    Returns:
        `str`: the repository; `None` if it is not known yet.

    Raises:
        PermissionError, ValueError: as [`open_repository`].
    """
    if args.process_index != 0:
        return None
    name = repository_name(args)
    options = {"private": args.hub_private_repo, "revision": args.hub_revision, "repo_type": repo_type}
    try:
        return open_repository(name, token=args.hub_token, **options)
    except ConnectionError as error:
        command = push_command(str(args.output_dir), name, **options)
        logger.warning(
            f"{str(error).split('. Nothing can be')[0]}. The run goes on and keeps everything in {args.output_dir}; "
            f"the push is tried again at its end. If that fails too, push it later with `{command}`."
        )
        return None
