"""`TeacherCollator`: pads what a teacher reads, or said of each token, beside the student's own collator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from hf_transfer.teacher.cached_columns import TOKENS, is_cached, is_per_token
from hf_transfer.teacher.tokens import PREFIX, load_processor


__all__ = ["TeacherCollator"]


class TeacherCollator:
    """
    Collates what belongs to the student as before, and the columns `teacher_*` beside it. Picklable.

    The teacher's own token ids ([`teacher_inputs`]) are padded by its tokenizer. What it said of each token
    ([`cache_teacher`]) is laid out where the student has that token, after a look whether it is the same.

    Args:
        collator (`Callable`):
            The student's, such as `DataCollatorWithPadding(tokenizer)`.
        tokenizer (tokenizer, `str` or path, *optional*):
            The teacher's, where it reads tokens of its own.

    Raises:
        ValueError: when called, if there are token ids of the teacher and no tokenizer, or only in some rows; if the
            student's tokens are not those that the teacher said something of.

    Example:
        >>> from transformers import default_data_collator
        >>> rows = [{"labels": 0, "teacher_logits": [1.0, 2.0]}, {"labels": 1, "teacher_logits": [3.0, 4.0]}]
        >>> TeacherCollator(default_data_collator)(rows)["teacher_logits"].tolist()
        [[1.0, 2.0], [3.0, 4.0]]
    """

    def __init__(self, collator: Callable[[list[Any]], Mapping[str, Any]], tokenizer: Any = None):
        self.collator = collator
        self.tokenizer = None if tokenizer is None else load_processor(tokenizer, "input_ids")

    def __call__(self, features: list[Any]) -> dict[str, Any]:
        """The batch of some rows."""
        own = [{name: value for name, value in row.items() if not name.startswith(PREFIX)} for row in features]
        batch = dict(self.collator(own))
        inputs = [{name: row[name] for name in row if _is_input(name)} for row in features]
        if any(inputs):
            batch.update(self._padded(inputs))
        said = [{name: row[name] for name in row if is_cached(name)} for row in features]
        if any(said):
            batch.update(_laid_out(said, batch))
        return batch

    def _padded(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        if any(row.keys() != rows[0].keys() for row in rows):
            raise ValueError(
                "Some rows of a batch hold tokens of the teacher and others do not: it cannot look at all of them. "
                "Call `teacher_inputs` on every data set before they are mixed."
            )
        texts = [{name.removeprefix(PREFIX): value for name, value in row.items()} for row in rows]
        if "input_ids" not in texts[0]:
            stacked = {name: torch.stack([torch.as_tensor(row[name]) for row in texts]) for name in texts[0]}
        elif self.tokenizer is None:
            raise ValueError(
                f"The rows hold {', '.join(sorted(rows[0]))}, and TeacherCollator was given no tokenizer: what they "
                "are padded with is unknown. Give the teacher's, `TeacherCollator(collator, tokenizer)`."
            )
        else:
            stacked = self.tokenizer.pad(texts, return_tensors="pt")
        return {f"{PREFIX}{name}": value for name, value in stacked.items()}


def _is_input(name: str) -> bool:
    return name.startswith(PREFIX) and not is_cached(name)


def _laid_out(rows: list[dict[str, Any]], batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """What was said of each row as one tensor, and what of each token at the place that the token has."""
    names = {name for row in rows for name in row}
    for name in sorted(names):
        missing = sum(row.get(name) is None for row in rows)
        if missing:
            raise ValueError(
                f"{missing} of {len(rows)} rows of a batch have no `{name}`: the teacher was cached for a part of the "
                "data only, and what it would say of the others is not known. Cache it on the whole data set, after "
                "`concatenate_datasets` or `mix_domains`."
            )
    own = PREFIX if f"{PREFIX}input_ids" in batch else ""
    ids, mask = batch.get(f"{own}input_ids"), batch.get(f"{own}attention_mask")
    if mask is None and isinstance(ids, Tensor):
        mask = torch.ones_like(ids)
    if TOKENS in names and isinstance(ids, Tensor) and isinstance(mask, Tensor):
        _check_tokens(rows, ids, mask)
    found: dict[str, Tensor] = {}
    for name in sorted(names - {TOKENS}):
        values = [_tensor(row[name]) for row in rows]
        per_token = TOKENS in names and is_per_token(name, values)
        found[name] = _scattered(name, values, mask) if per_token else torch.stack(values)
    return found


def _tensor(value: Any) -> Tensor:
    tensor = torch.as_tensor(value)
    return tensor.float() if tensor.is_floating_point() else tensor.long()


def _check_tokens(rows: list[dict[str, Any]], ids: Tensor, mask: Tensor) -> None:
    from hf_transfer.teacher.cache_rows import token_checksum

    for place, (row, own, real) in enumerate(zip(rows, ids, mask, strict=True)):
        if token_checksum(own.numpy(), real.numpy()) != int(row[TOKENS]):
            raise ValueError(
                f"The tokens of row {place} of a batch are not those that the teacher read: what it says of one token "
                "would be learnt for another. It was cached with another tokenizer or maximal length; tokenise "
                "first, and cache the teacher on the tokenised data set that the student is trained on."
            )


def _scattered(name: str, values: list[Tensor], mask: Tensor | None) -> Tensor:
    """Values of the tokens of each row, `(B, T, ...)`; padding gets zeros."""
    real = None if mask is None else mask != 0
    lengths = [len(value) for value in values]
    if real is None or real.sum(1).tolist() != lengths:
        tokens = "no `attention_mask`" if real is None else f"{real.sum(1).tolist()} tokens"
        raise ValueError(
            f"Column `{name}` holds {lengths} tokens a row and the batch {tokens}: which is which is unknown. Cache "
            "the teacher on the tokenised data set that the student is trained on, and give TeacherCollator a "
            "collator that pads and returns `attention_mask`."
        )
    whole = values[0].new_zeros(*real.shape, *values[0].shape[1:])
    whole[real] = torch.cat(values)
    return whole
