"""`export_task`: one of several tasks as an ordinary model."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from hf_transfer.adapters.merging import TOLERANCES, disagreement, logits_of, merge_adapter
from hf_transfer.anatomy import anatomy
from hf_transfer.attach import CHILD
from hf_transfer.multitask.task import Task
from hf_transfer.multitask.view import as_task, multi_task_of, task_named
from hf_transfer.trial_inputs import inputs_of


__all__ = ["export_task"]


def export_task(
    model: nn.Module,
    name: str,
    folder: str | os.PathLike[str],
    processor: Any = None,
    *,
    batch: Mapping[str, Any] | None = None,
) -> Path:
    """
    Write one task of a model as an ordinary checkpoint, which `AutoModelFor...from_pretrained` and `pipeline()` open.

    The backbone is that of all tasks, with an adapter merged into it; the head is that of the task, and the config
    names its labels and the kind of problem. A task of tokens of a model for whole rows becomes a model for tokens.
    What was written is opened again and compared with the model as that task; the files then appear in the folder, the
    config last. The model stays as it is, attached.

    Args:
        model (`nn.Module`):
            With the tasks attached, also under PEFT.
        name (`str`):
            Name of the task.
        folder (`str` or path):
            Where to.
        processor (`Any`, *optional*):
            Tokenizer or image processor to save beside it.
        batch (`Mapping[str, Any]`, *optional*):
            Inputs on which the logits are compared; random ones by default.

    Returns:
        `Path`: the folder.

    Raises:
        ValueError: if no tasks are attached or none has that name, the model is sharded, its architecture has no
            place for the head or no class for tokens, the adapter cannot be merged, or the logits differ by more than
            rounding explains (as for [`merge_adapter`]).

    Relations:
        [`as_task`] uses the model as that task without writing it.

    Example:
        >>> from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification
        >>> from hf_transfer.attach import attach
        >>> from hf_transfer.objectives.multitask.multi_task import MultiTask
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> model = BertForSequenceClassification(config)
        >>> _ = attach(model, [MultiTask([Task("topic", label_names=("art", "law", "sport"))])])
        >>> folder = export_task(model, "topic", Path(tempfile.mkdtemp()) / "topic")
        >>> AutoModelForSequenceClassification.from_pretrained(folder).config.id2label
        {0: 'art', 1: 'law', 2: 'sport'}
    """
    objective = multi_task_of(model)
    task = task_named(objective, name)
    _refuse_shards(model)
    inputs = inputs_of(model, batch)
    with as_task(model, name):
        expected = logits_of(model, inputs)
    plain = _single(_plain(model), task, cast(nn.Linear, objective.heads[name]))
    folder = Path(folder)
    with _unfinished(folder) as unfinished:
        plain.save_pretrained(unfinished)
        if processor is not None:
            processor.save_pretrained(unfinished)
        _check_logits(type(plain).from_pretrained(unfinished), inputs, expected, task)
    return folder


def _plain(model: nn.Module) -> Any:
    """The model without adapters; where it has some, a merged copy."""
    if not hasattr(model, "peft_config"):
        return model
    attached: Any = getattr(model, CHILD).attachment
    attached.drain()  # what is left of a forward need not be copied
    copied: Any = copy.deepcopy(model)
    getattr(copied, CHILD).attachment.detach()
    return merge_adapter(copied)


def _single(source: Any, task: Task, head: nn.Linear) -> Any:
    """A model for the task alone, with the weights of `source`, of which nothing is copied."""
    kind = _class_for(source, task)
    config = _config(source.config, task)
    with torch.device("meta"):
        made = kind(config)
    where = anatomy(made).head
    own: dict[str, Tensor] = {
        key: value for key, value in source.state_dict().items() if not key.startswith(f"{CHILD}.")
    }
    wanted = made.state_dict()
    state = {key: own[key] for key in wanted if key in own and not key.startswith(f"{where}.")}
    dtype = next((value.dtype for value in own.values() if value.is_floating_point()), torch.float32)
    state |= _head_state(made.get_submodule(where), where, head, task, dtype)
    missing = [key for key in wanted if key not in state]
    if missing:
        raise ValueError(
            f"{kind.__name__} has {missing[0]}{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}, which "
            f"{type(source).__name__} has not: task `{task.name}` cannot become one. Keep it as a task of the "
            "model, `with as_task(model, ...)`."
        )
    made.load_state_dict(state, assign=True)
    return made.eval()


def _class_for(source: Any, task: Task) -> Any:
    if task.kind != "tokens" or "TokenClassification" in type(source).__name__:
        return type(source)
    from transformers import AutoModelForTokenClassification

    mapping: Any = AutoModelForTokenClassification._model_mapping
    if type(source.config) not in mapping:
        raise ValueError(
            f"transformers has no token classifier for models of type `{source.config.model_type}`: task "
            f"`{task.name}` has no class to be saved as. Keep it as a task of the model, `with as_task(model, ...)`."
        )
    return mapping[type(source.config)]


def _config(config: Any, task: Task) -> Any:
    own = copy.deepcopy(config)
    names = task.label_names or tuple(f"LABEL_{number}" for number in range(task.num_labels))
    own.id2label = dict(enumerate(names))
    own.label2id = {label: number for number, label in own.id2label.items()}
    own.problem_type = task.problem_type
    return own


def _head_state(head: nn.Module, where: str, learned: nn.Linear, task: Task, dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights of the task in the form of the head of the model: linear or a convolution, with a bias or none."""
    own = head.state_dict()
    weights = {key: value for key, value in own.items() if value.dim() > 1}
    biases = [key for key in own if key not in weights]
    if len(weights) != 1 or next(iter(weights.values())).numel() != learned.weight.numel() or len(biases) > 1:
        raise ValueError(
            f"The head of the model, `{where}`, is a {type(head).__name__} and no linear layer of the features: the "
            f"head of task `{task.name}` cannot take its place. Keep it as a task of the model, "
            "`with as_task(model, ...)`."
        )
    key, weight = next(iter(weights.items()))
    state = {f"{where}.{key}": learned.weight.detach().reshape(weight.shape).to(dtype)}
    if biases:
        bias = torch.zeros(len(learned.weight)) if learned.bias is None else learned.bias.detach()
        state[f"{where}.{biases[0]}"] = bias.to(dtype)
    elif learned.bias is not None and bool(learned.bias.any()):
        raise ValueError(
            f"The head of the model, `{where}`, has no bias, and that of task `{task.name}` has: its constants would "
            "be lost. Train the task with a head without bias."
        )
    return state


