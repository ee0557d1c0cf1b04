"""Problems that the tests of strategies share: they are only read."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_transfer.compare.problem.problem import Problem
from tests.compare.strategies.problems import data, problem


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("strategies")


@pytest.fixture(scope="session")
def texts(place: Path) -> Problem:
    """Texts, with a teacher."""
    return problem("bert", place, teacher=True)


@pytest.fixture(scope="session")
def images(place: Path) -> Problem:
    return problem("vit", place)


@pytest.fixture(scope="session")
def taught_images(place: Path) -> Problem:
    return problem("vit", place, teacher=True)


@pytest.fixture(scope="session")
def shifted_texts(place: Path) -> Problem:
    """Texts, judged on those of another domain."""
    return problem("bert", place, target=data("bert", train=12, shift=1))


@pytest.fixture(scope="session")
def shifted_images(place: Path) -> Problem:
    return problem("vit", place, target=data("vit", train=12, shift=1))
