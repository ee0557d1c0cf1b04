from __future__ import annotations

import pytest

from hf_transfer.data.columns import check_columns, check_not_empty, find_label_column, find_label_columns, listed


def test_listed():
    assert listed(["a", 1]) == "`a`, `1`" and listed([]) == "none"


@pytest.mark.parametrize("name", ["label", "labels", "ner_tags", "tags"])
def test_known_names_are_found(name):
    assert find_label_column(["text", name, "id"]) == name


def test_a_given_name_goes_first():
    assert find_label_column(["label", "stars"], "stars") == "stars"
    with pytest.raises(ValueError, match="Split `train` has no column `star`; its columns are `label`, `stars`"):
        find_label_column(["label", "stars"], "star", where="Split `train`")


def test_none_and_several_are_refused():
    with pytest.raises(ValueError, match="has no label column; its columns are `text`.*`ner_tags`.*label_column="):
        find_label_column(["text"])
    with pytest.raises(ValueError, match="2 columns that may hold the labels: `label`, `tags`.*label_column="):
        find_label_column(["label", "text", "tags"])


def test_label_columns_of_domains():
    assert find_label_columns([["stars"], ["label"], ["x"]], "stars", {0}) == ["stars", "label", None]
    with pytest.raises(ValueError, match=r"the target \(domain 1\) has no column `stars`"):
        find_label_columns([["stars"], ["x"]], "stars", {0, 1})
    with pytest.raises(ValueError, match=r"the target \(domain 1\) has 2 columns"):
        find_label_columns([["label"], ["label", "labels"]], None, {0})


def test_columns_must_agree():
    check_columns([["a", "b"], ["b", "a"]])
    with pytest.raises(ValueError, match=r"target \(domain 2\) has other columns.*lacks `a` and has `c`"):
        check_columns([["a"], ["a"], ["c"]])
    with pytest.raises(ValueError, match=r"source \(domain 0\) has a column `domain` already"):
        check_columns([["domain"], ["a"]])


def test_empty_domains():
    check_not_empty([1, 1])
    with pytest.raises(ValueError, match=r"target \(domain 1\) is empty.*Check the split"):
        check_not_empty([1, 0])
