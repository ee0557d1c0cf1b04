"""Starting `tests.invariants.run` in processes of its own and comparing what it leaves."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.invariants.methods import HALVES, REFUSED
from tests.launching import launch


def run(out: Path, *options: object, ranks: int = 1, check: bool = True) -> dict[str, torch.Tensor]:
    """Train in a process of its own (or `ranks` of them) and return the final state."""
    done = launch("tests.invariants.run", "--out", out, *options, ranks=ranks)
    if check and done.returncode:
        raise AssertionError(done.stdout[-2000:] + done.stderr[-6000:])
    return load_file(out / "result.safetensors") if (out / "result.safetensors").exists() else {}


def log_of(out: Path) -> list[dict]:
    return [entry for entry in json.loads((out / "log.json").read_text()) if "loss" in entry]


def assert_close(first: dict, second: dict, *, atol: float) -> None:
    keys = {key for key in first if not key.startswith("optimizer.")}
    assert keys and keys == {key for key in second if not key.startswith("optimizer.")}
    for key in keys:
        torch.testing.assert_close(first[key], second[key], atol=atol, rtol=1e-3, msg=lambda m, key=key: f"{key}: {m}")


def assert_identical(first: dict, second: dict) -> None:
    assert first and first.keys() == second.keys()
    different = [key for key in first if not torch.equal(first[key], second[key])]
    assert not different, different


def outcomes_of(out: Path, half: int, modality: str, tuning: str, *, ranks: int) -> dict[str, dict[str, Any]]:
    """What became of every method of a half of `tests.invariants.methods` in a process for the whole group."""
    options = ["--out", out, "--half", half, "--modality", modality, "--tuning", tuning]
    done = launch("tests.invariants.methods", *options, ranks=ranks)
    if done.returncode:
        raise AssertionError(done.stdout[-2000:] + done.stderr[-6000:])
    return json.loads((out / "outcomes.json").read_text())


def outcomes_by_half(folders: Any, *, ranks: int) -> Callable[[int, str, str], dict[str, dict[str, Any]]]:
    """What became of a half of the methods, each trained when it is first asked for; `folders` makes folders."""
    found: dict[int, dict[str, dict[str, Any]]] = {}

    def of(half: int, modality: str, tuning: str) -> dict[str, dict[str, Any]]:
        if half not in found:
            found[half] = outcomes_of(folders.mktemp("methods"), half, modality, tuning, ranks=ranks)
        return found[half]

    return of


def methods_of(groups: Sequence[tuple[int, str, str]]) -> list[tuple[str, int, str, str]]:
    """Every method of the halves of some groups, as parameters of a test."""
    return [(method, *group) for group in groups for method in HALVES[group[0]]]


def check_outcome(method: str, modality: str, tuning: str, outcomes: dict[str, dict[str, Any]]) -> None:
    """The method trained, and the resumed run is the straight one; or it was refused for the known reason."""
    outcome = outcomes[method]
    reason = REFUSED.get((method, modality, tuning)) or REFUSED.get((method, modality, "any"))
    if reason is not None:
        assert re.search(reason, outcome.get("error", "")), outcome
        return
    assert "error" not in outcome, outcome["error"]
    assert outcome["finite"] and outcome["moved"]
    assert outcome["same"], outcome["different"]
