"""What went wrong with the Hub, in words: without secrets, and with the command that pushes later."""

from __future__ import annotations

import os
import re
import shlex

from huggingface_hub import get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled


HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
"""What the client's HTTP library raises; which library it is (httpx, httpx2) depends on the client's version."""

FAILURES = (OSError, RuntimeError, ValueError, HTTP_ERROR)
"""Whatever may end a request: the client wraps what ends an upload into a `RuntimeError`."""

__all__ = ["FAILURES", "push_command", "status_of", "told", "unreachable", "without_secrets"]


def without_secrets(text: str, token: str | bool | None = None) -> str:
    """
    A text without the tokens that may stand in it.

    Args:
        text (`str`): of an error, say.
        token (`str`, *optional*): one that is known, beside that of this machine and whatever looks like one.

    Example:
        >>> without_secrets("Bearer hf_abcdefghijklmnop is not allowed, nor is secret", "secret")
        'Bearer *** is not allowed, nor is ***'
    """
    for secret in (token, get_token()):
        if isinstance(secret, str) and secret:
            text = text.replace(secret, "***")
    return re.sub(r"\bhf_[A-Za-z0-9]{16,}", "***", text)


def push_command(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    repo_type: str = "model",
) -> str:
    """
    The command that pushes a folder.

    Example:
        >>> push_command("my run", "user/x", private=True)
        "python -m hf_transfer push 'my run' user/x --private"
    """
    words = ["python", "-m", "hf_transfer", "push", os.fspath(folder), repo_id]
    words += ["--dataset"] if repo_type == "dataset" else []
    words += ["--private"] if private else []
    words += ["--revision", revision] if revision else []
    return shlex.join(words)


def status_of(error: BaseException) -> int | None:
    """The status that the Hub answered with, also where the client wrapped it; `None` if there was no answer."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, HfHubHTTPError):
            return seen.response.status_code
        seen = seen.__cause__
    return None


def unreachable(error: BaseException) -> bool:
    """Whether it may work later: there was no answer, or one of a Hub that is overloaded or broken."""
    status = status_of(error)
    if status is not None:
        return status in (408, 429) or status >= 500
    if isinstance(error, (LocalTokenNotFoundError, ValueError)):
        return False
    return isinstance(error, (OfflineModeIsEnabled, ConnectionError, HTTP_ERROR)) or (
        isinstance(error, RuntimeError) and isinstance(error.__cause__, HTTP_ERROR)
    )


def told(error: BaseException, *, what: str, then: str, token: str | bool | None = None) -> OSError | ValueError:
    """
    The error to raise in place of one of the client: of a built-in type, in three clauses.

    Args:
        error (`BaseException`): what the client raised.
        what (`str`): what was tried, `The push to user/x`.
        then (`str`): what that means and what to type instead.
        token (`str`, *optional*): taken out of the text.

    Returns:
        `PermissionError` where the Hub refused, `ValueError` for a name that it cannot have, `ConnectionError` where
        it was not reached or is broken, `OSError` for a disk that is full.
    """
    status, reason = status_of(error), _reason(error)
    text = without_secrets(f"{what} failed: {reason}. {then}", token)
    if status in (401, 402, 403, 404) or isinstance(error, LocalTokenNotFoundError):
        return PermissionError(text)
    if isinstance(error, HFValidationError):
        return ValueError(text)
    if status is None and isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):
        return OSError(error.errno, text)
    return ConnectionError(text)


def _reason(error: BaseException) -> str:
    """One line, without addresses: those of a storage carry signatures."""
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, and nothing may be sent"
    if isinstance(error, LocalTokenNotFoundError):
        return "there is no token; log in with `hf auth login`, set HF_TOKEN or give `hub_token`"
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, HfHubHTTPError):
        seen = seen.__cause__
    if isinstance(seen, HfHubHTTPError):
        said = seen.server_message or ""
        hint = {
            401: "; log in with `hf auth login`, or give a token that may write",
            403: "; the token may not write there",
            404: "; there is no such repository or branch, or the token may not see it",
        }.get(seen.response.status_code, "")
        return f"the Hub answered {seen.response.status_code}{f' ({_line(said)})' if said else ''}{hint}"
    root = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ is not None else error
    return (
        f"{type(root).__name__}, {_line(str(root))}" if isinstance(root, (HTTP_ERROR, OSError)) else _line(str(root))
    )


def _line(text: str) -> str:
    text = re.sub(r"https?://\S+", "(address)", " ".join(text.split()))
    return text.rstrip(".") if len(text) <= 300 else f"{text[:297]}..."
