"""What tells strategies apart after a restart."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import types
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hf_transfer.compare.strategies import identity
from hf_transfer.compare.strategies.identity import identity_of


CODE = """
WEIGHT = {weight}
NAMES = frozenset({{"a", "b", "c", "d"}})

def scale(value):
    return value * {factor}

class Norm:
    power = {power}

    def forward(self, batch):
        return {body}

    @staticmethod
    def made():
        return {static}

    @property
    def wide(self):
        return {wide}

def make(setup):
    "{doc}"
    return [Norm, scale(WEIGHT), "a" in {{"a", "b", "c", "d"}}]
"""
GIVEN = {"weight": 1, "factor": 2, "power": 2, "body": "batch", "static": 1, "wide": 1, "doc": "one"}


def module(**changes: Any) -> types.ModuleType:
    made = types.ModuleType("notebook")
    exec(CODE.format(**{**GIVEN, **changes}), vars(made))
    return made


def test_the_same_source_is_the_same_and_every_edit_is_another():
    first = identity_of(module().make)
    assert first.startswith("notebook.make#")
    assert identity_of(module().make) == first
    for name in ("weight", "factor", "power", "body", "static", "wide"):
        assert identity_of(module(**{name: 7}).make) != first, name


def test_running_a_function_does_not_change_its_identity():
    """Python rewrites bytecode that runs often."""
    made = module()
    first = identity_of(made.make)
    for _ in range(5_000):
        made.make(None)
    assert identity_of(made.make) == first


def test_lines_and_module_names_of_other_files_do_not_count():
    moved = types.ModuleType("notebook")
    exec("\n\n\n" + CODE.format(**GIVEN), vars(moved))
    assert identity_of(moved.make) == identity_of(module().make)


# Without torch, which takes seconds to import and is asked for a class only.
ALONE = """
import importlib.util, json, sys, types
torch = types.ModuleType("torch")
torch.Tensor = type("Tensor", (), {})
sys.modules["torch"] = torch
spec = importlib.util.spec_from_file_location("identity", sys.argv[1])
identity = importlib.util.module_from_spec(spec)
spec.loader.exec_module(identity)
made = types.ModuleType("notebook")
exec(sys.argv[2], vars(made))
print(json.dumps(identity.identity_of([made.make, {"b": {"x", "y", "z"}, "a": 1}, len])))
"""


def test_the_same_in_processes_that_hash_differently():
    said = {
        subprocess.run(
            [sys.executable, "-c", ALONE, identity.__file__, CODE.format(**GIVEN)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    here = json.dumps(identity_of([module().make, {"b": {"x", "y", "z"}, "a": 1}, len]))
    assert said == {here + "\n"}


def test_what_a_function_closes_over_counts():
    def make(weight):
        return lambda setup: weight

    def later(never):
        made = lambda: unset  # noqa: E731
        if never:
            unset = 1
        return made

    assert identity_of(make(0.1)) == identity_of(make(0.1)) != identity_of(make(0.2))
    assert identity_of(later(False)) == identity_of(later(False)) != identity_of(later(True))


def test_defaults_count():
    assert identity_of(lambda a=1: a) != identity_of(lambda a=2: a)
    assert identity_of(lambda *, a=1: a) != identity_of(lambda *, a=2: a)


def test_partial_functions_and_methods_count_what_they_hold():
    def scaled(setup, weight):
        return weight

    @dataclass
    class Maker:
        weight: float

        def make(self, setup):
            return self.weight

    first, second = (identity_of(functools.partial(scaled, weight=weight)) for weight in (1, 2))
    assert first != second
    assert identity_of(Maker(1.0).make) == identity_of(Maker(1.0).make) != identity_of(Maker(2.0).make)


def test_functions_that_use_each_other_come_to_an_end():
    made = types.ModuleType("notebook")
    exec("def one(n): return two(n)\ndef two(n): return one(n)\n", vars(made))
    assert identity_of(made.one) == identity_of(made.one)
    ring: list[Any] = []

    class Node:
        pass

    node: Any = Node()
    node.ring, node.itself = ring, node
    assert json.dumps(identity_of(node))


class Colour(Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (None, None),
        (1.5, 1.5),
        ({"b": (1, 2), "a": {3, 1}}, {"a": [1, 3], "b": [1, 2]}),
        (frozenset({"b", "a"}), ["a", "b"]),
        (Colour.RED, "red"),
        (torch.float16, "torch.dtype"),
        (len, "builtins.len"),
        (nn.Linear, "torch.nn.modules.linear.Linear"),
    ],
)
def test_values_as_json_holds_them(value, wanted):
    if value is not torch.float16:
        assert identity_of(value) == wanted
    assert json.loads(json.dumps(identity_of(value))) == identity_of(value)


def test_numbers_in_arrays_and_modules_count():
    one, two = np.arange(3), np.arange(3) + 1
    assert identity_of(one) == identity_of(one.copy()) != identity_of(two)
    assert identity_of(torch.ones(2, dtype=torch.bfloat16)) != identity_of(torch.ones(2))
    layer = nn.Linear(2, 2)
    before = identity_of(layer)
    assert identity_of(layer) == before
    with torch.no_grad():
        layer.weight.add_(1)
    assert identity_of(layer) != before
