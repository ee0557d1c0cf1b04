"""The model of one run of a comparison, put into the output folder above all runs."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, cast

from torch import nn

from hf_transfer.data.loading import TransferData
from hf_transfer.model_card.facts import RunFacts
from hf_transfer.model_card.storage import load_facts
from hf_transfer.models import load_model
from hf_transfer.recipe_arguments import LoopArguments
from hf_transfer.trainer import TransferTrainer


__all__ = ["keep_model", "load_kept"]


def load_kept(
    folder: str | os.PathLike[str],
    data: TransferData,
    device: Any,
    *,
    trust_remote_code: bool = False,
    base_model: nn.Module | None = None,
) -> tuple[nn.Module, Any]:
    """The model of a run, or its base with its adapter, and its processor; arguments as [`keep_model`]."""
    if os.path.isfile(os.path.join(folder, "adapter_config.json")):
        from hf_transfer.adapters.loading import load_adapter

        model, processor = load_adapter(os.fspath(folder), base_model=base_model, trust_remote_code=trust_remote_code)
        return model.to(cast(Any, device)), processor
    return load_model(os.fspath(folder), data, trust_remote_code=trust_remote_code)


def keep_model(
    folder: str | os.PathLike[str],
    data: TransferData,
    args: LoopArguments,
    *,
    trust_remote_code: bool = False,
    base_model: nn.Module | None = None,
) -> TransferTrainer:
    """
    Save the model or adapter of a run, with its processor, into `args.output_dir`.

    Args:
        folder (`str` or path): of the run.
        data (`TransferData`): what it was trained for.
        args (`LoopArguments`): of the recipe; nothing is trained with them any more.
        trust_remote_code (`bool`, *optional*, defaults to `False`): whether to run code from the model's repository.
        base_model (`nn.Module`, *optional*): what an adapter is put on, where it was trained on a model in memory.

    Returns:
        `TransferTrainer`: with the model and the facts of its run, on the device of `args`. It trains nothing; what is
        to be pushed is pushed by [`push_result`], when all reports are written.
    """
    args.without_validation()  # the Trainer saves, but trains nothing
    model, processor = load_kept(folder, data, args.device, trust_remote_code=trust_remote_code, base_model=base_model)
    trainer = TransferTrainer(model, args, processing_class=processor)
    trainer.facts = replace(load_facts(folder) or RunFacts(), model_name=None, repo_id=None)
    trainer.save_model(_internal_call=True)  # without a push
    return trainer
