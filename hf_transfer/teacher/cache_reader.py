"""Forwards of a teacher, made as a training step makes them, cut into what is stored of each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hf_transfer.batch import TransferBatch
from hf_transfer.source import to_device
from hf_transfer.teacher.cached_columns import CLASSES, FEATURES, HIDDEN, LOG_REST, LOGITS, TOP_INDICES, TOP_VALUES
from hf_transfer.teacher.teacher import Teacher
from hf_transfer.teacher.top_k import keep_top_k


__all__ = ["TeacherReader"]


class TeacherReader:
    """
    Reads what is stored of a batch: by the same call of the model that an objective makes, so that the numbers are.

    Args:
        teacher (`Teacher`):
            Of one model or several.
        own_inputs (`bool`):
            Whether the inputs were made for the teacher, and not for a student of it.
        device (`torch.device`):
            Where it runs.
        k (`int`, *optional*):
            Keep the largest logits only.
        features (`bool`):
            Whether to read the input of its head.
        hidden_states (`Sequence[str]`):
            Names of its modules whose outputs to read.
    """

    def __init__(
        self,
        teacher: Teacher,
        device: torch.device,
        *,
        own_inputs: bool,
        k: int | None,
        features: bool,
        hidden_states: Sequence[str],
    ):
        self.teacher, self.source, self.device, self.k = teacher, teacher.members[0].source, device, k
        self.own_inputs = own_inputs
        self.features, self.hidden_states = features, list(hidden_states)

    @property
    def low_precision(self) -> bool:
        """Whether results are only good to the two or three digits of a 16 bit type."""
        types = {parameter.dtype for parameter in self.source.model.parameters()}
        return bool(types & {torch.float16, torch.bfloat16})

    def read(self, inputs: Mapping[str, Any], mask: Tensor | None = None) -> dict[str, Tensor | list[Tensor]]:
        """
        What is stored, by column.

        Args:
            inputs (`Mapping`): what the model is called with.
            mask (`Tensor`, *optional*): `(B, T)`, not zero at real tokens.

        Shape:
            - returns tensors whose first dimension is that of the batch, or where there is something for each token a
              list of `B` tensors without padding; float32 but for indices, on the CPU.

        Raises:
            RuntimeError: if the forward does not pass through a module.
            ValueError: if a module does not return one thing a row.
        """
        given = to_device(inputs, self.device)
        predicts = not self.source.found[1]
        output = self._asked(given, logits=predicts)
        found: dict[str, Tensor] = {}
        if predicts:
            logits = output.logits.cpu()
            found = {LOGITS: logits} if self.k is None else self._largest(logits)
        if self.features:
            found[FEATURES] = output.features.cpu()
        per_token = (output.logits if predicts else output.features).dim() == 3
        tokens = set(found) - {CLASSES} if per_token else set()
        for name in self.hidden_states:
            states = self._states(name, output.hidden_states, len(next(iter(found.values()), output.features)))
            found[f"{HIDDEN}{name}"] = states
            if mask is not None and states.dim() == 3 and states.shape[1] == mask.shape[1]:
                tokens.add(f"{HIDDEN}{name}")
        real = None if mask is None else mask.cpu() != 0
        return {name: self._without_padding(value, real) if name in tokens else value for name, value in found.items()}

    def _asked(self, inputs: dict[str, Any], *, logits: bool) -> Any:
        if len(self.teacher.members) == 1 and self.own_inputs:
            with torch.autocast(self.device.type, enabled=False):
                return self.source(inputs, hidden_states=self.hidden_states, logits=logits)
        rows = len(next(value for value in inputs.values() if isinstance(value, Tensor)))
        batch = TransferBatch(features=torch.zeros(rows, 1, device=self.device), inputs=inputs)
        if len(self.teacher.members) > 1:
            return self.teacher._run(batch)
        # as a student's batch is translated for it
        given = self.teacher._inputs(batch)
        with torch.autocast(self.device.type, enabled=False):
            return self.source(given, hidden_states=self.hidden_states, logits=logits)

    def _largest(self, logits: Tensor) -> dict[str, Tensor]:
        assert self.k is not None
        values, indices, log_rest = keep_top_k(logits, self.k)
        classes = torch.full((len(logits),), logits.shape[-1], dtype=torch.int32)
        return {TOP_VALUES: values, TOP_INDICES: indices.int(), LOG_REST: log_rest, CLASSES: classes}

    def _states(self, name: str, outputs: Mapping[str, Tensor], rows: int) -> Tensor:
        if name not in outputs:
            raise RuntimeError(
                f"The forward of the teacher did not pass through `{name}`: it has no output for these inputs, as a "
                "tower for other inputs has none. Name another module."
            )
        if len(outputs[name]) != rows:
            raise ValueError(
                f"`{name}` returns a tensor of shape {tuple(outputs[name].shape)} for {rows} rows: what belongs to "
                "which row is unknown, and only rows can be stored. Name a module whose first dimension is that of "
                "the batch, or leave `hidden_states` out and run the teacher in training."
            )
        return outputs[name].float().cpu()

    @staticmethod
    def _without_padding(value: Tensor, real: Tensor | None) -> list[Tensor]:
        if real is None:
            return list(value.unbind())
        return [row[kept] for row, kept in zip(value, real, strict=True)]
