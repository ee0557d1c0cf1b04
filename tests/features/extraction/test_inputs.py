from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import CanineTokenizer

from hf_transfer.data.preparation import prepare
from hf_transfer.features.extraction.fetched_rows import Views
from hf_transfer.features.extraction.inputs import find_source
from tests.features.extraction.extraction_data import image_processor, images, inputs_for, texts, tokenizer
from tests.models import TINY, lora, tiny_bert, tiny_gpt2, tiny_llama, tiny_token_bert, tiny_vit, tiny_wav2vec2


KINDS = {"bert": "ids", "token_bert": "ids", "gpt2": "ids", "llama": "ids"}


@pytest.mark.parametrize("kind", TINY)
def test_inputs_that_are_ready(kind):
    model = TINY[kind]()
    data = inputs_for(model)
    source = find_source(model, data)
    assert source.kind == KINDS.get(kind, "fetched") and len(source) == 13 and source.processor is None
    tokens = kind == "token_bert"
    assert source.columns == [model.main_input_name, *(["labels"] if tokens else [])] and source.token_labels == tokens
    window = source.window(range(3, 7))
    rows: dict[int, Any] = {}
    for batch in window.collate(np.arange(4)):
        for place, position in enumerate(batch.positions):
            kept = slice(None) if batch.mask is None else batch.mask[place].bool()
            rows[int(position)] = batch.inputs[model.main_input_name][place][kept]
    for position in range(4):
        torch.testing.assert_close(rows[position], torch.as_tensor(data[3 + position][model.main_input_name]))


def test_raw_and_prepared_images_are_the_same_source():
    model = tiny_vit()
    raw = find_source(model, images(), image_processor())
    prepared = find_source(model, prepare(images(), image_processor()))
    assert raw.columns == prepared.columns == ["image"]
    one, other = (source.window(range(2, 5)).collate(np.array([2, 0]))[0] for source in (raw, prepared))
    assert torch.equal(one.inputs["pixel_values"], other.inputs["pixel_values"])


@pytest.mark.parametrize("max_length", [None, 4])
def test_raw_and_prepared_text_give_the_same_tokens(max_length):
    model = lora(tiny_bert(), ["query"])
    raw = find_source(model, texts(), tokenizer(), max_length=max_length)
    prepared = find_source(model, prepare(texts(), tokenizer(), max_length=max_length))
    assert (raw.kind, prepared.kind) == ("text", "ids") and raw.max_length == (max_length or 12)
    one, other = (source.window(range(2, 9)).collate(np.arange(7))[0] for source in (raw, prepared))
    assert one.inputs.keys() == other.inputs.keys() == {"input_ids", "token_type_ids", "attention_mask"}
    assert all(torch.equal(one.inputs[name], other.inputs[name]) for name in one.inputs)


def test_words_with_one_label_a_row():
    data = Dataset.from_dict({"tokens": [["good", "bad"], ["in"]], "label": [1, 0]})
    source = find_source(tiny_bert(), data, tokenizer())
    assert source.kind == "tokens" and not source.token_labels and source.columns == ["tokens"]
    assert source.window(range(2)).token_labels() is None


def test_a_format_does_not_matter():
    model = tiny_bert()
    expected = find_source(model, inputs_for(model)).window(range(13)).collate(np.arange(13))[0].inputs["input_ids"]
    for kind in ("torch", "numpy", "arrow"):
        source = find_source(model, inputs_for(model).with_format(kind))
        assert torch.equal(source.window(range(13)).collate(np.arange(13))[0].inputs["input_ids"], expected)


def test_images_beside_tokens_are_read_row_by_row():
    class Reader(torch.nn.Module):
        main_input_name = "input_ids"
        base_model_prefix = ""
        config = tiny_bert().config

        def forward(self, input_ids, pixel_values, labels=None):
            return None

    data = Dataset.from_dict({"input_ids": [[1, 2], [3, 4, 5]], "pixel_values": np.ones((2, 3, 2, 2))})
    source = find_source(Reader(), data)
    assert source.kind == "fetched"
    batches = source.window(range(2)).collate(np.arange(2))
    assert [batch.inputs["input_ids"].tolist() for batch in batches] == [[[1, 2]], [[3, 4, 5]]]


