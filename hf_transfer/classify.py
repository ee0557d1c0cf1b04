"""What an adapter says of files and sentences: one row for each, written as CSV or JSON lines."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers.utils import logging

from hf_transfer.files import whole_file
from hf_transfer.models import EMBEDDED
from hf_transfer.predictions import predict
from hf_transfer.recipe import show_messages


logger = logging.get_logger(__name__)

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
SOUND_SUFFIXES = (".aif", ".aiff", ".au", ".flac", ".mp3", ".ogg", ".opus", ".wav")
_SHOWN = 20

__all__ = [
    "IMAGE_SUFFIXES",
    "SOUND_SUFFIXES",
    "ClassificationArguments",
    "classify",
    "read_inputs",
    "write_predictions",
]


@dataclass
class ClassificationArguments:
    """Which adapter, and what it is to classify."""

    _argument_group_name = "the recipe"

    adapter_name_or_path: str = field(
        metadata={
            "help": "Hub id or folder of the adapter; embedded:text, embedded:image or embedded:audio for a try."
        }
    )
    inputs: list[str] = field(
        metadata={
            "help": "For images and sound: files, or folders of them. For text: sentences, or .txt files with one on "
            "each line."
        }
    )
    revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the adapter on the Hub."})
    name: str = field(default="default", metadata={"help": "Which adapter, where a repository holds several."})
    base_model: str | None = field(
        default=None, metadata={"help": "Base model in place of the one that the adapter names."}
    )
    base_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the base model; by default that of the training."}
    )
    merge: bool = field(default=False, metadata={"help": "Add the adapter to the weights of the base model first."})
    output_file: str | None = field(
        default=None, metadata={"help": "Where the predictions go: a .csv or .jsonl file. They are shown in any case."}
    )
    batch_size: int = field(default=32, metadata={"help": "Inputs that are classified at once."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code from the base model's repository. Only for authors you trust."}
    )

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(
                f"`--batch_size {self.batch_size}` leaves no input for a batch. Give a positive number, such as 32."
            )
        if self.output_file is not None:
            _check_suffix(self.output_file)


def classify(args: ClassificationArguments) -> list[dict[str, Any]]:
    """
    Load an adapter, let it classify the inputs, show and write what it says.

    Args:
        args (`ClassificationArguments`): which adapter, and what it is to classify.

    Returns:
        `list[dict]`: the rows, see [`~hf_transfer.predictions.predict`].

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if there is nothing to classify, or the adapter is for other inputs; and as
            [`~hf_transfer.adapters.load_adapter`].
    """
    from hf_transfer.adapters.embedded import embedded_adapter
    from hf_transfer.adapters.loading import load_adapter

    show_messages()
    source: str | Path = args.adapter_name_or_path
    if str(source).startswith(EMBEDDED):
        source = embedded_adapter(str(source).removeprefix(EMBEDDED))
    model, processor = load_adapter(
        source,
        revision=args.revision,
        name=args.name,
        base_model=args.base_model,
        base_revision=args.base_revision,
        merge=args.merge,
        trust_remote_code=args.trust_remote_code,
    )
    kinds = {"pixel_values": "images", "input_values": "recordings", "input_features": "recordings"}
    inputs = read_inputs(args.inputs, kinds.get(model.main_input_name, "sentences"))
    rows = predict(model, processor, inputs, batch_size=args.batch_size)
    logger.info("\n".join(_shown(row) for row in rows[:_SHOWN]))
    if len(rows) > _SHOWN:
        logger.info(f"... and {len(rows) - _SHOWN} more")
    if args.output_file is not None:
        write_predictions(rows, args.output_file)
        logger.info(f"{len(rows)} predictions are in {args.output_file}.")
    return rows


def read_inputs(words: Sequence[str], kind: str) -> list[str]:
    """
    The inputs that words of the command line stand for: paths of images or recordings, or sentences.

    Args:
        words (`Sequence[str]`): files, folders or sentences.
        kind (`str`): `images`, `recordings` or `sentences`.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if nothing is left.

    Example:
        >>> read_inputs(["A fine pan.", "It broke."], "sentences")
        ['A fine pan.', 'It broke.']
    """
    endings = {"images": IMAGE_SUFFIXES, "recordings": SOUND_SUFFIXES}.get(kind)
    found = [item for word in words for item in (_sentences(word) if endings is None else _files(word, kind, endings))]
    if not found:
        raise ValueError(
            f"There are no {kind} in {', '.join(map(repr, words)) or 'an empty list'}: nothing can be classified. "
            f"Pass {f'files or a folder of {kind}' if endings else 'sentences, or a .txt file with one on each line'}."
        )
    return found


def write_predictions(rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """
    Write predictions as CSV or JSON lines, by the suffix of the file, atomically.

    In CSV each probability has a column `probability of <label>`, and several labels are parted by `|`.

    Raises:
        ValueError: if the suffix is neither .csv nor .jsonl.
    """
    if _check_suffix(path) == ".csv":
        table = [_flat(row) for row in rows]
        columns = list(dict.fromkeys(key for row in table for key in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(table)
        content = text.getvalue()
    else:
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with whole_file(path) as unfinished:
        unfinished.write_text(content, encoding="utf-8", newline="")


def _files(word: str, kind: str, endings: Sequence[str]) -> list[str]:
    path = Path(word)
    if path.is_dir():
        return [str(file) for file in sorted(path.rglob("*")) if file.suffix.lower() in endings]
    if not path.is_file():
        raise FileNotFoundError(
            f"`{word}` is no file and no folder, and the adapter classifies {kind}: there is nothing to classify. "
            "Check the spelling; sentences need an adapter for text."
        )
    return [word]


def _sentences(word: str) -> list[str]:
    path = Path(word)
    if path.suffix.lower() != ".txt":
        if path.suffix.lower() in (*IMAGE_SUFFIXES, *SOUND_SUFFIXES):
            what = "an image" if path.suffix.lower() in IMAGE_SUFFIXES else "a recording"
            raise ValueError(
                f"`{word}` is the name of {what}, and the adapter classifies text: the name itself would be read. "
                f"Pass sentences or a .txt file, or an adapter for {'images' if 'im' in what else 'sound'}."
            )
        return [word] if word.strip() else []
    if not path.is_file():
        raise FileNotFoundError(
            f"The file `{word}` does not exist: there are no sentences to read. Check the spelling, or pass the "
            "sentences themselves."
        )
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"`{word}` is no UTF-8 text ({error.reason} at byte {error.start}): the sentences would be garbled. Save "
            "it as UTF-8."
        ) from error
    return [line for line in lines if line.strip()]


def _check_suffix(path: str | os.PathLike[str]) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in (".csv", ".jsonl"):
        raise ValueError(
            f"`--output_file {os.fspath(path)}` ends in `{suffix}`, which says no format that is written here. Name a "
            ".csv file, or a .jsonl file for JSON lines."
        )
    return suffix


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if key == "probabilities":
            flat.update({f"probability of {label}": number for label, number in value.items()})
        else:
            flat[key] = "|".join(value) if isinstance(value, list) else value
    return flat


def _shown(row: Mapping[str, Any]) -> str:
    shown = {key: value for key, value in row.items() if key != "probabilities"}
    return "  ".join(f"{value:.4f}" if isinstance(value, float) else str(value) for value in shown.values())
