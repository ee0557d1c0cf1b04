"""`transfer_parameters`: start a model from the weights of another one that differs in its head or some layers."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any

from torch import nn
from transformers.utils import logging

from hf_transfer.weights.naming import Candidate, candidates, match
from hf_transfer.weights.plan import ABSENT, Plan, find_parts
from hf_transfer.weights.report import TransferEntry, TransferReport
from hf_transfer.weights.resizing import RESIZABLE
from hf_transfer.weights.slots import Slot, base_of, refuse_wrapped, slots
from hf_transfer.weights.source import Checkpoint, open_source


logger = logging.get_logger(__name__)

__all__ = ["transfer_parameters"]


def transfer_parameters(
    model: nn.Module,
    checkpoint: Checkpoint,
    *,
    blocks: int | None = None,
    head: bool | None = None,
    resize: Collection[str] = ("positions",),
    revision: str = "main",
) -> TransferReport:
    """
    Copy into a model whatever fits of the weights of a checkpoint, and say exactly what did and why the rest did not.

    Tensors are matched by name: as `transformers` renames the keys of checkpoints, and with or without the prefix of
    the base model (`encoder.layer.0` and `bert.encoder.layer.0`). Equal shapes are copied, with buffers such as the
    statistics of BatchNorm; values are converted to the model's own type. Nothing is changed if anything is raised.

    Args:
        model (`nn.Module`):
            Takes the weights. Under PEFT they go into the base layers and the copies of `modules_to_save`, as if the
            transfer had come before the adapters.
        checkpoint (`str`, path, `Mapping[str, Tensor]` or `nn.Module`):
            A folder with safetensors, also sharded; a `.safetensors` file; a Hub id; a state dict; or a model.
        blocks (`int`, *optional*):
            Copy the embeddings and this many blocks from the bottom, as [`anatomy`] counts them, and nothing else. By
            default everything.
        head (`bool`, *optional*):
            Whether to copy the layer that returns the logits. By default where both models name their classes alike.
        resize (`Collection[str]`, *optional*, defaults to `("positions",)`):
            Which tables may come from another size. `"positions"`: those of image patches by bicubic interpolation,
            those of text row by row from position 0. `"vocabulary"`: input embeddings row by row, right only where one
            vocabulary is the beginning of the other. Rows the checkpoint lacks stay as they are.
        revision (`str`, *optional*, defaults to `"main"`):
            Branch, tag or commit on the Hub.

    Returns:
        `TransferReport`: `copied`, `resized`, `skipped` and `unused` tensors with reasons, and `coverage`. A bias
        whose weight has another shape is skipped with it.

    Raises:
        ValueError: if nothing would be copied; if the model or the checkpoint has fewer blocks than asked for; if the
            weights are pickled, are adapters, or the adapters of the model were built on its present weights.
        FileNotFoundError: if there is no such checkpoint.
        TypeError: if the model is wrapped by DDP or compiled, or the checkpoint is of no known kind.

    Relations:
        `from_pretrained(..., ignore_mismatched_sizes=True)` suits a checkpoint of the model's own class and size. Use
        this for one of another class, width or depth, or for a part of it. [`reinitialize_blocks`] is the opposite.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification, BertModel
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=2, num_attention_heads=2)
        >>> report = transfer_parameters(BertForSequenceClassification(config), BertModel(config), blocks=1)
        >>> sorted({entry.part for entry in report.copied})
        ['block.0', 'embeddings']

    Paper: Yosinski et al., "How transferable are features in deep neural networks?", NeurIPS 2014, https://huggingface.co/papers/1411.1792
    """
    _check_options(blocks, resize)
    refuse_wrapped(model, doing="a transfer of parameters")
    base = base_of(model)
    places = slots(model)
    parts = find_parts(base, places, blocks)
    source = open_source(checkpoint, revision=revision)
    found, prefix = candidates(source, base, places)
    alias_of = {alias: name for name, slot in places.items() for alias in slot.aliases}
    chosen: dict[str, Candidate] = {}
    for alias, candidate in match(found, prefix, base, alias_of).items():
        if alias == alias_of[alias] or alias_of[alias] not in chosen:
            chosen[alias_of[alias]] = candidate
    plan = Plan(base, source, parts, blocks, head, resize)
    plan.fill(places, chosen)
    _check_plan(plan, found, places, blocks)
    _refuse_built_adapters(model, plan)
    values = plan.values()  # everything is read and computed before anything is written
    for name, value in values.items():
        places[name].write(value)
    report = plan.report
    report.unused += _unused(source.shapes, found, chosen, alias_of)
    logger.info(str(report))
    if report.coverage < 0.1 and blocks is None:
        logger.warning(f"only {100 * report.coverage:.1f}% of the model come from {report.checkpoint}; see the report")
    return report


def _check_options(blocks: int | None, resize: Collection[str]) -> None:
    unknown = {resize} if isinstance(resize, str) else set(resize) - set(RESIZABLE)
    if unknown:
        raise ValueError(
            f"resize={resize!r} names no table that has a meaning in another size: everything else of another shape "
            'is skipped. Give a tuple of "positions" and "vocabulary", or an empty one.'
        )
    if blocks is not None and blocks < 0:
        raise ValueError(
            f"blocks={blocks} is negative: blocks are counted from the bottom. Give 0 for the embeddings alone, a "
            "positive number, or None for everything."
        )


def _check_plan(plan: Plan, found: list[Candidate], places: dict[str, Slot], blocks: int | None) -> None:
    report = plan.report
    if plan.targets():
        asked = [entry for entry in report.skipped if entry.reason == ABSENT]
        if blocks is not None:
            lacking = {entry.part for entry in asked} - {e.part for e in (*report.copied, *report.resized)}
            lacking -= {entry.part for entry in report.skipped if entry.source}
            if lacking:
                raise ValueError(
                    f"blocks={blocks}, but {report.checkpoint} has nothing for {', '.join(sorted(lacking))}: "
                    "they would stay as they are between copied ones. Ask for fewer blocks, or pass blocks=None."
                )
        return
    fits = [entry for entry in report.skipped if entry.source]
    if fits:
        raise ValueError(
            f"Nothing of {report.checkpoint} can be copied: its {len(fits)} tensors with a name of the model are left "
            f"out, {fits[0].name} for this reason: {fits[0].reason}. The model would stay as it is. Build it with the "
            "sizes of the checkpoint, or pass another checkpoint."
        )
    pairs = []
    for candidate in found[:: max(len(found) // 3, 1)][:3]:
        near = difflib.get_close_matches(candidate.name, list(places), n=1, cutoff=0.0)
        pairs.append(f"{candidate.sources[0]} (nearest here: {near[0]})" if near else candidate.sources[0])
    raise ValueError(
        f"No tensor of {report.checkpoint} has a name of the model: {', '.join(pairs)}. The model would stay as it "
        "is. Pass a checkpoint of the same family, or a state dict with the names of the model."
    )


def _refuse_built_adapters(model: nn.Module, plan: Plan) -> None:
    """Adapters that were computed from the weights they sit on, or trained on them, do not fit other weights."""
    targets = {id(tensor) for slot in plan.targets() for tensor in slot.tensors}
    for name, module in model.named_modules():
        layer: Any = getattr(module, "base_layer", None)
        if not isinstance(layer, nn.Module) or not any(id(tensor) in targets for tensor in layer.parameters()):
            continue
        products = [
            (getattr(module, down, {}), getattr(module, up, {}))
            for down, up in (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B"))
        ]
        moved = any(
            _any(down[adapter]) and _any(up[adapter]) for down, up in products for adapter in down if adapter in up
        )
        if moved or getattr(module, "merged", False) or len(getattr(module, "lora_magnitude_vector", ())):
            raise ValueError(
                f"The adapters of `{name}` were trained on, merged into or computed from its present weights: on "
                "other weights they mean something else. Call `transfer_parameters` before `get_peft_model`."
            )


def _any(factor: nn.Module | nn.Parameter) -> bool:
    weight: Any = factor.weight if isinstance(factor, nn.Module) else factor
    return bool(weight.any())


def _unused(
    shapes: dict[str, tuple[int, ...]],
    found: list[Candidate],
    chosen: dict[str, Candidate],
    alias_of: dict[str, str],
) -> list[TransferEntry]:
    used = {key for candidate in chosen.values() for key in candidate.sources}
    names = {key: alias_of.get(candidate.name) for candidate in found for key in candidate.sources}
    reasons = {
        key: f"the model keeps it as {name}, which takes another tensor" if name else "no such tensor in the model"
        for key, name in names.items()
        if key not in used
    }
    return [TransferEntry("", key, shapes[key], reason) for key, reason in reasons.items()]
