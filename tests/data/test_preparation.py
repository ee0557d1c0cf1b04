from __future__ import annotations

import pickle
from typing import Any, cast

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PIL
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CanineTokenizer, PreTrainedTokenizerFast, ViTImageProcessorPil

from hf_transfer import mix_domains
from hf_transfer.data.preparation import collator_for, prepare


PAD, UNK, CLS, SEP = range(4)
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "zur", "##ich", "##er", "lives", "in"]


def tokenizer(**options: Any) -> PreTrainedTokenizerFast:
    """Splits `zurich` into `zur ##ich` and `zuricher` into three pieces."""
    words = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        pad_token="[PAD]",
        unk_token="[UNK]",
        **{"model_max_length": 12, **options},
    )


def images(rows: int = 4, mode: str = "RGB") -> Dataset:
    colours = [PIL.new(mode, (9, 7), 20 * row if mode == "L" else (20 * row,) * len(mode)) for row in range(rows)]
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    return Dataset.from_dict({"image": colours, "label": [row % 2 for row in range(rows)]}, features=features)


# --- images


def processor(size: int = 8) -> ViTImageProcessorPil:
    return ViTImageProcessorPil(size={"height": size, "width": size})


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_images_are_processed_when_a_row_is_fetched(mode):
    split = prepare(images(mode=mode), processor())
    row = split[2]
    assert row["pixel_values"].shape == (3, 8, 8) and row["labels"] == 0
    torch.testing.assert_close(row["pixel_values"], torch.full((3, 8, 8), 40 / 127.5 - 1))
    assert list(split[1:3]["labels"]) == [1, 0] and split.column_names == ["image", "labels"]


def test_a_processed_batch_is_what_the_collator_stacks():
    split = prepare(images(), processor())
    batch = collator_for(processor())([split[row] for row in range(3)])
    assert batch["pixel_values"].shape == (3, 3, 8, 8) and batch["labels"].tolist() == [0, 1, 0]


def test_images_are_augmented_as_a_batch():
    shapes = []

    def darker(pixels):
        shapes.append(tuple(pixels.shape))
        return pixels - 1

    plain, split = prepare(images(), processor()), prepare(images(), processor(), augment=darker)
    fetched = split.__getitems__([0, 3, 1])
    assert shapes == [(3, 3, 8, 8)]
    torch.testing.assert_close(fetched[1]["pixel_values"], plain[3]["pixel_values"] - 1)


def test_images_that_are_not_decoded_yet():
    split = images().cast_column("image", Image(decode=False))
    assert isinstance(split[0]["image"], dict)
    torch.testing.assert_close(prepare(split, processor())[2], prepare(images(), processor())[2])


def test_images_in_memory_without_a_feature_for_them():
    split = prepare(images().with_format(None), processor())
    transform: Any = split.format["format_kwargs"]["transform"]
    batch = transform({"image": [PIL.new("RGB", (5, 5))], "domain": [1]})
    assert batch["pixel_values"][0].shape == (3, 8, 8) and batch["domain"] == [1]


def test_the_transform_travels_to_the_workers_of_a_loader():
    transform: Any = prepare(images(), processor()).format["format_kwargs"]["transform"]
    again = pickle.loads(pickle.dumps(transform))
    assert again({"image": [PIL.new("RGB", (5, 5))]})["pixel_values"][0].shape == (3, 8, 8)


def test_two_domains_each_keep_their_own_transform():
    source, target = prepare(images(), processor()), prepare(images(), processor(), augment=lambda pixels: pixels + 9)
    mixed = cast(Any, mix_domains(source, target))
    assert mixed[5]["labels"] == -100 and mixed[5]["domain"] == 1 and mixed[1]["labels"] == 1
    torch.testing.assert_close(mixed[5]["pixel_values"], mixed[1]["pixel_values"] + 9)


# --- texts


def texts(**columns: list) -> Dataset:
    return Dataset.from_dict({**{"text": ["good", "bad good good", "in"], "label": [1, 0, 1]}, **columns})


def test_texts_are_tokenised():
    split = prepare(texts(), tokenizer())
    assert set(split.column_names) >= {"input_ids", "attention_mask", "labels"} and "text" not in split.column_names
    assert split[1]["input_ids"] == [CLS, 5, 4, 4, SEP] and split["labels"][:] == [1, 0, 1]


def test_pairs_are_tokenised_together():
    split = prepare(texts(text_pair=["bad", "good", "bad"]), tokenizer())
    assert split[0]["input_ids"] == [CLS, 4, SEP, 5, SEP] and split[0]["token_type_ids"] == [0, 0, 0, 1, 1]
    assert not {"text", "text_pair"} & set(split.column_names)


