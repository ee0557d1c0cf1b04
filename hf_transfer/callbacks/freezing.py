"""`FreezeBackbone`: train the head alone."""

from __future__ import annotations

from collections.abc import Sequence

from hf_transfer.callbacks.unfreezing import UnfreezingSchedule


class FreezeBackbone(UnfreezingSchedule):
    """
    Feature extraction: train the head and keep everything else frozen for the whole run, in any `Trainer`.

    Args:
        train (`str` or `Sequence[str]`, *optional*):
            Parts or patterns that train: `("head",)` by default, everything if only `freeze` is given. Add `"neck"`
            where the layers between the last block and the head are newly initialised, as in RoBERTa.
        freeze (`str` or `Sequence[str]`, *optional*):
            Parts or patterns that stay frozen.
        norm_only, head, blocks:
            As for [`UnfreezingSchedule`].

    Raises:
        ValueError: as [`UnfreezingSchedule`] does.

    Relations:
        [`GradualUnfreezing`] thaws the backbone after a while, which usually ends higher.

    Example:
        >>> print(FreezeBackbone())
        FreezeBackbone
          1. start: head
        >>> print(FreezeBackbone(freeze=["embeddings", "block.0-5"]))
        FreezeBackbone
          1. start: all without embeddings, block.0-5
    """

    def __init__(
        self,
        *,
        train: str | Sequence[str] | None = None,
        freeze: str | Sequence[str] | None = None,
        norm_only: bool = False,
        head: str | None = None,
        blocks: str | Sequence[str] | None = None,
    ):
        if train is None:
            train = "head" if freeze is None else "all"
        phase = {"train": train, "freeze": freeze or ()}
        super().__init__([phase], norm_only=norm_only, head=head, blocks=blocks)
