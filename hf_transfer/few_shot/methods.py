"""The methods that `recipes/few_shot.py` sets side by side, by the names that its command line knows."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from hf_transfer.data.columns import listed


EPISODES, CLASSES = "episodes", "classes"
"""The two kinds of comparison: new classes in episodes, or all classes with few labels each."""

REFERENCE = "nearest_mean"
"""What every method is measured against: the nearest class mean on features of the pretrained model."""

ON_FEATURES = {
    "nearest_mean": "the class of the nearest mean, by cosine",
    "prototypes": "the class of the nearest mean, by squared Euclidean distance",
    "simpleshot": "the nearest mean of centred features of unit length",
    "logistic": "a logistic regression on the support",
    "bd_cspn": "prototypes that are moved by the queries and shifted onto them",
    "laplacian_shot": "nearest means, with queries alike drawn into one class",
    "tim": "a classifier that is made sure and balanced on the queries",
}
"""Classifiers of an episode on the features of the pretrained model, none of which trains it."""

TRANSDUCTIVE = ("bd_cspn", "laplacian_shot", "tim")
"""Those that see all queries of an episode at once, whose classes are balanced in every episode."""

TRAINED = {
    "protonet": "episodes on the base classes make the means of classes tell them apart",
    "anil": "meta-learns features from which a head is learned in few steps",
    "reptile": "moves the weights towards those that each base problem leads to",
    "maml": "meta-learns weights from which few steps lead to a new problem",
    "fomaml": "MAML without second derivatives",
    "meta_sgd": "MAML that learns a rate for every weight too",
    "mtl": "meta-learns scale and shift of frozen weights, and adapts the head (meta-transfer learning)",
}
"""Trained on base classes, tested on others."""

META = tuple(name for name in TRAINED if name != "protonet")
"""Those that adapt to every episode by gradient steps."""

FEW_LABELS = {
    "nearest_mean": "the class means of the frozen features as head",
    "probe": "a logistic regression on the frozen features as head",
    "fine_tuning": "all weights, or those of the adapter, trained on the labels with a new head",
    "contrastive": "pairs of rows make the features alike within a class, then a head is fitted (SetFit)",
    "class_names": "the embedded class names as head, without any label",
    "class_names_fine_tuning": "fine-tuning from the embedded class names",
}
"""Ways to learn all classes from few labels each."""

__all__ = [
    "CLASSES",
    "EPISODES",
    "FEW_LABELS",
    "META",
    "ON_FEATURES",
    "REFERENCE",
    "TRAINED",
    "TRANSDUCTIVE",
    "check_methods",
]


def check_methods(methods: Sequence[str], mode: str) -> list[str]:
    """
    The methods to run, the reference first.

    Args:
        methods (`Sequence[str]`): names as given; several may stand in one word, with commas between.
        mode (`str`): `episodes` or `classes`.

    Raises:
        ValueError: if a name is unknown, or is that of the other mode.

    Example:
        >>> check_methods(["tim,protonet", "tim"], "episodes")
        ['nearest_mean', 'tim', 'protonet']
    """
    known = {EPISODES: [*ON_FEATURES, *TRAINED], CLASSES: list(FEW_LABELS)}
    names = [name.strip() for word in methods for name in word.split(",") if name.strip()]
    other = CLASSES if mode == EPISODES else EPISODES
    for name in names:
        if name in known[mode]:
            continue
        if name in known[other]:
            raise ValueError(
                f"`--methods {name}` is a method for `--mode {other}`, and this is `--mode {mode}`: the table would "
                f"set side by side what answers different questions. Choose from {listed(known[mode])}, or pass "
                f"`--mode {other}`."
            )
        near = difflib.get_close_matches(name, known[mode], n=1)
        raise ValueError(
            f"`--methods {name}` is no method that is known here{f' (did you mean {near[0]}?)' if near else ''}: "
            f"nothing could be run. Choose from {listed(known[mode])}."
        )
    return list(dict.fromkeys([REFERENCE, *names]))
