"""Cached and online teacher give the same student, bit for bit."""

from __future__ import annotations

import pytest
import torch

from hf_transfer import LogitDistillation
from hf_transfer.teacher import Teacher
from hf_transfer.teacher.cache import cache_teacher
from hf_transfer.teacher.cached_teacher import CachedTeacher
from tests.models import TINY
from tests.teacher.cache_data import KIND, data_for, student_after


@pytest.mark.parametrize("kind", KIND)
def test_stored_in_full_precision_the_student_is_the_same(kind, tmp_path):
    torch.manual_seed(3)
    teacher = TINY[kind]()
    data = data_for(kind)
    online = student_after(kind, Teacher(teacher), data, tmp_path)
    cached = cache_teacher(teacher, data, batch_size=8, cache_dir=tmp_path / "cache", progress=False)
    offline = student_after(kind, CachedTeacher(), cached, tmp_path)
    assert online.keys() == offline.keys()
    for name, value in online.items():
        assert torch.equal(value, offline[name]), name
    other = student_after(kind, Teacher(TINY[kind]()), data, tmp_path)
    assert any(not torch.equal(value, other[name]) for name, value in online.items())


def test_the_teacher_itself_reads_the_columns(tmp_path):
    """With the objective of the package, and the same `Teacher` online and on cached data."""
    teacher = Teacher(TINY["bert"]())
    data = data_for("bert")
    online = student_after("bert", teacher, data, tmp_path, objective=LogitDistillation)
    cached = cache_teacher(teacher, data, batch_size=8, cache_dir=tmp_path / "cache", progress=False)
    teacher.source.model.forward = None  # whoever runs it now fails
    offline = student_after("bert", teacher, cached, tmp_path, objective=LogitDistillation)
    assert all(torch.equal(value, offline[name]) for name, value in online.items())
