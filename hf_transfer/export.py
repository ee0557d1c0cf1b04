"""Export a model as a graph, ONNX or `torch.export`, checked against the model before anything is written."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from hf_transfer.adapters.merging import disagreement, logits_of
from hf_transfer.attach import CHILD
from hf_transfer.exported import EXPORT_NAME, FILES, load_export, onnx_packages, without_examples
from hf_transfer.modes import undisturbed
from hf_transfer.series_models import TARGETS, named_output
from hf_transfer.trial_inputs import inputs_of


Format = Literal["onnx", "torch_export"]

TOLERANCES: dict[torch.dtype, float] = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 2e-2}
"""Largest difference of two logits as a share of the largest one; runtimes fuse and reorder sums.

Set by hand: in float32 six tiny models as ONNX were off by 3e-7 at most (absolute); no other type was measured.
"""

_COARSEST = 1e-1

__all__ = ["TOLERANCES", "export_model"]


def export_model(
    model: nn.Module,
    folder: str | os.PathLike[str],
    processor: Any = None,
    *,
    format: Format = "onnx",
    batch: Mapping[str, Any] | None = None,
) -> Path:
    """
    Write a model as a graph that runs without its Python code, after comparing its logits with the model's.

    The graph takes any number of rows, and of text any length. Beside it stand `config.json` with the labels, the
    files of the processor, and `export.json` with the names of the inputs and how far the logits were apart.
    [`~hf_transfer.exported.load_export`] opens the folder. The files appear when all is written and checked, each
    whole. None of them holds pickled data, and none the rows of `batch`.

    Args:
        model (`nn.Module`):
            A classifier of `transformers`; it stays as it is.
        folder (`str` or path):
            Where to.
        processor (`Any`, *optional*):
            Tokenizer or image processor to save beside it.
        format (`str`, *optional*, defaults to `"onnx"`):
            `"onnx"` for ONNX Runtime and others, needs `onnx`, `onnxscript` and `onnxruntime`; or `"torch_export"` for
            PyTorch, needs nothing.
        batch (`Mapping[str, Any]`, *optional*):
            Inputs with which the graph is traced and checked, by default random ones. Images have the size of these.

    Returns:
        `Path`: the file of the graph, `model.onnx` or `model.pt2`.

    Raises:
        ImportError: if packages for ONNX are missing.
        TypeError: if the model still has adapters.
        ValueError: if objectives are attached, the format is unknown, the model cannot be traced (code that depends on
            values), the type is bfloat16, which ONNX Runtime has few kernels for, or the logits differ by more than
            [`TOLERANCES`] (a tenth in bfloat16).

    Example:
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> from hf_transfer.exported import load_export
        >>> config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=32)
        >>> folder = Path(tempfile.mkdtemp())
        >>> export_model(ViTForImageClassification(config), folder, format="torch_export").name
        'model.pt2'
        >>> load_export(folder)(pixel_values=torch.zeros(5, 3, 32, 32)).shape
        torch.Size([5, 2])
    """
    _check(model, format)
    read = inputs_of(model, batch)
    inputs = {name: value for name, value in read.items() if isinstance(value, Tensor) and name not in TARGETS}
    inputs = {name: value if len(value) > 1 else value.repeat_interleave(2, 0) for name, value in inputs.items()}
    folder = Path(folder)
    with _unfinished(folder) as unfinished:
        with undisturbed(model), _quiet():
            program = _traced(model, inputs)
            if format == "onnx":
                _save_onnx(program, inputs, unfinished / FILES[format])
            else:
                without_examples(program)
                torch.export.save(program, unfinished / FILES[format])
        config: Any = model.config
        config.save_pretrained(unfinished)
        if processor is not None:
            processor.save_pretrained(unfinished)
        described = {
            "format": format,
            "inputs": list(inputs),
            "outputs": ["logits"],
            "model_class": type(model).__name__,
            "dtype": str(_dtype(model)).removeprefix("torch."),
            "versions": {name: metadata.version(name) for name in ("torch", "transformers")},
        }
        _write_json(unfinished / EXPORT_NAME, described)
        difference = _check_logits(model, unfinished, inputs)
        _write_json(unfinished / EXPORT_NAME, {**described, "difference": difference, "tolerance": _tolerance(model)})
    return folder / FILES[format]


class _Logits(nn.Module):
    """The model as a function from named tensors to logits."""

    def __init__(self, model: nn.Module, names: list[str]):
        super().__init__()
        self.model = model
        options: dict[str, Any] = {"return_dict": True}
        if "use_cache" in inspect.signature(model.forward).parameters:
            options["use_cache"] = False

        def forward(*args: Tensor, **kwargs: Tensor) -> Tensor:
            output = model(**dict(zip(names, args, strict=False)), **kwargs, **options)
            return output[named_output(output)]

        # `torch.export` reads the names of the inputs off the signature
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        vars(forward)["__signature__"] = inspect.Signature([inspect.Parameter(name, kind) for name in names])
        self.forward = forward


def _traced(model: nn.Module, inputs: dict[str, Tensor]) -> Any:
    free = torch.export.Dim.DYNAMIC
    # of token ids, masks and the like the second dimension is the length of the text
    shapes = {
        name: {0: free, **({1: free} if value.dim() == 2 and not value.is_floating_point() else {})}
        for name, value in inputs.items()
    }
    try:
        return torch.export.export(
            _Logits(model, list(inputs)), (), dict(inputs), dynamic_shapes=cast(Any, shapes), strict=False
        )
    except Exception as error:  # of many types, most of them private
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{type(model).__name__} cannot be traced into a graph for any number of rows ({type(error).__name__}: "
            f"{reason}): its code depends on the values or the shape of its inputs. Load it with "
            '`attn_implementation="eager"` and try again, or share the model itself with `save_pretrained`.'
        ) from error


def _save_onnx(program: Any, inputs: dict[str, Tensor], path: Path) -> None:
    try:
        made: Any = torch.onnx.export(
            program, (), kwargs=dict(inputs), dynamo=True, verbose=False, output_names=["logits"]
        )
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"The graph of the model has operations that ONNX has no form for ({type(error).__name__}: {reason}): no "
            'ONNX runtime could run it. Use format="torch_export".'
        ) from error
    made.save(path)  # weights of more than 2 GB in a file beside it


def _check(model: Any, format: str) -> None:
    if format not in FILES:
        raise ValueError(
            f'format="{format}" is not known here: there is no writer for it. Choose from {", ".join(FILES)}.'
        )
    if hasattr(model, "peft_config"):
        raise TypeError(
            "The model has adapters: the graph would hold their separate products, and PEFT's switches could not be "
            "traced. Merge first, `export_model(merge_adapter(model), folder)`."
        )
    if hasattr(model, CHILD):
        raise ValueError(
            "Objectives are attached to the model: their hooks cannot be traced. Detach them first, "
            "`trainer.attachment.detach()`."
        )
    if format == "onnx":
        onnx_packages()
        if _dtype(model) == torch.bfloat16:
            raise ValueError(
                "The model is in bfloat16, for which ONNX Runtime lacks most kernels: the file could not be run. "
                'Export it in single precision, `model.float()`, or with format="torch_export".'
            )


def _check_logits(model: nn.Module, folder: Path, inputs: dict[str, Tensor]) -> float:
    """Compare the written graph with the model, also on other numbers of rows and a longer text."""
    exported, worst = load_export(folder), 0.0
    for name, shown in _variants(model, inputs).items():
        difference = disagreement(logits_of(model, shown), exported(**shown))
        worst = max(worst, difference)
        if not difference <= _tolerance(model):
            raise ValueError(
                f"The logits of the exported graph differ from the model's by {difference:.1e} of the largest on "
                f"{name}; rounding explains {_tolerance(model):.0e}. Nothing was written: export in float32, "
                '`model.float()`, load the model with `attn_implementation="eager"`, or try the other format.'
            )
    return worst


def _variants(model: Any, inputs: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    made = {
        "the batch": inputs,
        "one row more": {name: torch.cat([value, value[:1]]) for name, value in inputs.items()},
        "one row": {name: value[:1] for name, value in inputs.items()},
    }
    text = model.config.get_text_config()
    longest = getattr(text, "max_position_embeddings", None)
    tokens = {name: value for name, value in inputs.items() if value.dim() == 2 and not value.is_floating_point()}
    if "attention_mask" in tokens and (longest is None or tokens["attention_mask"].shape[1] + 5 <= longest):
        pads = {"input_ids": getattr(text, "pad_token_id", None) or 0}
        longer = {name: nn.functional.pad(value, (0, 3), value=pads.get(name, 0)) for name, value in tokens.items()}
        made["a longer text"] = {**inputs, **longer}
    return made


def _dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _tolerance(model: nn.Module) -> float:
    return TOLERANCES.get(_dtype(model), _COARSEST)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _quiet() -> Iterator[None]:
    """Tracing warns of what PyTorch's own code does (2.13: deprecated tree specs, copied tensors)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _unfinished(folder: Path) -> Iterator[Path]:
    """A folder beside `folder`, whose files move there when the block ends; after an error none do."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        yield made
        folder.mkdir(exist_ok=True)
        # the description last: a folder that has it is complete
        for file in sorted(made.iterdir(), key=lambda file: file.name == EXPORT_NAME):
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(made, ignore_errors=True)
