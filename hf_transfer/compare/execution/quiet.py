"""Runs of a comparison without what each of them would say: there are many, and the comparison tells of each."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils import logging as hf_logging


__all__ = ["quietly"]


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """
    Without progress bars of files and rows and without messages of the training; warnings and errors are heard.

    Example:
        >>> with quietly():
        ...     hf_logging.is_progress_bar_enabled()
        False
    """
    own = logging.getLogger("hf_transfer")
    level, bars, rows = own.level, hf_logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    own.setLevel(max(level, logging.WARNING))
    hf_logging.disable_progress_bar()
    disable_progress_bars()
    try:
        with warnings.catch_warnings():
            # peft 0.21 reads the old name on every adapter; drop when it reads `is_activation_checkpointing`.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            yield
    finally:
        own.setLevel(level)
        if bars:
            hf_logging.enable_progress_bar()
        if rows:
            enable_progress_bars()