def test_which_side_is_padded():
    from transformers import XLNetConfig, XLNetForSequenceClassification

    config = XLNetConfig(vocab_size=50, d_model=8, n_layer=1, n_head=2, d_inner=8)
    data = Dataset.from_dict({"input_ids": [[6, 7], [8]]})
    assert find_source(XLNetForSequenceClassification(config), data).left
    assert not find_source(tiny_gpt2(), texts(), tokenizer(padding_side="left")).left


def test_labels_of_tokens_and_of_rows_are_told_apart():
    rows = {"input_ids": [[1, 2, 3], [4, 5, 6]], "labels": [[0, 1, 1], [1, 0, 0]]}
    assert find_source(tiny_token_bert(), Dataset.from_dict(rows)).token_labels
    several = tiny_bert(problem_type="multi_label_classification")
    assert not find_source(several, Dataset.from_dict(rows)).token_labels
    rows["labels"] = [[0, 1], [1, 0]]
    assert not find_source(tiny_bert(), Dataset.from_dict(rows)).token_labels


# --- refusals


def test_what_is_no_data_set_is_refused():
    for data in (texts().to_iterable_dataset(), DatasetDict({"train": texts()}), [{"text": "a"}]):
        with pytest.raises(TypeError, match="only a `datasets.Dataset` tells.*Dataset.from_generator"):
            find_source(tiny_bert(), data, tokenizer())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has no rows: there is nothing to extract"):
        find_source(tiny_bert(), texts().select([]), tokenizer())


def test_processors_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"raw inputs \(`text`\), but no processor was given.*AutoTokenizer"):
        find_source(tiny_bert(), texts())
    with pytest.raises(ValueError, match=r"raw inputs \(`image`\), but Token.* was given.*AutoImageProcessor"):
        find_source(tiny_vit(), images(), tokenizer())
    sound = Dataset.from_dict({"audio": [{"array": [0.0], "sampling_rate": 16000}]})
    with pytest.raises(ValueError, match=r"raw inputs \(`audio`\), but no processor.*AutoFeatureExtractor"):
        find_source(tiny_wav2vec2(), sound)
    words = Dataset.from_dict({"tokens": [["a"]]})
    with pytest.raises(ValueError, match="CanineTokenizer is a slow tokenizer.*use_fast=True"):
        find_source(tiny_token_bert(), words, CanineTokenizer())


def test_data_without_any_input_is_refused():
    with pytest.raises(ValueError, match=r"columns `sentence`: neither .*rename_column"):
        find_source(tiny_bert(), Dataset.from_dict({"sentence": ["a"]}), tokenizer())
    data = texts().with_transform(lambda batch: {"words": batch["text"]})
    with pytest.raises(ValueError, match="The transform of the data set gives `words`.*reads none"):
        find_source(tiny_bert(), data)


def test_rows_without_text_are_refused():
    data = Dataset.from_dict({"text": ["good", None, "bad"]})
    with pytest.raises(ValueError, match="1 of the rows 0 to 2 have no `text`.*Fill or drop"):
        find_source(tiny_bert(), data, tokenizer())


def test_a_classifier_that_cannot_tell_padding_is_refused():
    model = tiny_llama()
    model.config.pad_token_id = None
    with pytest.raises(ValueError, match="no `pad_token_id`.*Set `model.config.pad_token_id"):
        find_source(model, texts(), tokenizer())


def test_views_of_text_are_refused():
    with pytest.raises(ValueError, match="views=2 were asked for, but BertForSequenceClassification reads no images"):
        find_source(tiny_bert(), texts(), tokenizer(), views=Views(2, lambda pixels: pixels))
