from __future__ import annotations

import pytest

from hf_transfer.data.synthetic_reviews import SHARED_NEGATIVE, SHARED_POSITIVE, VOCABULARIES, synthetic_reviews


DOMAINS = ["books", "kitchen"]


def words(text: str) -> set[str]:
    return set(text.replace(".", " ").replace("!", " ").split())


@pytest.mark.parametrize("domain", DOMAINS)
def test_texts_are_distinct_balanced_and_always_the_same(domain):
    texts, labels = synthetic_reviews(domain, 400)
    assert len(set(texts)) == 400 and sum(labels) == 200
    assert (texts, labels) == synthetic_reviews(domain, 400)
    assert texts != synthetic_reviews(domain, 400, seed=1)[0]
    assert texts[:100] == synthetic_reviews(domain, 100)[0]


@pytest.mark.parametrize("domain", DOMAINS)
def test_without_negation_every_opinion_agrees_with_the_label(domain):
    vocabulary = VOCABULARIES[domain]
    opinions = [set(vocabulary.negative + SHARED_NEGATIVE), set(vocabulary.positive + SHARED_POSITIVE)]
    for text, label in zip(*synthetic_reviews(domain, 200, negated=0.0), strict=True):
        assert words(text) & opinions[label] and not words(text) & opinions[1 - label], text


def test_negation_turns_the_word_round():
    texts, labels = synthetic_reviews("books", 200, negated=1.0)
    positive = set(VOCABULARIES["books"].positive + SHARED_POSITIVE)
    for text, label in zip(texts, labels, strict=True):
        assert bool(words(text) & positive) == (label == 0), text
        assert {"not", "never", "Nobody"} & words(text)


def test_shared_and_own_words():
    shared = set(SHARED_POSITIVE + SHARED_NEGATIVE)
    assert all(words(text) & shared for text in synthetic_reviews("kitchen", 50, shared=1.0)[0])
    assert not any(words(text) & shared for text in synthetic_reviews("kitchen", 50, shared=0.0)[0])
    books, kitchen = VOCABULARIES["books"], VOCABULARIES["kitchen"]
    assert set(books.positive) & set(kitchen.negative) == {"unpredictable"}
    assert set(books.negative) & set(kitchen.positive) == {"thin"}


def test_every_review_has_sentences_without_opinion():
    starts = tuple(template.split("{")[0] for template in VOCABULARIES["kitchen"].neutral)
    assert all(any(start in text for start in starts) for text in synthetic_reviews("kitchen", 100)[0])


def test_errors():
    with pytest.raises(ValueError, match="no review domain `music`.*books and kitchen"):
        synthetic_reviews("music", 10)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rows=0 asks for no review.*Pass 1 or more"):
        synthetic_reviews("books", 0)
