from __future__ import annotations

import pytest

from hf_transfer.json_options import json_object


def read(text: str) -> dict:
    return json_object("option", text, cost="much would be lost", example='{"a": 1}')


def test_an_object_is_read_with_all_its_types():
    assert read('{"a": 1, "b": 1e-3, "c": [true, null], "d": {"e": "f"}}') == {
        "a": 1,
        "b": 0.001,
        "c": [True, None],
        "d": {"e": "f"},
    }
    assert read("{}") == {}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: 1", "Expecting value"),
        ("{'a': 1}", "double quotes"),
        ("[]", "it is a list"),  # empty, but no object
        ('[["a", 1]]', "it is a list"),  # what `dict` would take for one
        ("8", "it is a int"),
        ("null", "it is a NoneType"),
        ("", "Expecting value"),
    ],
)
def test_anything_else_says_what_was_seen_what_it_costs_and_what_to_type(text, why):
    with pytest.raises(ValueError, match=r"`--option .*` is no JSON object \(.*\): much would be lost. Write it") as e:
        read(text)
    assert why in str(e.value) and """as '{"a": 1}', with double quotes inside""" in str(e.value)
