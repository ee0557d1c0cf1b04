"""Exported models: opening the folder that [`~hf_transfer.export.export_model`] wrote."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


EXPORT_NAME = "export.json"
"""File that says what the graph beside it reads and returns."""

FILES = {"onnx": "model.onnx", "torch_export": "model.pt2"}
"""File of the graph by format."""

__all__ = ["EXPORT_NAME", "FILES", "Exported", "load_export", "onnx_packages", "without_examples"]


class Exported:
    """
    An exported model; made by [`load_export`]. Called with named tensors it returns logits.

    Attributes:
        description (`dict`): the content of `export.json`.
        config (`PreTrainedConfig`): with `id2label`.
    """

    def __init__(self, folder: Path, description: dict[str, Any]):
        from transformers import AutoConfig

        self.description = description
        self.config = AutoConfig.from_pretrained(folder)
        path = folder / FILES[description["format"]]
        self._session = self._module = None
        if description["format"] == "onnx":
            onnx_packages()
            import onnxruntime  # pyright: ignore[reportMissingImports]

            self._session: Any = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        else:
            _refuse_pickles(path)
            self._module: Any = torch.export.load(path).module()

    def __call__(self, **inputs: Any) -> Tensor:
        """
        Logits of a batch.

        Args:
            **inputs: tensors, as `processor(..., return_tensors="pt")` gives them; what the graph does not read is
                left out.

        Raises:
            ValueError: if an input is missing.
        """
        missing = [name for name in self.description["inputs"] if name not in inputs]
        if missing:
            raise ValueError(
                f"The graph reads {', '.join(self.description['inputs'])}, and {', '.join(missing)} is missing: a "
                "graph has no default values. Pass all of them, as the processor beside it returns them."
            )
        given = {name: inputs[name] for name in self.description["inputs"]}
        with torch.no_grad():
            if self._module is not None:
                return self._module(**given)
            wanted = {entry.name for entry in self._session.get_inputs()}
            arrays = {name: value.cpu().numpy() for name, value in given.items() if name in wanted}
            return torch.from_numpy(self._session.run(None, arrays)[0])


def load_export(folder: str | os.PathLike[str]) -> Exported:
    """
    Open an exported model, to be run on the CPU (ONNX) or where it was exported (`torch.export`).

    Args:
        folder (`str` or path): what `export_model` wrote.

    Raises:
        FileNotFoundError: if the folder holds no export.
        ImportError: if packages for ONNX are missing.
        ValueError: if the graph is of another format, or its file holds pickled data, which runs code when read.
    """
    path = Path(folder) / EXPORT_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"`{folder}` has no {EXPORT_NAME}: it is no exported model, or one whose writing was cut off. Write it "
            "with `export_model(model, folder)`; an ordinary checkpoint is loaded with `from_pretrained`."
        )
    description = json.loads(path.read_text(encoding="utf-8"))
    if description.get("format") not in FILES:
        raise ValueError(
            f"`{folder}` says it is of the format `{description.get('format')}`, which is not known here: it cannot "
            f"be run. Export it again, as {' or '.join(FILES)}."
        )
    return Exported(Path(folder), description)


def onnx_packages() -> None:
    """
    Import what ONNX needs.

    Raises:
        ImportError: if some of it is missing.
    """
    try:
        import onnx  # noqa: F401  # pyright: ignore[reportMissingImports]
        import onnxruntime  # noqa: F401  # pyright: ignore[reportMissingImports]
        import onnxscript  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            f"`{error.name}` is not installed: without it no ONNX file can be written or checked. Run `pip install "
            'onnx onnxscript onnxruntime`, or use format="torch_export", which needs nothing.'
        ) from error


def without_examples(program: Any) -> None:
    """Take the inputs with which a program was traced out of it: its file would hold them, pickled."""
    program._example_inputs = None  # torch 2.13: the public setter refuses None


def _refuse_pickles(path: Path) -> None:
    """`torch.export.load` unpickles example inputs and tensors of unusual types; ours have none."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            pickled = "/sample_inputs/" in entry.filename and entry.file_size
            if entry.filename.endswith("_config.json"):
                pickled = '"use_pickle": true' in archive.read(entry).decode("utf-8")
            if pickled:
                raise ValueError(
                    f"{path.name} holds pickled data ({entry.filename}), which may run code when it is read. Export "
                    "the model again with `export_model`, which writes none."
                )
