"""Which columns of a data set are the model's input, and what task follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from datasets import Audio, Features, Image, LargeList, List, Value

from hf_transfer.data.columns import listed


Task = Literal[
    "image-classification", "text-classification", "token-classification", "audio-classification", "regression"
]

TEXT_PAIRS = (
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("sentence_a", "sentence_b"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("query", "passage"),
)
TEXTS = ("text", "sentence", "review", "content", "document")
KINDS = ("image", "audio", "tokens", "text")
_STRINGS = ("string", "large_string", "string_view")


def find_input_columns(
    features: Features, label_column: str | None, chosen: Sequence[str] | None = None
) -> dict[str, str]:
    """
    The input columns and their common names `image`, `audio`, `tokens`, `text` (and `text_pair`).

    Args:
        features (`datasets.Features`):
            Columns of the data set.
        label_column (`str`, *optional*):
            The label column, which is no input. A list of labels per row asks for `tokens`.
        chosen (`Sequence[str]`, *optional*):
            One column, or two texts, named by the user.

    Raises:
        ValueError: if there is no input column, or several and none that is clearly meant.

    Example:
        >>> features = Features({"id": Value("string"), "premise": Value("string"), "hypothesis": Value("string")})
        >>> find_input_columns(features, "label")
        {'premise': 'text', 'hypothesis': 'text_pair'}
    """
    others = {name: feature for name, feature in features.items() if name != label_column}
    if chosen is not None:
        return _chosen(others, chosen)
    by_kind = {kind: [n for n, f in others.items() if _kind(f) == kind] for kind in KINDS}
    if isinstance(features.get(label_column or ""), (List, LargeList)):
        order = ("tokens",)
    else:
        order = ("image", "audio", "text") if label_column is not None else ("image", "audio", "tokens", "text")
    for kind in order:
        names = by_kind[kind]
        if kind == "text" and len(names) > 1:
            pair = next((pair for pair in TEXT_PAIRS if set(pair) <= set(names)), None)
            if pair is not None:
                return dict(zip(pair, ("text", "text_pair"), strict=True))
            names = [name for name in TEXTS if name in names][:1] or names
        if len(names) == 1:
            return {names[0]: kind}
        if names:
            raise ValueError(
                f"{len(names)} columns may be the input: {listed(names)}. Training on the wrong one would go "
                "unnoticed. Pass `input_columns=` with one of them, or with two texts."
            )
    raise ValueError(
        f"No input column for a model among {listed(others)}; {' or '.join(order)} is looked for. "
        "Pass `input_columns=`, or check `label_column=`: one label per token needs a column of token lists."
    )


def infer_task(inputs: Sequence[str], *, classes: bool) -> Task:
    """
    The task of the given inputs (common names): by the labels if these are real numbers, else by the kind of input.

    Example:
        >>> infer_task(["text", "text_pair"], classes=True)
        'text-classification'
    """
    if not classes:
        return "regression"
    tasks: dict[str, Task] = {
        "image": "image-classification",
        "audio": "audio-classification",
        "tokens": "token-classification",
    }
    return tasks.get(inputs[0], "text-classification")


def _chosen(features: dict[str, object], chosen: Sequence[str]) -> dict[str, str]:
    missing = [name for name in chosen if name not in features]
    if missing or not chosen:
        raise ValueError(
            f"input_columns={list(chosen)}, but the data set's input columns are {listed(features)}. The model would "
            "get nothing to read. Pass names out of these."
        )
    kinds = [_kind(features[name]) for name in chosen]
    if len(chosen) == 2 and kinds == ["text", "text"]:
        return dict(zip(chosen, ("text", "text_pair"), strict=True))
    if len(chosen) == 1 and kinds[0] is not None:
        return {chosen[0]: kinds[0]}
    types = listed(features[name] for name in chosen)
    raise ValueError(
        f"input_columns={list(chosen)} hold {types}; a classifier takes one image, audio, text or list of tokens, or "
        "a pair of texts. Pass such columns, or cast them with `cast_column`."
    )


def _kind(feature: object) -> str | None:
    if isinstance(feature, Image):
        return "image"
    if isinstance(feature, Audio):
        return "audio"
    if isinstance(feature, (List, LargeList)) and isinstance(feature.feature, Value):
        return "tokens" if feature.feature.dtype in _STRINGS else None
    return "text" if isinstance(feature, Value) and feature.dtype in _STRINGS else None
