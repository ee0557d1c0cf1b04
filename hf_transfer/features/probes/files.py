"""A probe on the disk: its numbers as safetensors, all else as JSON."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from hf_transfer.features.probes.probe import Probe
from hf_transfer.files import whole_file


DESCRIPTION = "probe.json"
_FORMAT = 1

__all__ = ["load_probe", "save_probe"]


def save_probe(probe: Probe, folder: str | os.PathLike[str]) -> None:
    """Write a probe; see [`Probe.save`]."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"arrays.{name}": np.ascontiguousarray(array) for name, array in probe.arrays.items()}
    tensors.update({name: np.ascontiguousarray(getattr(probe, name)) for name in ("mean", "scale", "sample")})
    content = save(tensors)
    digest = hashlib.sha256(content).hexdigest()
    # the name of the numbers changes with them: they are there before the description that names them is
    name = f"probe-{digest[:16]}.safetensors"
    _write(folder / name, content)
    description = {
        "format": _FORMAT,
        "kind": probe.kind,
        "task": probe.task,
        "label_names": list(probe.label_names),
        "strength": probe.strength,
        "scores": [list(item) for item in probe.scores.items()],
        "rows": probe.rows,
        "settings": dict(probe.settings),
        "column": probe.column,
        "tensors": name,
        "sha256": digest,
    }
    _write(folder / DESCRIPTION, json.dumps(description, indent=2).encode())
    for old in folder.glob("probe-*.safetensors"):
        if old.name != name:
            old.unlink(missing_ok=True)


def load_probe(folder: str | os.PathLike[str]) -> Probe:
    """
    The probe that [`Probe.save`] wrote into a folder.

    Raises:
        ValueError: if there is none, its files are damaged, or a later version wrote it.

    Example:
        >>> import tempfile
        >>> from hf_transfer.features import fit_probe
        >>> probe = fit_probe(np.eye(4), [0, 1, 0, 1], kind="ridge")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     probe.save(folder)
        ...     load_probe(folder).rows
        4
    """
    folder = Path(folder)
    try:
        found: dict[str, Any] = json.loads((folder / DESCRIPTION).read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder} holds no {DESCRIPTION} that can be read: there is no probe to load. Pass the folder given to "
            "`Probe.save`."
        ) from error
    if found.get("format") != _FORMAT:
        raise ValueError(
            f"{folder / DESCRIPTION} has the format {found.get('format')}, this version reads {_FORMAT}: its numbers "
            "could mean something else. Load it with the version that wrote it, or fit the probe again."
        )
    path = folder / found["tensors"]
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != found["sha256"]:
        raise ValueError(
            f"{path} is missing or damaged: its bytes are not those that were written, and the probe would predict "
            "something else. Restore the file, or fit the probe again."
        )
    tensors = load(content)
    return Probe(
        strength=found["strength"],
        scores={candidate: score for candidate, score in found["scores"]},
        rows=found["rows"],
        kind=found["kind"],
        task=found["task"],
        label_names=tuple(found["label_names"]),
        mean=tensors["mean"],
        scale=tensors["scale"],
        arrays={name.removeprefix("arrays."): array for name, array in tensors.items() if name.startswith("arrays.")},
        settings=found["settings"],
        column=found["column"],
        sample=tensors["sample"],
    )


def _write(path: Path, content: bytes) -> None:
    with whole_file(path) as unfinished:
        unfinished.write_bytes(content)
