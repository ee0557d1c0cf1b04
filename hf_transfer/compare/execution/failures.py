"""Why a run failed, in one line that may stand in a report: no path of the machine, no token."""

from __future__ import annotations

import re
import traceback

import torch

from hf_transfer.model_card.naming import scrubbed


MEMORY = "ran out of memory"
_OUT_OF_MEMORY = re.compile(r"out of memory|DefaultCPUAllocator|can't allocate memory", re.IGNORECASE)
_LONGEST = 300  # characters of a reason
_SECRETS = re.compile(r"\b(hf_|api_org_)[A-Za-z0-9]{10,}|(?<=Bearer )[^\s'\"]+|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")
_QUOTED_PATH = re.compile(r"""(?P<quote>['"`])(?:~?/|[A-Za-z]:[\\/]|\\\\)(?:(?!(?P=quote)).)*(?P=quote)""")
# not of an address such as https://..., nor the slash in `owner/name` or `and/or`
_PATH = re.compile(
    r"""(?:file://|(?<![\w:/.<>~$}])~?)/[^\s'"`,;:()<>|]*[^\s'"`,;:()<>|.]|\b[A-Za-z]:\\[^\s'"`,;()<>|]+"""
)

__all__ = ["DivergedError", "is_out_of_memory", "reason_of", "traceback_of"]


class DivergedError(ArithmeticError):
    """Weights or predictions of a run are not finite."""


def is_out_of_memory(error: BaseException) -> bool:
    """
    Whether an error means that memory was too small, on an accelerator or of the machine.

    Example:
        >>> is_out_of_memory(RuntimeError("CUDA error: out of memory")), is_out_of_memory(RuntimeError("shapes"))
        (True, False)
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, (RuntimeError, OSError)) and _OUT_OF_MEMORY.search(str(error)) is not None


def reason_of(error: BaseException) -> str:
    """
    Why a run failed: that memory ran out, that it diverged, or the type of the error and its first line.

    Example:
        >>> reason_of(ValueError("/home/anna/cats.png cannot be read\\nand more"))
        'ValueError: <path>/cats.png cannot be read'
        >>> reason_of(MemoryError())
        'ran out of memory'
    """
    lines = [line.strip() for line in str(error).splitlines()]
    line = public(next(filter(None, lines), ""))
    if isinstance(error, DivergedError):
        kind = "diverged"
    else:
        kind = MEMORY if is_out_of_memory(error) else type(error).__name__
    text = f"{kind}: {line}" if line else kind
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def public(text: str) -> str:
    """
    A line without tokens and paths of the machine; of a path the name of its file stays.

    Example:
        >>> public("google/vit and https://huggingface.co/x want hf_abcdefghijklmnop at C:\\\\Users\\\\anna")
        'google/vit and https://huggingface.co/x want <token> at <path>'
    """
    text = _SECRETS.sub("<token>", text)
    text = _QUOTED_PATH.sub(lambda found: found["quote"] + _file(found[0][1:-1]) + found["quote"], text)
    return scrubbed(_PATH.sub(lambda found: _file(found[0]), text))


def traceback_of(error: BaseException) -> str:
    """All of an error for whoever looks for its cause on this machine: with paths, without tokens."""
    return _SECRETS.sub("<token>", "".join(traceback.format_exception(error)))


def _file(path: str) -> str:
    name = re.split(r"[/\\]", path)[-1]
    return f"<path>/{name}" if re.fullmatch(r"[\w -]+\.\w+", name) else "<path>"
