"""Scale and shift in the files of a checkpoint."""

from __future__ import annotations

import pytest
import torch

from hf_transfer.meta.scale_shift import add_scale_shift, scale_shift_state
from hf_transfer.meta.state import SCALE_SHIFT_NAME, load_scale_shift, save_scale_shift
from tests.meta.rows import model_of


def test_they_come_back(tmp_path):
    model = add_scale_shift(model_of())
    state = {name: torch.randn_like(value) for name, value in scale_shift_state(model).items()}
    save_scale_shift(state, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [SCALE_SHIFT_NAME]
    load_scale_shift(model, tmp_path)
    assert all(torch.equal(value, state[name]) for name, value in scale_shift_state(model).items())


def test_a_folder_that_does_not_fit_is_refused(tmp_path):
    model = add_scale_shift(model_of())
    with pytest.raises(ValueError, match=f"has no {SCALE_SHIFT_NAME} that fits .* Resume from a checkpoint"):
        load_scale_shift(model, tmp_path)
    save_scale_shift(scale_shift_state(add_scale_shift(model_of("resnet"))), tmp_path)
    with pytest.raises(ValueError, match="that fits this model"):
        load_scale_shift(model, tmp_path)
    load_scale_shift(model_of(), tmp_path)  # nothing to restore
