"""Two ranks combine the gradients that one rank combines."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from tests.launching import launch
from tests.objectives.surgery_models import bare
from tests.objectives.surgery_ranks import SETTINGS, main


@pytest.mark.slow
def test_two_ranks_are_one(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    main(tmp_path / "one")
    done = launch("tests.objectives.surgery_ranks", tmp_path / "two", ranks=2)
    assert done.returncode == 0, done.stderr
    paths = ("one/0.safetensors", "two/0.safetensors", "two/1.safetensors")
    one, two, other = (load_file(tmp_path / path) for path in paths)
    assert one.keys() == two.keys() == other.keys()
    start = bare().state_dict()
    for method, on, _ in SETTINGS:
        key = "bert.encoder.layer.0.output.dense.weight"
        assert (one[f"{method}.{on}.{key}"] - start[key]).abs().max() > 1e-3  # it has trained
    for name, value in one.items():
        if "last_losses" in name:
            continue  # what each rank saw of its own rows
        if value.is_floating_point():
            torch.testing.assert_close(two[name], value, atol=2e-5, rtol=1e-3, msg=lambda m, name=name: f"{name}: {m}")
        assert torch.equal(two[name], other[name]), name