def _check_logits(found: nn.Module, inputs: Mapping[str, Any], expected: Tensor, task: Task) -> None:
    found.to(expected.device)
    dtype = next((p.dtype for p in found.parameters() if p.is_floating_point()), torch.float32)
    difference, tolerance = disagreement(expected, logits_of(found, inputs)), TOLERANCES.get(dtype, 1e-4)
    if not difference <= tolerance:
        raise ValueError(
            f"The exported model of task `{task.name}` differs from the model of all tasks by {difference:.1e} of the "
            f"largest logit; rounding explains {tolerance:.0e}. Nothing was written: the model does more with its "
            "head's output than the head. Keep it as a task of the model, `with as_task(model, ...)`."
        )


def _refuse_shards(model: nn.Module) -> None:
    from torch.distributed.tensor import DTensor

    if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        raise ValueError(
            "The model is sharded over ranks (FSDP): none of them has its weights whole. Save a checkpoint, load it "
            "in one process with the tasks attached, and export from there."
        )


@contextmanager
def _unfinished(folder: Path) -> Iterator[Path]:
    """A folder beside `folder`, whose files move there when the block ends; after an error none do."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        yield made
        folder.mkdir(exist_ok=True)
        for file in sorted(made.iterdir(), key=lambda file: file.name == "config.json"):
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(made, ignore_errors=True)
