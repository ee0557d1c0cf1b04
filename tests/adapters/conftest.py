"""Base models and saved adapters of every kind, made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hf_transfer.adapters.saving import save_adapter
from tests.adapters.saved import adapted, logits, save_base


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of base models by kind."""
    kinds = ("text", "tokens", "image", "norms")
    return {kind: save_base(kind, tmp_path_factory.mktemp(f"base_{kind}")) for kind in kinds}


@pytest.fixture(scope="session")
def saved(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Folders of adapters by kind, and the logits they gave when they were saved."""
    top = tmp_path_factory.mktemp("adapters")
    found = {}
    for kind, base in bases.items():
        with torch.random.fork_rng():
            model = adapted(kind, base)
        found[kind] = save_adapter(model, top / kind), logits(model)
    return found