def test_other_columns_and_missing_labels_are_handed_on():
    split = prepare(texts(domain=[0, 1, 1]).remove_columns("label"), tokenizer())
    assert split["domain"][:] == [0, 1, 1] and "labels" not in split.column_names


@pytest.mark.parametrize(
    ("options", "max_length", "longest"),
    [
        ({"model_max_length": 6}, None, 6),
        ({"model_max_length": 6}, 4, 4),
        ({"model_max_length": int(1e30)}, None, 512),
    ],
)
def test_long_texts_are_cut(options, max_length, longest):
    split = Dataset.from_dict({"text": ["good " * 600]})
    ids = prepare(split, tokenizer(**options), max_length=max_length)[0]["input_ids"]
    assert len(ids) == longest and ids[-1] == SEP


def test_the_collator_pads_texts():
    words = tokenizer()
    split = prepare(texts(), words)
    batch = collator_for(words)([split[0], split[1]])
    assert batch["input_ids"].tolist() == [[CLS, 4, SEP, PAD, PAD], [CLS, 5, 4, 4, SEP]]
    assert batch["attention_mask"].tolist()[0] == [1, 1, 1, 0, 0] and batch["labels"].tolist() == [1, 0]


# --- tokens


def tokens(**options: Any) -> Dataset:
    features = Features({"tokens": List(Value("string")), "label": List(ClassLabel(names=["O", "B-LOC"]))})
    return Dataset.from_dict(
        {"tokens": [["good", "zurich", "lives"], ["zuricher"]], "label": [[0, 1, 0], [1]]}, features=features
    )


def test_a_word_is_labelled_at_its_first_piece():
    split = prepare(tokens(), tokenizer())
    assert split[0]["input_ids"] == [CLS, 4, 6, 7, 9, SEP]
    assert split[0]["labels"] == [-100, 0, 1, -100, 0, -100]
    assert split[1]["labels"] == [-100, 1, -100, -100, -100]


def test_equal_labels_of_neighbours_are_both_kept():
    split = Dataset.from_dict({"tokens": [["good", "good", "zurich", "zurich"]], "label": [[1, 1, 1, 1]]})
    assert prepare(split, tokenizer())[0]["labels"] == [-100, 1, 1, 1, -100, 1, -100, -100]


def test_labels_are_cut_with_the_tokens():
    row = prepare(tokens(), tokenizer(), max_length=4)[0]
    assert row["labels"] == [-100, 0, 1, -100] and len(row["input_ids"]) == 4


def test_a_word_of_no_piece_shifts_nothing():
    split = Dataset.from_dict({"tokens": [["good", " ", "zurich"]], "label": [[0, 0, 1]]})
    assert prepare(split, tokenizer())[0]["labels"] == [-100, 0, 1, -100, -100]


def test_the_collator_pads_labels_of_tokens():
    words = tokenizer()
    split = prepare(tokens(), words)
    batch = collator_for(words, tokens=True)([split[0], split[1]])
    assert batch["labels"].tolist()[1] == [-100, 1, -100, -100, -100, -100]
    assert batch["input_ids"].tolist()[1][-1] == PAD


def test_unlabelled_tokens():
    split = prepare(tokens().remove_columns("label"), tokenizer())
    assert "labels" not in split.column_names and split[1]["input_ids"] == [CLS, 6, 7, 8, SEP]


# --- refused


def test_images_need_an_image_processor():
    message = "holds images, but the model came with .*Choose a model with an image processor, or .*`--input_columns`"
    with pytest.raises(ValueError, match=message):
        prepare(images(), tokenizer())


@pytest.mark.parametrize("split", [texts(), tokens()], ids=["text", "tokens"])
def test_text_needs_a_tokenizer(split):
    message = "holds text, but the model came with ViTImageProcessorPil.*Choose a model with a tokenizer"
    with pytest.raises(ValueError, match=message):
        prepare(split, processor())


@pytest.mark.parametrize("split", [texts(text=["good", None, "in"]), texts(text_pair=[None, "in", "in"])])
def test_rows_without_a_text_are_refused(split):
    with pytest.raises(
        ValueError, match="1 of 3 rows have no `text.*`, such as empty cells .*Fill or drop these rows"
    ):
        prepare(split, tokenizer())


def test_tokens_need_a_fast_tokenizer():
    with pytest.raises(
        ValueError, match="CanineTokenizer is a slow tokenizer.*Load it with `use_fast=True` or choose"
    ):
        prepare(tokens(), CanineTokenizer())
    assert len(prepare(texts(), CanineTokenizer())) == 3
