"""Which weights of a model its checkpoint does not hold, so that they were made at random when it was loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from logging import CRITICAL
from typing import Any

from torch import nn
from transformers.utils import logging


__all__ = ["missing_weights"]

logger = logging.get_logger(__name__)


def missing_weights(model: nn.Module) -> set[str] | None:
    """
    Names of the parameters and buffers that the checkpoint lacks from which a model was loaded.

    The checkpoint is loaded once more onto the meta device, so that the same rules of `transformers` for renamed and
    mismatched weights decide as when it was loaded. Nothing is asked of the network.

    Args:
        model (`nn.Module`): the model; its `name_or_path` is a folder or a model in the Hub's cache.

    Returns:
        `None` if it was not loaded from a checkpoint, or that is no longer there.
    """
    owner: Any = model
    source = getattr(owner, "name_or_path", "")
    if not source or not hasattr(owner, "from_pretrained"):
        return None
    options: dict[str, Any] = {"revision": commit} if (commit := getattr(owner.config, "_commit_hash", None)) else {}
    try:
        with _quietly():
            _, info = type(owner).from_pretrained(
                source,
                config=owner.config,
                device_map="meta",
                ignore_mismatched_sizes=True,
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # whatever is wrong with the checkpoint, the model in memory is none the worse
        logger.info(f"What the checkpoint `{source}` lacks is unknown: {error}")
        return None
    # a mismatch is a name, or a name with both shapes
    mismatched = {key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]}
    return set(info["missing_keys"]) | mismatched


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the report and the progress bar of `from_pretrained`, which the user has seen for this checkpoint."""
    verbosity, shows_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shows_bars:
            logging.enable_progress_bar()
