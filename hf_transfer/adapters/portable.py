"""Saved adapters without the paths of the machine that saved them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from hf_transfer.adapters.base_checkpoint import stated_name
from hf_transfer.files import whole_file
from hf_transfer.models import EMBEDDED


CONFIG_NAME = "adapter_config.json"
_CARD_NAME = "README.md"
_SIDECAR_NAME = "task_config.json"

__all__ = ["CONFIG_NAME", "name_embedded_base", "remove_machine_paths"]


def name_embedded_base(folder: Path) -> None:
    """Write `embedded:...` for the folder of an embedded base model in what PEFT left in `folder`."""
    config = _read(folder / CONFIG_NAME)
    base = config.get("base_model_name_or_path")
    if base and (name := stated_name(base)[0]).startswith(EMBEDDED):
        _rename_base(folder, base, name)


def remove_machine_paths(folder: str | os.PathLike[str]) -> None:
    """
    Make a saved adapter fit for the Hub: no file of it names a folder of this machine.

    The base model becomes its Hub id where the folder is one of the Hub's cache, `embedded:...` where it is an
    embedded model, and else null: whoever loads the adapter then says which model it belongs to. A Hub id stays, so
    that stock PEFT finds it. Subfolders with further adapters are treated alike. Each file is replaced atomically.

    Args:
        folder (`str` or path): what `save_adapter`, `save_task_config` or PEFT wrote.
    """
    for config_file in sorted(Path(folder).rglob(CONFIG_NAME)):
        base = _read(config_file).get("base_model_name_or_path")
        if base and _is_path(base):
            name = stated_name(base)[0]
            _rename_base(config_file.parent, base, None if _is_path(name) else name)
            if config_file.parent != Path(folder):
                _rename_in_card(Path(folder), base, None if _is_path(name) else name)
    for sidecar in sorted(Path(folder).rglob(_SIDECAR_NAME)):
        content = _read(sidecar)
        if content.get("base_model") and _is_path(content["base_model"]):
            _write(sidecar, {**content, "base_model": None})


def _is_path(name: str) -> bool:
    # a relative name that exists is a folder too, although it may look like a Hub id
    return not name.startswith(EMBEDDED) and (name.count("/") > 1 or name[:1] in "/.~" or os.path.exists(name))


def _rename_base(folder: Path, base: str, name: str | None) -> None:
    config = _read(folder / CONFIG_NAME)
    _write(folder / CONFIG_NAME, {**config, "base_model_name_or_path": name})
    _rename_in_card(folder, base, name)


def _rename_in_card(folder: Path, base: str, name: str | None) -> None:
    card = folder / _CARD_NAME
    if not card.is_file():
        return
    text = card.read_text(encoding="utf-8")
    if base in text:
        # the Hub refuses metadata whose base model is no Hub id
        lines = [line for line in text.splitlines() if not line.startswith("base_model:") or base not in line]
        lines = [line for line in lines if not line.startswith("- base_model:") or base not in line]
        with whole_file(card) as unfinished:
            unfinished.write_text("\n".join(lines).replace(base, name or "a local model") + "\n", encoding="utf-8")


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _write(file: Path, content: dict[str, Any]) -> None:
    with whole_file(file) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
