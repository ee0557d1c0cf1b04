"""What runs of a comparison do not say, and that all is as before afterwards."""

from __future__ import annotations

import logging
import warnings

import pytest
from datasets import are_progress_bars_disabled
from transformers.utils import logging as hf_logging

from hf_transfer.compare.execution.quiet import quietly


@pytest.fixture
def own():
    logger = logging.getLogger("hf_transfer")
    level = logger.level
    logger.setLevel(logging.INFO)
    yield logger
    logger.setLevel(level)


def state(logger):
    return logger.level, hf_logging.is_progress_bar_enabled(), are_progress_bars_disabled()


@pytest.mark.parametrize("error", [None, RuntimeError])
def test_messages_and_bars_are_off_within_and_as_before_after(own, error):
    hf_logging.enable_progress_bar()
    before = state(own)
    try:
        with quietly():
            assert not own.isEnabledFor(logging.INFO) and own.isEnabledFor(logging.WARNING)
            assert not hf_logging.is_progress_bar_enabled() and are_progress_bars_disabled()
            if error is not None:
                raise error
    except RuntimeError:
        pass
    assert state(own) == before


def test_who_is_quiet_already_stays_so(own):
    own.setLevel(logging.ERROR)
    with quietly():
        assert not own.isEnabledFor(logging.WARNING)


def test_the_warning_of_every_adapter_is_not_heard_and_others_are():
    with quietly():
        warnings.warn("`is_gradient_checkpointing` is deprecated and will be removed", FutureWarning, stacklevel=1)
        with pytest.raises(FutureWarning, match="another"):
            warnings.warn("another", FutureWarning, stacklevel=1)
