"""Reading the splits of a data set from the Hub, a folder, files, or the embedded data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DataFilesNotFoundError, DatasetGenerationError, DatasetNotFoundError
from datasets.packaged_modules.audiofolder.audiofolder import AudioFolder
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

from hf_transfer.data.columns import listed
from hf_transfer.data.sound_folders import load_without_torchcodec, needs_torchcodec


EMBEDDED = "embedded:"
READERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".arrow": "arrow"}


def read_splits(
    source: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]], config: str | None = None
) -> dict[str, Dataset]:
    """
    The splits of a data set by name, untouched.

    Args:
        source (`str`, path, or mapping of split names to files):
            Hub id, folder, file, files by split, or the name of an embedded set after `embedded:`.
        config (`str`, *optional*):
            Configuration of a Hub data set.

    Raises:
        FileNotFoundError: if a path does not exist, or the name is neither a path nor known to the Hub or its cache;
            if a folder holds no file that is read.
        ValueError: if files have unknown or different endings, a folder images and sound, or there is no such embedded
            set.

    Example:
        >>> sorted(read_splits("embedded:digits"))
        ['test', 'train', 'validation']
    """
    if isinstance(source, Mapping):
        return _read_files({split: str(_existing(path)) for split, path in source.items()})
    name = os.fspath(source)
    if name.startswith(EMBEDDED):
        from hf_transfer.data.embedded import load_embedded

        return _by_name(load_embedded(name.removeprefix(EMBEDDED)))
    path = Path(name).expanduser()
    if path.is_dir():
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            saved = load_from_disk(path)
            return _by_name(saved if isinstance(saved, DatasetDict) else {"train": saved})
        _check_folder(path)
        try:
            return _by_name(_load(str(path), config))
        except DataFilesNotFoundError as error:
            endings = sorted({file.suffix for file in path.rglob("*") if file.is_file()})
            raise FileNotFoundError(
                f"The folder `{path}` holds no file that is read; the endings in it are {listed(endings) or 'none'}. "
                "There is nothing to train on. Convert images to PNG or JPEG, recordings to WAV or FLAC, tables to "
                "CSV, JSON or Parquet."
            ) from error
    if path.is_file():
        return _read_files({"train": str(path)})
    if path.is_absolute() or name.startswith(("~", ".")) or name.count("/") > 1 or path.suffix in READERS:
        _existing(path)
    try:
        return _by_name(_load(name, config))
    except (DatasetNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"`{name}` is neither a path here nor a data set that the Hub, or its local cache, gives out. There is "
            f"nothing to train on. Check the spelling and the network ({type(error).__name__}: {error})."
        ) from error


def _existing(path: str | os.PathLike[str]) -> Path:
    found = Path(path).expanduser()
    if not found.exists():
        parent = next((folder for folder in found.parents if folder.exists()), Path())
        raise FileNotFoundError(
            f"The path `{path}` does not exist; of it, `{parent}` does. There is nothing to train on. "
            "Check the spelling, or pass a Hub id such as `user/name`."
        )
    return found


def _read_files(files: Mapping[str, str]) -> dict[str, Dataset]:
    endings = {Path(file).suffix.lower() for file in files.values()}
    readers = {READERS.get(ending) for ending in endings}
    if len(endings) != 1 or None in readers:
        raise ValueError(
            f"Files with the endings {listed(sorted(endings))} were given; one of {listed(READERS)} is read, the same "
            "for every split. Convert them, or pass a folder."
        )
    # the stub of load_dataset does not know the options of the readers
    options: dict[str, Any] = {"sep": "\t"} if endings == {".tsv"} else {}
    return _by_name(_load(str(readers.pop()), data_files=dict(files), **options))


def _check_folder(path: Path) -> None:
    """Refuse what would be read in part, or not at all."""
    files = [file for file in path.rglob("*") if file.is_file() and not file.name.startswith(".")]
    if any(file.stem == "metadata" for file in files):
        return  # it says what belongs together
    kinds = {"images": ImageFolder.EXTENSIONS, "sound": AudioFolder.EXTENSIONS}
    both = set(ImageFolder.EXTENSIONS) & set(AudioFolder.EXTENSIONS)  # such as .mpg
    found = {kind: [f for f in files if f.suffix.lower() in {*own} - both] for kind, own in kinds.items()}
    if found["images"] and found["sound"]:
        told = " and ".join(f"{len(own)} files of {kind} (`{own[0].name}`)" for kind, own in found.items())
        raise ValueError(
            f"The folder `{path}` holds {told}: the kind with fewer files would be left out without a word. Put them "
            "into folders of their own, or say in a metadata.csv what belongs together."
        )


def _load(*args: Any, **options: Any) -> Any:
    try:
        return load_dataset(*args, **options)
    except DatasetGenerationError as error:
        if not needs_torchcodec(error):
            raise
        return load_without_torchcodec(*args, **options)
    except ValueError as error:
        # what datasets 5.2 says where a file holds no row
        if "corresponds to no data" not in str(error):
            raise
        raise ValueError(
            f"A split of `{options.get('data_files') or args[0]}` is empty ({error}); nothing can be learned or "
            "scored on it. Check the files."
        ) from error


def _by_name(splits: Any) -> dict[str, Dataset]:
    return {str(name): split for name, split in splits.items()}
