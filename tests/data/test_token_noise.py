"""Noise of tokens: what is changed, how much, and what never is."""

from __future__ import annotations

import pickle

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from hf_transfer.data.token_noise import TokenNoise


SPECIAL = {
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[M]",
    "unk_token": "[U]",
}
PAD, CLS, SEP, MASK, UNK = range(5)


def tokenizer(side="right", **special):
    special = special or SPECIAL
    words = WordLevel({word: number for number, word in enumerate([*SPECIAL.values(), *map(str, range(200))])}, "[U]")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), padding_side=side, **special)


def text(rows=40, length=30, side="right"):
    """Rows of different lengths, padded, with special tokens around and the unknown word somewhere inside."""
    ids = torch.arange(10, 10 + length).repeat(rows, 1)
    mask, types = torch.ones_like(ids), torch.zeros_like(ids)
    ids[:, 5] = UNK
    types[:, 12:] = 1
    for row in range(rows):
        used = length - row % 7
        ids[row, 0], ids[row, used - 1] = CLS, SEP
        ids[row, used:], mask[row, used:], types[row, used:] = PAD, 0, 0
        if side == "left":
            for values in (ids, mask, types):
                values[row] = values[row].roll(length - used)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def words_of(inputs, row):
    return inputs["input_ids"][row][inputs["attention_mask"][row].bool()].tolist()


@pytest.mark.parametrize("side", ["right", "left"])
def test_special_tokens_and_padding_stay(side):
    torch.manual_seed(0)
    before = text(side=side)
    copy = {name: value.clone() for name, value in before.items()}
    after = TokenNoise(tokenizer(side), mask=0.3, swap=0.3, delete=0.3)(before)
    assert all(torch.equal(before[name], copy[name]) for name in copy) and set(after) == set(before)
    for row in range(40):
        words = words_of(after, row)
        assert words[0] == CLS and words[-1] == SEP and words.count(CLS) == words.count(SEP) == 1
        mask = after["attention_mask"][row].tolist()
        assert mask == sorted(mask, reverse=side == "right")
        assert not after["input_ids"][row][after["attention_mask"][row] == 0].any()
        assert 3 <= len(words) <= len(words_of(before, row))
        assert set(words) <= set(words_of(before, row)) | {MASK}


def test_masking_keeps_places_and_masks_as_many_as_said():
    torch.manual_seed(0)
    before = text(400)
    after = TokenNoise(tokenizer(), mask=0.2, swap=0, delete=0)(before)
    changed = after["input_ids"] != before["input_ids"]
    assert (after["input_ids"][changed] == MASK).all()
    assert changed.sum() / (before["input_ids"] >= 4).sum() == pytest.approx(0.2, abs=0.02)
    assert changed[:, 5].any(), "an unknown word is a word"


def test_deletion_keeps_the_order_and_deletes_as_many_as_said():
    torch.manual_seed(0)
    before = text(400)
    after = TokenNoise(tokenizer(), mask=0, swap=0, delete=0.25)(before)
    gone = 0
    for row in range(400):
        old, new = words_of(before, row), words_of(after, row)
        kept = iter(old)
        assert all(word in kept for word in new), "the order changed"
        gone += len(old) - len(new)
        types = dict(zip(old, before["token_type_ids"][row].tolist(), strict=False))
        for word, kind in zip(new, after["token_type_ids"][row].tolist(), strict=False):
            assert types[word] == kind
    assert gone / (before["input_ids"] >= 4).sum() == pytest.approx(0.25, abs=0.02)


def test_swaps_keep_the_words_and_move_them_by_one():
    torch.manual_seed(0)
    before = text(400)
    after = TokenNoise(tokenizer(), mask=0, swap=0.3, delete=0)(before)
    moved = 0
    for row in range(400):
        old, new = words_of(before, row), words_of(after, row)
        assert sorted(old) == sorted(new)
        assert all(abs(old.index(word) - place) <= 1 for place, word in enumerate(new))
        moved += sum(a != b for a, b in zip(old, new, strict=True))
    assert moved / (before["input_ids"] >= 4).sum() == pytest.approx(0.3, abs=0.04)


def test_some_word_is_always_left():
    torch.manual_seed(0)
    inputs = {"input_ids": torch.tensor([[CLS, 9, SEP, PAD], [CLS, 8, 9, SEP]])}
    noise = TokenNoise(tokenizer(), mask=0, swap=0, delete=0.99)
    for _ in range(50):
        assert ((noise(inputs)["input_ids"] > 4).sum(1) == 1).all()


def test_rows_without_words_stay():
    inputs = {"input_ids": torch.tensor([[CLS, SEP, PAD]]), "attention_mask": torch.tensor([[1, 1, 0]])}
    after = TokenNoise(tokenizer(), mask=0.9, swap=0.9, delete=0.9)(inputs)
    assert all(torch.equal(after[name], inputs[name]) for name in inputs)


def test_the_unknown_token_where_there_is_no_mask_token_and_nothing_that_ends_a_text():
    assert TokenNoise(tokenizer(unk_token="[U]", pad_token="[PAD]")).mask_id == UNK
    gpt2 = TokenNoise(tokenizer(unk_token="[U]", eos_token="[U]", bos_token="[U]"))
    assert gpt2.mask_id is None and gpt2.mask == 0 and UNK in gpt2.special.tolist()
    with pytest.raises(ValueError, match="`mask=0.1` with .*no mask token.*`mask=0.0`"):
        TokenNoise(tokenizer(eos_token="[U]"), mask=0.1)


def test_the_same_seed_the_same_noise_and_it_is_pickled():
    noise = TokenNoise(tokenizer())
    found = []
    for copy in (noise, pickle.loads(pickle.dumps(noise))):
        torch.manual_seed(3)
        found.append(copy(text())["input_ids"])
    assert torch.equal(*found) and not torch.equal(found[0], noise(text())["input_ids"])


@pytest.mark.parametrize("name", ["mask", "swap", "delete"])
def test_shares_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=f"`{name}=1.0` is outside.*such as 0.1"):
        TokenNoise(tokenizer(), **{name: 1.0})


def test_what_is_no_text_is_refused():
    with pytest.raises(ValueError, match="TokenNoise got pixel_values.*no `input_ids`.*`strong`"):
        TokenNoise(tokenizer())({"pixel_values": torch.zeros(1, 3)})
