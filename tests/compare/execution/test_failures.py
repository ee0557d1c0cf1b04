"""Why a run failed."""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest
import torch

from hf_transfer.compare.execution.failures import DivergedError, is_out_of_memory, public, reason_of, traceback_of


TOKEN = "hf_" + "aB3" * 11


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("MPS backend out of memory"),
        OSError(12, "Cannot allocate memory: out of memory"),
        MemoryError(),
    ],
)
def test_memory_that_ran_out_is_called_so(error):
    assert is_out_of_memory(error) and reason_of(error).startswith("ran out of memory")


def test_a_real_allocation_that_is_too_large():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert reason_of(caught.value).startswith("ran out of memory: ")


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2"), ValueError("out of memory"), KeyError("x")])
def test_other_errors_are_none_of_memory(error):
    assert not is_out_of_memory(error) and reason_of(error).startswith(type(error).__name__ + ": ")


def test_the_first_line_that_says_something_is_told():
    assert reason_of(ValueError("\n  shapes differ  \nmore")) == "ValueError: shapes differ"
    assert reason_of(ValueError()) == "ValueError"
    assert reason_of(DivergedError("why")) == "diverged: why"
    assert len(reason_of(ValueError("x" * 5000))) == 300


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no file at /home/anna/data/cats.png.", "no file at <path>/cats.png."),
        ("no file '/home/anna/my data/x.json' here", "no file '<path>/x.json' here"),
        ("in /srv/models/vit-base, line 3", "in <path>, line 3"),
        ("~/models/x and file:///srv/x", "<path> and <path>"),
        (r"C:\Users\anna\x.txt is gone", r"<path>/x.txt is gone"),
        (f"401 for https://user:secret@hub.co/x?token={TOKEN}", "401 for https://<token>@hub.co/x?token=<token>"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer <token>"),
        (f"token={TOKEN}, hf_transfer", "token=<token>, hf_transfer"),
        ("google/vit-base and/or https://huggingface.co/google/vit-base", None),
        ("shapes (3/4) and 1 / 2, a ratio of 3/4", None),
    ],
)
def test_paths_and_tokens_do_not_get_into_reports(text, told):
    assert public(text) == (text if told is None else told)


def test_folders_of_whoever_runs_it_are_not_told():
    for folder in (Path.home() / "runs", Path.cwd()):
        assert str(folder) not in public(f"'{folder}' and {folder} and x={folder}")
    assert f"/{getpass.getuser()}/" not in public(f"{Path('/home') / getpass.getuser() / 'x'}")


def test_a_traceback_has_its_causes_and_no_token():
    def inner():
        raise KeyError(f"Bearer {TOKEN}")

    with pytest.raises(ValueError) as caught:
        try:
            inner()
        except KeyError as error:
            raise ValueError(f"bad {TOKEN}") from error
    told = traceback_of(caught.value)
    assert TOKEN not in told and "KeyError" in told and "ValueError: bad <token>" in told and __file__ in told
