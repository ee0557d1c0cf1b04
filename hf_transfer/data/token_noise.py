"""Random changes of tokenised text: masking, deletion and swaps, with special tokens and padding left alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase


__all__ = ["TokenNoise"]


class TokenNoise:
    """
    Noise for a padded batch of text; random numbers come from torch's global generator. Picklable.

    Each token that is neither special nor padding is, in this order, replaced by the mask token, or swapped with the
    token behind it, or deleted, so that the rest moves together and the row is padded more. Each row keeps at least
    one such token.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            The model's own: tells special tokens, the mask token (the unknown token where there is none) and padding.
        mask (`float`, *optional*):
            Share of tokens masked, in [0, 1); 0.15, or 0 where the tokenizer has neither token.
        swap (`float`, *optional*, defaults to 0.1):
            Share of tokens swapped with the next, in [0, 1).
        delete (`float`, *optional*, defaults to 0.1):
            Share of tokens deleted, in [0, 1).

    Raises:
        ValueError: if a share is out of range, or there is a share to mask and nothing to mask with; when called
            without `input_ids`.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, mask: float | None = None, swap: float = 0.1, delete: float = 0.1
    ):
        named: Any = tokenizer  # the stubs allow lists of tokens where there is one
        self.mask_id = _replacement(named)
        self.mask = (0.15 if self.mask_id is not None else 0.0) if mask is None else mask
        self.swap, self.delete = swap, delete
        for name in ("mask", "swap", "delete"):
            share = getattr(self, name)
            if not 0 <= share < 1:
                raise ValueError(
                    f"`{name}={share}` is outside [0, 1): it is a share of the tokens of a text, of which some must "
                    "be left. Give a number such as 0.1."
                )
        if self.mask and self.mask_id is None:
            raise ValueError(
                f"`mask={self.mask}` with {type(tokenizer).__name__}, which has no mask token and no unknown token of "
                "its own: there is nothing to put in the place of a token. Give `mask=0.0`; swaps and deletions "
                "remain."
            )
        self.pad_id: int = 0 if named.pad_token_id is None else named.pad_token_id
        self.pads_left = tokenizer.padding_side == "left"
        self.type_of_padding: int = named.pad_token_type_id
        # An unknown word is a word of the text, unless its token has another meaning too.
        special = {*named.all_special_ids, self.pad_id} - ({named.unk_token_id} - _ends(named))
        self.special = torch.tensor(sorted(special))

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs `(B, T)` of a model with noise, of the same shapes; the given ones stay as they are."""
        if "input_ids" not in inputs:
            raise ValueError(
                f"TokenNoise got {', '.join(sorted(inputs))}: there are no `input_ids`, whose tokens it changes. Give "
                "tokenised text, or another augmentation in `strong`."
            )
        changed = dict(inputs)
        ids = inputs["input_ids"]
        mask = inputs.get("attention_mask")
        real = mask.bool() if mask is not None else ids != self.pad_id
        free = real & ~torch.isin(ids, self.special.to(ids.device))
        if self.mask_id is not None and self.mask:
            changed["input_ids"] = ids.masked_fill(free & (torch.rand(ids.shape) < self.mask), self.mask_id)
        if self.swap:
            changed["input_ids"] = changed["input_ids"].gather(1, _neighbours(free, self.swap))
        if self.delete:
            self._delete(changed, _chosen(free, self.delete), real)
        return changed

    def _delete(self, inputs: dict[str, Tensor], deleted: Tensor, real: Tensor) -> None:
        """Take tokens out, and close up to the side that is not padded."""
        gone = deleted | ~real
        order = torch.argsort((~gone if self.pads_left else gone).long(), dim=1, stable=True)
        # Only where tokens were deleted: padding keeps the values it has.
        empty = deleted.gather(1, order)
        fill = {"input_ids": self.pad_id, "attention_mask": 0, "token_type_ids": self.type_of_padding}
        for name, value in fill.items():
            if name in inputs:
                inputs[name] = inputs[name].gather(1, order).masked_fill(empty, value)


def _replacement(tokenizer: Any) -> int | None:
    """What stands for a masked token: nothing that ends a text or pads it, as the unknown token of GPT-2 does."""
    candidates = (tokenizer.mask_token_id, tokenizer.unk_token_id)
    return next((token for token in candidates if isinstance(token, int) and token not in _ends(tokenizer)), None)


def _ends(t: Any) -> set[int | None]:
    return {t.pad_token_id, t.eos_token_id, t.bos_token_id, t.sep_token_id, t.cls_token_id}


def _chosen(free: Tensor, share: float) -> Tensor:
    """`share` of the free tokens by chance, in each row at least one not."""
    draws = torch.where(free, torch.rand(free.shape, device=free.device), -1.0)
    kept = draws == draws.max(1, keepdim=True).values
    return free & (draws < share) & ~kept


def _neighbours(free: Tensor, share: float) -> Tensor:
    """Where each token comes from if `share` of the free ones change places with a free neighbour."""
    positions = torch.arange(free.shape[1], device=free.device).expand(free.shape)
    # Pairs that begin at even places, or in other rows at odd ones, cannot overlap.
    parity = torch.randint(0, 2, (len(free), 1), device=free.device)
    begins = torch.zeros_like(free)
    # Only half of the places can begin a pair, and a pair is two tokens: this gives `share` of all.
    begins[:, :-1] = free[:, :-1] & free[:, 1:] & (torch.rand(free.shape, device=free.device)[:, :-1] < share)
    begins &= positions % 2 == parity
    ends = torch.zeros_like(free)
    ends[:, 1:] = begins[:, :-1]
    return positions + begins.long() - ends.long()
