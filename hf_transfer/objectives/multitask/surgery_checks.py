"""What gradient surgery refuses, and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from torch import Tensor


__all__ = [
    "backward_explained",
    "check_arguments",
    "check_choice",
    "check_one_tensor",
    "check_parameters",
    "check_rows",
    "refuse_accumulation",
    "refuse_separate_tensors",
]

_REENTRANT = (
    "Gradient surgery on parameters under activation checkpointing with `use_reentrant=True`: that form of "
    "checkpointing serves the ordinary backward only, and surgery asks for the gradients of single tasks. Set "
    "`use_reentrant` to False, or leave it out."
)


def check_choice(option: str, value: str, known: Sequence[str]) -> None:
    """
    Refuse a word that is none of those known.

    Raises:
        ValueError: naming them.
    """
    if value not in known:
        raise ValueError(
            f'`{option}="{value}"` of the gradient surgery is unknown: there is nothing to compute. Give one of '
            f"{', '.join(known)}."
        )


def check_one_tensor(inputs: Sequence[Tensor]) -> None:
    """
    Refuse heads that read different tensors.

    Raises:
        ValueError: if two of the inputs are not the same tensor.
    """
    if any(tensor is not inputs[0] for tensor in inputs):
        refuse_separate_tensors()


def refuse_separate_tensors() -> NoReturn:
    """
    Refuse heads that read different tensors.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        "Gradient surgery on the representation, but the tasks read different tensors (features of rows, and states "
        "of tokens): their gradients have no products to compare. Use "
        '`GradientSurgery(..., on="parameters")`, which works on what they share below.'
    )


def check_rows(shared: bool, method: str) -> None:
    """
    Refuse data without a row that is labelled for two tasks.

    Raises:
        ValueError: if `shared` is false.
    """
    if not shared:
        acts = "would never change anything" if method in ("pcgrad", "upgrad") else "would see lengths only"
        raise ValueError(
            f"Gradient surgery `{method}` on the representation, but no row is labelled for two tasks: the gradients "
            f'of two tasks lie in different rows and never point against each other, so that it {acts}. Use `on="'
            'parameters"`, or data whose rows have labels for several tasks.'
        )


def refuse_accumulation() -> NoReturn:
    """
    Refuse the second micro-batch of a step.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        "Gradient surgery on the representation under gradient accumulation: the micro-batches of a step hold other "
        "rows, and combining the gradients of each is not what one large batch gives. Set "
        '`gradient_accumulation_steps=1`, or use `GradientSurgery(..., on="parameters")`, which is exact. (In a loop '
        "of your own, set `attachment.progress` at the start of each optimizer step.)"
    )


@contextmanager
def backward_explained() -> Iterator[None]:
    """
    Say what it means that the backward of a compiled model runs only once, and that of some checkpointing whole.

    Raises:
        ValueError: in place of torch's own error.
    """
    try:
        yield
    except RuntimeError as error:
        # A compiled backward hands its buffers on as it goes (torch 2.13), unless it is told not to.
        if "donated buffer" in str(error):
            raise ValueError(_compiled("torch.compile")) from error
        if "use_reentrant=True" in str(error):
            raise ValueError(_REENTRANT) from error
        raise


def _compiled(what: str) -> str:
    return (
        f"Gradient surgery on parameters under `{what}`: a compiled backward runs once, and surgery runs it for each "
        'task. Leave the model uncompiled, or use `GradientSurgery(..., on="representation")`.'
    )


def _sharded(what: str) -> str:
    return (
        f"Gradient surgery on parameters under {what}: each rank holds a part of the parameters, or takes their "
        "gradients out of the ordinary backward, and the gradients of single tasks are never whole. Use DDP, or "
        '`GradientSurgery(..., on="representation")`.'
    )


def check_parameters(parameters: Iterable[Tensor]) -> None:
    """
    Refuse parameters that are spread over ranks.

    Raises:
        ValueError: under FSDP or DeepSpeed ZeRO-3.
    """
    for parameter in parameters:
        # DTensor has a mesh; DeepSpeed marks its parameters
        if hasattr(parameter, "device_mesh") or getattr(parameter, "_is_flat_param", False):
            raise ValueError(_sharded("FSDP"))
        if hasattr(parameter, "ds_id"):
            raise ValueError(_sharded("DeepSpeed"))


def check_arguments(args: Any, on: str) -> None:
    """
    Refuse training arguments under which surgery cannot work.

    Args:
        args (`TrainingArguments`): of the run.
        on (`str`): `"parameters"` or `"representation"`.

    Raises:
        ValueError: naming the argument.
    """
    if on == "representation":
        if args.gradient_accumulation_steps > 1:
            refuse_accumulation()
        return
    if getattr(args, "fsdp", None):
        raise ValueError(_sharded("FSDP"))
    if getattr(args, "deepspeed", None):
        raise ValueError(_sharded("DeepSpeed"))
    if getattr(args, "torch_compile", False):
        raise ValueError(_compiled("torch_compile"))
    # The old names mirror the new ones, `activation_checkpointing`, where transformers has those.
    options = getattr(args, "gradient_checkpointing_kwargs", None) or {}
    if getattr(args, "gradient_checkpointing", False) and options.get("use_reentrant", False):
        raise ValueError(_REENTRANT)
