"""The model of one run of a comparison, put into the output folder above all runs."""

from __future__ import annotations

import os

from torch import nn

from hf_transfer.data.loading import TransferData
from hf_transfer.models import load_model
from hf_transfer.recipe_arguments import LoopArguments
from hf_transfer.trainer import TransferTrainer


__all__ = ["keep_model"]


def keep_model(
    folder: str | os.PathLike[str], data: TransferData, args: LoopArguments, *, trust_remote_code: bool = False
) -> nn.Module:
    """
    Save the model of a run, with its processor, into `args.output_dir`, and push it where that is asked for.

    Args:
        folder (`str` or path): of the run.
        data (`TransferData`): what it was trained for.
        args (`LoopArguments`): of the recipe; nothing is trained with them any more.
        trust_remote_code (`bool`, *optional*, defaults to `False`): whether to run code from the model's repository.

    Returns:
        `nn.Module`: the model, on the device of `args`.
    """
    args.without_validation()  # the Trainer saves and pushes, but trains nothing
    model, processor = load_model(os.fspath(folder), data, trust_remote_code=trust_remote_code)
    trainer = TransferTrainer(model, args, processing_class=processor)
    trainer.save_model()
    if args.push_to_hub:
        trainer.push_to_hub(tasks=data.task)
    return model
