"""The package's front: every name it gives is there."""

from __future__ import annotations

import pytest

from hf_transfer import few_shot


def test_every_name_is_there():
    assert dir(few_shot) == sorted(few_shot.__all__)
    assert all(getattr(few_shot, name).__name__ == name for name in few_shot.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module `hf_transfer.few_shot` has no attribute `protonet`"):
        few_shot.protonet  # noqa: B018
