from __future__ import annotations

import pytest
from datasets import Audio, ClassLabel, Features, Image, List, Value

from hf_transfer.data.input_columns import find_input_columns, infer_task


STRING = Value("string")
LABEL = ClassLabel(names=["a", "b"])


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"img": Image(), "caption": STRING}, {"img": "image"}),
        ({"clip": Audio(), "id": STRING}, {"clip": "audio"}),
        ({"phrase": STRING, "idx": Value("int32")}, {"phrase": "text"}),
        ({"phrase": Value("large_string")}, {"phrase": "text"}),
        ({"title": STRING, "text": STRING, "id": STRING}, {"text": "text"}),
        ({"sentence2": STRING, "sentence1": STRING}, {"sentence1": "text", "sentence2": "text_pair"}),
        ({"question": STRING, "sentence": STRING}, {"question": "text", "sentence": "text_pair"}),
    ],
)
def test_inputs_are_found_by_type_and_name(columns, expected):
    assert find_input_columns(Features({**columns, "label": LABEL}), "label") == expected


def test_lists_of_labels_ask_for_tokens():
    features = Features({"words": List(STRING), "text": STRING, "pos": List(Value("int64")), "tags": List(LABEL)})
    assert find_input_columns(features, "tags") == {"words": "tokens"}
    with pytest.raises(ValueError, match="No input column .*tokens is looked for.*one label per token"):
        find_input_columns(Features({"text": STRING, "tags": List(LABEL)}), "tags")


def test_without_labels_any_input_will_do():
    assert find_input_columns(Features({"words": List(STRING)}), None) == {"words": "tokens"}


def test_chosen_columns():
    features = Features({"a": STRING, "b": STRING, "n": Value("int64"), "i": Image(), "label": LABEL})
    assert find_input_columns(features, "label", ["b"]) == {"b": "text"}
    assert find_input_columns(features, "label", ["b", "a"]) == {"b": "text", "a": "text_pair"}
    with pytest.raises(ValueError, match="input columns are `a`, `b`, `n`, `i`.*Pass names out of these"):
        find_input_columns(features, "label", ["c"])
    for wrong in (["n"], ["a", "i"], ["label"]):
        with pytest.raises(ValueError, match="input_columns="):
            find_input_columns(features, "label", wrong)


def test_ambiguous_and_missing_inputs_are_refused():
    two = Features({"headline": STRING, "body": STRING, "label": LABEL})
    with pytest.raises(ValueError, match="2 columns may be the input: `headline`, `body`.*input_columns="):
        find_input_columns(two, "label")
    with pytest.raises(ValueError, match="No input column .*among `n`"):
        find_input_columns(Features({"n": Value("int64"), "label": LABEL}), "label")


@pytest.mark.parametrize(
    ("inputs", "task"),
    [
        (["image"], "image-classification"),
        (["audio"], "audio-classification"),
        (["tokens"], "token-classification"),
        (["text"], "text-classification"),
        (["text", "text_pair"], "text-classification"),
    ],
)
def test_task(inputs, task):
    assert infer_task(inputs, classes=True) == task
    assert infer_task(inputs, classes=False) == "regression"
