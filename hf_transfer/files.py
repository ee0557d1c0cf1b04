"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


__all__ = ["whole_file"]


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """
    Where to write a file that takes its name when the block ends; after an error the old one is as it was.

    Args:
        path (`str` or `os.PathLike`): the file; its folder is made if there is none.

    Raises:
        OSError: if it cannot be written; nothing is left behind.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with whole_file(folder / "scores.json") as unfinished:
        ...     _ = unfinished.write_text("{}")
        >>> [file.name for file in folder.iterdir()]
        ['scores.json']
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # beside the target, so that renaming cannot cross file systems; every writer has a name of its own
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield unfinished
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())  # a name must not survive a power cut that its content does not
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
