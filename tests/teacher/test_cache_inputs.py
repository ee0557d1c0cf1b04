from __future__ import annotations

from datasets import Dataset

from hf_transfer.source import Source
from hf_transfer.teacher.cache_checks import module_names
from hf_transfer.teacher.cache_inputs import teacher_source
from tests.features.extraction.extraction_data import inputs_for, texts, tokenizer
from tests.models import tiny_bert, tiny_token_bert


def test_text_of_one_length_is_run_at_that_length():
    model = tiny_bert()
    even, own = teacher_source(model, inputs_for(model, 6, padded="left"), None, None, None)
    assert even.kind == "fetched" and not own
    window = even.window(range(6))
    assert window.collate(window.order())[0].inputs["input_ids"].shape == (6, 9)
    uneven, _ = teacher_source(model, inputs_for(model, 6), None, None, None)
    assert uneven.kind == "ids"


def test_labels_of_tokens_do_not_count_unless_a_collator_pads_them():
    model = tiny_token_bert()
    data = inputs_for(model, 6)
    plain, _ = teacher_source(model, data, None, None, None)
    assert plain.columns == ["input_ids"] and not plain.token_labels
    collated, _ = teacher_source(model, data, None, None, lambda rows: rows)
    assert "labels" in collated.columns


def test_whose_inputs_they_are():
    model = tiny_bert()
    assert teacher_source(model, texts(), tokenizer(), None, None)[1]
    rows = {"input_ids": [[1, 2], [3]], "teacher_input_ids": [[4], [5, 6]], "teacher_attention_mask": [[1], [1, 1]]}
    source, own = teacher_source(model, Dataset.from_dict(rows), None, None, None)
    assert own and sorted(source.columns) == ["attention_mask", "input_ids"]
    assert source.window(range(2)).flat["input_ids"].tolist() == [4, 5, 6]  # type: ignore[union-attr]


def test_blocks_by_number_once():
    names = module_names(Source(tiny_bert()), [0, -3, "bert.encoder.layer.2"])
    assert names == ["bert.encoder.layer.0", "bert.encoder.layer.2"]
