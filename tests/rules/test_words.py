"""Words found by their ids, against the words of the text itself, for every family of tokenizer."""

from __future__ import annotations

import random
import re

import pytest
import torch

from hf_transfer.rules.words import WordFinder
from tests.rules.tokenizers import TOKENIZERS, byte_level, whole_words, wordpiece


WORDS = "the film is good but long But why a tribute butter butler however slow , ( ) fine but".split()


def occurrences(found: torch.Tensor) -> int:
    """Runs of found tokens: words next to one another count once, and the texts have none such."""
    row = found.int().tolist()
    return sum(now > before for before, now in zip([0, *row], row, strict=False))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_finds_whole_words_and_nothing_else(name):
    tokenizer = TOKENIZERS[name]()
    finder = WordFinder(tokenizer, ["but"])
    numbers = random.Random(0)
    hits = 0
    for _ in range(60):
        words = numbers.choices(WORDS, k=7)
        words = [word for i, word in enumerate(words) if i == 0 or word.lower() != words[i - 1].lower()]
        text = " ".join(words).replace("( ", "(").replace(" ,", ",")
        expected = len(re.findall(r"\bbut\b", text, flags=re.IGNORECASE))
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        assert occurrences(finder(ids)[0]) == expected, (text, tokenizer.convert_ids_to_tokens(ids[0].tolist()))
        hits += expected
    assert hits > 30


@pytest.mark.parametrize("name", ["byte-level", "byte-level, short pieces", "metaspace", "WordPiece"])
@pytest.mark.parametrize("text", ["butter", "a tribute", "butler and butcher", "rebut"])
def test_inside_of_words_is_not_found(name, text):
    tokenizer = TOKENIZERS[name]()
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    assert not WordFinder(tokenizer, ["but"])(ids).any()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_phrases_and_several_words(name):
    tokenizer = TOKENIZERS[name]()
    finder = WordFinder(tokenizer, ["so dull", "fine"])
    texts = ["it is so dull", "so is dull", "fine", "dull so"]
    found = [finder(torch.tensor([tokenizer(text)["input_ids"]])).any().item() for text in texts]
    assert found == [True, False, True, False]


def test_every_token_of_a_word_is_marked():
    tokenizer = byte_level(265)
    ids = torch.tensor([tokenizer("it is however slow")["input_ids"]])
    found = WordFinder(tokenizer, ["however"])(ids)
    assert tokenizer.decode(ids[found].tolist()).strip() == "however" and found.sum() > 2


def test_words_longer_than_the_text_and_ids_beyond_the_vocabulary():
    tokenizer = byte_level(265)
    ids = torch.tensor([[len(tokenizer) + 7, 5]])
    assert not WordFinder(tokenizer, ["however however"])(ids).any()


def test_rows_are_found_apart():
    tokenizer = wordpiece()
    batch = tokenizer(["good but long", "good film"], padding=True, return_tensors="pt")
    assert WordFinder(tokenizer, "but")(batch["input_ids"]).tolist() == [
        [False, False, True, False, False],
        [False] * 5,
    ]


def test_dashes_and_lines_in_bytes():
    tokenizer = byte_level(265)
    finder = WordFinder(tokenizer, ["but"])
    for text, expected in [
        ("slow—but fine", 1),
        ("slow\nbut fine", 1),
        ("“but”", 1),
        ("débutant", 0),
        ("tri\tbute", 0),
    ]:
        assert occurrences(finder(torch.tensor([tokenizer(text)["input_ids"]]))[0]) == expected, text


@pytest.mark.parametrize("words", [[], [""], ["but", "  "], ""])
def test_no_word(words):
    with pytest.raises(ValueError, match="has no word, or an empty one.*Give words such as"):
        WordFinder(wordpiece(), words)


@pytest.mark.parametrize("make", [wordpiece, whole_words])
def test_a_word_that_the_tokenizer_does_not_know(make):
    with pytest.raises(ValueError, match="no pieces for 'xylophone'.*unknown.*Give a word of its vocabulary"):
        WordFinder(make(), ["but", "xylophone"])
