"""What a comparison is given, in the forms that its callers have: names, folders, models and data in memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from hf_transfer.compare.arguments import CompareLoopArguments
from hf_transfer.compare.problem.pretrained import Pretrained
from hf_transfer.compare.runs import loop_settings
from hf_transfer.data.loading import TransferData
from hf_transfer.model_card.naming import public_name
from hf_transfer.recipe_arguments import DataArguments


if TYPE_CHECKING:
    from hf_transfer.compare import Data, Model

IN_MEMORY = "in memory"
# they change no result: ranks share whole runs
_OF_RANKS = ("world_size", "ddp_", "local_rank")

__all__ = ["IN_MEMORY", "Inputs", "load_data", "load_models", "name_of", "named_settings", "word_of"]


@dataclass(frozen=True)
class Inputs:
    """What was given to `compare`, for settings and commands."""

    models: Any
    data: Any
    target: Any
    teacher: Any
    folds: int | None
    data_args: DataArguments
    loop: CompareLoopArguments


def load_data(
    given: Data, data_args: DataArguments, seed: int, held: ExitStack, *, target: bool = False
) -> TransferData:
    """
    Data in the form of the recipes.

    Args:
        given (`str`, path, `TransferData` or splits by name): what `compare` takes.
        data_args (`DataArguments`): columns and rows.
        seed (`int`): draws the rows.
        held (`ExitStack`): holds the files of splits in memory, as long as they are read.
        target (`bool`, *optional*, defaults to `False`): of the target, which keeps all its rows that
            `samples_per_class` would leave out, and may lack labels here.
    """
    if isinstance(given, TransferData):
        return given
    options: dict[str, Any] = {"samples_per_class": None, "require_labels": False} if target else {}
    if isinstance(given, Mapping):
        from datasets import DatasetDict

        # by way of files: reading them decides on columns and labels as for any other data
        folder = held.enter_context(tempfile.TemporaryDirectory())
        DatasetDict({str(name): rows for name, rows in given.items()}).save_to_disk(folder)
        return data_args.load(folder, seed, **options)
    return data_args.load(os.fspath(given), seed, **options)


def load_models(
    given: Model | Sequence[Model], data: TransferData, *, processor: Any, revision: str, trust_remote_code: bool
) -> list[Pretrained]:
    """
    Base models, with labels for tables: Hub ids, names of folders, classes of models in memory.

    Args:
        given (`str`, path, `nn.Module` or a list of them): what `compare` takes.
        data (`TransferData`): what they are for.
        processor (*optional*): of models in memory; a list where there are several.
        revision (`str`): on the Hub.
        trust_remote_code (`bool`): whether to run code from the models' repositories.

    Raises:
        ValueError: if there are not as many processors as models in memory.
    """
    models = _listed(given)
    modules = [model for model in models if isinstance(model, nn.Module)]
    processors = list(processor) if isinstance(processor, (list, tuple)) else [processor] * len(modules)
    if len(processors) != len(modules):
        raise ValueError(
            f"There are {len(processors)} processors for {len(modules)} models in memory: it is not known whose they "
            "are. Give one for all, or a list with one for each."
        )
    rest = iter(processors)
    found = []
    for model, label in zip(models, _labels([name_of(model) for model in models]), strict=True):
        own = {"model": model, "processor": next(rest)} if isinstance(model, nn.Module) else {}
        name = None if isinstance(model, nn.Module) else os.fspath(model)
        options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code, **own}
        found.append(Pretrained(label, name, data, **options))
    return found


def name_of(given: Any) -> str:
    """
    What a table or a page calls a model or data, without the folders above it.

    Example:
        >>> name_of("google/vit-base-patch16-224"), name_of("/home/somebody/flowers"), name_of({"train": None})
        ('google/vit-base-patch16-224', 'flowers', 'in memory')
    """
    if isinstance(given, nn.Module):
        own = public_name(getattr(given, "name_or_path", None))[0]
        return own or type(given).__name__
    if isinstance(given, (str, os.PathLike)):
        return public_name(given)[0] or IN_MEMORY
    return IN_MEMORY


def word_of(given: Any) -> str | None:
    """What stands for it on a command line, as it was typed; `None` for what is in memory."""
    return os.fspath(given) if isinstance(given, (str, os.PathLike)) else None


def named_settings(inputs: Inputs) -> dict[str, Any]:
    """What all runs of a comparison depend on beside model, strategy and seed; of data and models the names."""
    loop = {name: value for name, value in loop_settings(inputs.loop).items() if not name.startswith(_OF_RANKS)}
    return {
        "data": name_of(inputs.data),
        "target": None if inputs.target is None else name_of(inputs.target),
        "teacher": None if inputs.teacher is None else name_of(inputs.teacher),
        "folds": inputs.folds,
        "seed": inputs.loop.seed,
        **vars(inputs.data_args),
        **loop,
    }


def _listed(given: Any) -> list[Any]:
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _labels(names: Sequence[str]) -> list[str]:
    """Names that differ: of equal ones the second is called `name (2)`."""
    found: list[str] = []
    for name in names:
        number = sum(other == name for other in names[: len(found)]) + 1
        found.append(name if number == 1 else f"{name} ({number})")
    return found
