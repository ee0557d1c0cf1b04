"""
Made-up product reviews of two domains, for recipes and tests without a network.

The texts are synthetic: assembled by rule from the word lists below, which were written for this package. They behave
like a small version of the domain shift between real product reviews: some opinion words are shared, others occur in
one domain only, a few mean the opposite in the other domain, opinions may be negated, and sentences without opinion
surround them. Figures on them say whether a method is wired up, not whether it helps on real text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np


ReviewDomain = Literal["books", "kitchen"]


@dataclass(frozen=True)
class Vocabulary:
    """Words of one domain: what is reviewed, its parts, and the opinion words that fit them."""

    things: tuple[str, ...]
    parts: tuple[str, ...]
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    neutral: tuple[str, ...]


SHARED_POSITIVE = ("great", "wonderful", "lovely", "excellent", "impressive", "delightful")
SHARED_NEGATIVE = ("terrible", "awful", "poor", "disappointing", "useless", "dreadful")

# unpredictable and thin change sides between the two domains
VOCABULARIES: dict[ReviewDomain, Vocabulary] = {
    "books": Vocabulary(
        things=("novel", "book", "story", "memoir", "thriller", "biography", "sequel", "anthology"),
        parts=("plot", "dialogue", "ending", "narrator", "prose", "opening chapter", "heroine", "translation"),
        positive=(
            "gripping", "moving", "witty", "unpredictable", "erudite", "lyrical", "suspenseful", "vivid", "insightful",
            "poetic", "absorbing", "tender",
        ),
        negative=(
            "boring", "shallow", "clumsy", "melodramatic", "thin", "trite", "rambling", "long-winded", "confusing",
            "preachy", "wooden", "tedious",
        ),
        neutral=(
            "I read it on the train in {time}.",
            "It has about {number} pages.",
            "My sister borrowed it from the library in {time}.",
            "The author was born in a small town.",
            "There is a map on page {number}.",
            "I picked the paperback at the airport.",
            "The cover shows a lighthouse.",
            "It is set in {time} of the last century.",
            "My reading group talked about chapter {number}.",
            "It is the author's second work.",
        ),
    ),
    "kitchen": Vocabulary(
        things=("kettle", "blender", "pan", "toaster", "knife", "mixer", "coffee maker", "grater"),
        parts=("handle", "lid", "blade", "motor", "timer", "coating", "cord", "base"),
        positive=(
            "sturdy", "durable", "sharp", "thin", "light", "simple", "quiet", "spotless", "rustproof", "efficient",
            "compact", "leakproof",
        ),
        negative=(
            "flimsy", "leaky", "noisy", "unpredictable", "sticky", "rusty", "wobbly", "greasy", "brittle", "dented",
            "blunt", "scratched",
        ),
        neutral=(
            "I ordered it online in {time}.",
            "It came in a brown box.",
            "It holds about {number} cups.",
            "We keep it next to the stove.",
            "My mother has had the same brand since {time}.",
            "It weighs some {number} ounces.",
            "The plug has three pins.",
            "I use it {number} times a month.",
            "The manual is in four languages.",
            "We moved into a new flat in {time}.",
        ),
    ),
}  # fmt: skip

_OPINIONS = (
    "The {part} is {degree}{word}.",
    "What a {word} {thing}!",
    "I found the {part} {degree}{word}.",
    "This {thing} has a {degree}{word} {part}.",
    "For me this was a {degree}{word} {thing}.",
    "Its {part} seemed {degree}{word} to us.",
)
_NEGATED = (
    "The {part} is not {word} at all.",
    "This is not a {word} {thing}.",
    "I would never call the {part} {word}.",
    "Nobody could say that the {part} is {word}.",
)
_DEGREES = ("", "", "really ", "rather ", "very ", "quite ", "truly ")
_TIMES = ("January", "spring", "May", "the summer", "August", "autumn", "October", "winter")


def synthetic_reviews(
    domain: ReviewDomain, rows: int, *, seed: int = 0, shared: float = 0.3, negated: float = 0.1
) -> tuple[list[str], list[int]]:
    """
    Distinct texts and their labels (0 negative, 1 positive, alternating): the same ones for the same arguments.

    Args:
        domain (`"books"` or `"kitchen"`):
            What is reviewed.
        rows (`int`):
            Number of reviews.
        seed (`int`, *optional*, defaults to 0):
            Seed of the choice of words.
        shared (`float`, *optional*, defaults to 0.3):
            Probability that an opinion word is one that both domains use.
        negated (`float`, *optional*, defaults to 0.1):
            Probability that an opinion is the negation of the opposite word.

    Raises:
        ValueError: if the domain is unknown or `rows` is not positive.

    Example:
        >>> texts, labels = synthetic_reviews("books", 2)
        >>> labels
        [0, 1]
    """
    if domain not in VOCABULARIES:
        raise ValueError(
            f"There is no review domain `{domain}`; words are written for {' and '.join(VOCABULARIES)} only. "
            "Pass one of these."
        )
    if rows < 1:
        raise ValueError(f"rows={rows} asks for no review. Pass 1 or more.")
    words = VOCABULARIES[domain]
    random = np.random.default_rng([seed, sorted(VOCABULARIES).index(domain)])
    texts: dict[str, int] = {}
    while len(texts) < rows:
        label = len(texts) % 2
        texts.setdefault(_review(words, label, random, shared, negated), label)
    return list(texts), list(texts.values())


def _review(words: Vocabulary, label: int, random: np.random.Generator, shared: float, negated: float) -> str:
    sentences = [_opinion(words, label, random, shared, negated) for _ in range(random.integers(2, 5))]
    for template in random.choice(words.neutral, size=random.integers(1, 4), replace=False):
        sentences.append(template.format(time=random.choice(_TIMES), number=random.integers(2, 400)))
    return " ".join(random.permutation(sentences))


def _opinion(words: Vocabulary, label: int, random: np.random.Generator, shared: float, negated: float) -> str:
    negate = random.random() < negated
    positive = bool(label) != negate
    if random.random() < shared:
        choices = SHARED_POSITIVE if positive else SHARED_NEGATIVE
    else:
        choices = words.positive if positive else words.negative
    template = str(random.choice(_NEGATED if negate else _OPINIONS))
    degree, word = random.choice(_DEGREES), random.choice(choices)
    return template.format(
        part=random.choice(words.parts), thing=random.choice(words.things), degree=degree, word=word
    )
