"""What leaves this machine: adapters and checkpoints without its paths, and files that a run may not take away."""

from __future__ import annotations

import html
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging


logger = logging.get_logger(__name__)

_STAGE = "_push_"
_ADAPTER = "adapter_config.json"
_RESULTS, _REPORT = "results.json", ("report.html", "report.md")

__all__ = ["clear_stages", "stage", "without_machine_paths"]


def without_machine_paths(files: Mapping[str, Path]) -> dict[str, Path | bytes]:
    """
    The same files, but for those that name folders of this machine: of these the content without them.

    That is the base model of an adapter (see `remove_machine_paths`), the best checkpoint of a trainer's state, and
    the commands in the report of a comparison, which keep of a folder its name.
    The files on disk stay as they are.

    Args:
        files (`Mapping[str, Path]`): by path in the repository.
    """
    found: dict[str, Path | bytes] = dict(files)
    configs = [path for path in files if path.rsplit("/", 1)[-1] == _ADAPTER]
    if configs:
        from hf_transfer.adapters.portable import remove_machine_paths

        with tempfile.TemporaryDirectory() as temporary:
            texts = [path for path in files if path.endswith((".json", ".md"))]
            for path in texts:
                (Path(temporary) / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(files[path], Path(temporary) / path)
            remove_machine_paths(temporary)
            cleaned = {path: (Path(temporary) / path).read_bytes() for path in texts}
        found |= {path: content for path, content in cleaned.items() if content != files[path].read_bytes()}
        if any(path in found and not json.loads(cleaned[path])["base_model_name_or_path"] for path in configs):
            logger.warning_once(
                "The base model of the adapter is a folder of this machine, which nobody else has: it is not named in "
                "what is pushed. Push the base model too and train from there, or tell people which model to give to "
                "`load_adapter(..., base_model=...)`."
            )
    for path in [path for path in files if path.rsplit("/", 1)[-1] == TRAINER_STATE_NAME]:
        state = json.loads(files[path].read_text(encoding="utf-8"))
        if state.get("best_model_checkpoint"):
            state["best_model_checkpoint"] = Path(state["best_model_checkpoint"]).name
            found[path] = (json.dumps(state, indent=2, sort_keys=True) + "\n").encode()
    if _RESULTS in files and set(_REPORT) <= set(files):
        folders = _folders_of_commands(files[_RESULTS])
        for path in (_RESULTS, *_REPORT):
            content = found[path]
            text = content.decode() if isinstance(content, bytes) else content.read_text(encoding="utf-8")
            for folder in folders:
                text = text.replace(folder, Path(folder).name).replace(html.escape(folder), Path(folder).name)
            found[path] = text.encode()
    return found


def _folders_of_commands(results: Path) -> list[str]:
    """Folders and files of this machine in the commands of a comparison, the longest first."""
    stored = json.loads(results.read_text(encoding="utf-8"))
    commands = [stored.get("command"), *(row.get("command") for row in stored.get("answer", {}).get("rows", ()))]
    words = {word for command in commands if command for word in shlex.split(command)}
    return sorted((word for word in words if "/" in word and Path(word).exists()), key=len, reverse=True)


def stage(files: Mapping[str, Path], folder: str | os.PathLike[str]) -> dict[str, Path]:
    """
    The same files under names of their own, for a push in the background: the run goes on and removes checkpoints.

    They are hard links beside the originals, which take no space, or copies where the disk has no such links.

    Args:
        files (`Mapping[str, Path]`): by path in the repository; none is written to again.
        folder (`str` or path): on the same disk. The links go when [`clear_stages`] is called.
    """
    place = Path(tempfile.mkdtemp(prefix=_STAGE, dir=folder))
    staged: dict[str, Path] = {}
    for path, source in files.items():
        staged[path] = place / path
        staged[path].parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, staged[path])
        except OSError:  # no hard links there
            shutil.copyfile(source, staged[path])
    return staged


def clear_stages(folder: str | os.PathLike[str]) -> None:
    """Remove what [`stage`] left in a folder; also of a process that was killed."""
    for place in Path(folder).glob(f"{_STAGE}*"):
        shutil.rmtree(place, ignore_errors=True)
