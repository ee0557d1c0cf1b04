"""Folders of recordings in class folders, read by the builder of `datasets` without torchcodec."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Audio, load_dataset_builder
from datasets.packaged_modules.audiofolder.audiofolder import AudioFolder


__all__ = ["load_without_torchcodec", "needs_torchcodec"]


@dataclass
class _StoredAudio(Audio):
    """
    `Audio` that notes the path of a file, which takes no torchcodec.

    `datasets` 5.2 imports the encoder before it looks at what is to be stored (`Audio.encode_example`). This may go
    when it imports it only to encode samples. In files the feature is written as `Audio`.
    """

    def encode_example(self, value: Any) -> dict[str, Any]:
        """The path or the bytes as they are."""
        if isinstance(value, dict):
            return {"bytes": value.get("bytes"), "path": value.get("path")}
        return {"bytes": None, "path": str(Path(value).absolute())}


def needs_torchcodec(error: BaseException) -> bool:
    """Whether `datasets` failed only because torchcodec is not installed."""
    return isinstance(error.__cause__, ImportError) and "torchcodec" in str(error.__cause__)


def load_without_torchcodec(*args: Any, **options: Any) -> Any:
    """
    Splits by name of recordings in class folders, as `load_dataset` gives them.

    Args:
        args, options: of `load_dataset`.

    Raises:
        ImportError: if the data are something else, for which `datasets` takes torchcodec.
    """
    builder = load_dataset_builder(*args, **options)
    if not isinstance(builder, AudioFolder):
        raise ImportError(
            f"`{args[0]}` holds sound in a form ({type(builder).__name__}) for which `datasets` takes torchcodec, "
            "which is not installed: its rows cannot be read. Run `pip install torchcodec`, or save the data as "
            "Parquet or as WAV files in class folders."
        )
    owner: Any = builder
    owner.BASE_FEATURE = _StoredAudio
    builder.download_and_prepare()
    return builder.as_dataset()
