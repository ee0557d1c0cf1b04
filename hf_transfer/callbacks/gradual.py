"""`GradualUnfreezing`: thaw a model block group by block group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from hf_transfer.callbacks.phases import Phase
from hf_transfer.callbacks.selection import describe_parts
from hf_transfer.callbacks.unfreezing import UnfreezingSchedule


_COPY = ".modules_to_save."
"""In the names of what PEFT trains in full."""


class GradualUnfreezing(UnfreezingSchedule):
    r"""
    Gradual unfreezing (ULMFiT): train the head first, then thaw the blocks in equal groups, one group per stage.

    With $B$ blocks and $S$ stages, stage 1 trains the head and what lies between it and the last block; stage $s$ adds
    the blocks up to number $\operatorname{round}(B (s - 1) / (S - 1))$, counted from the top or from the bottom; the
    last stage trains everything. Embeddings thaw last from the top, and first from the bottom.

    Adapters of PEFT thaw with the part they are in, or with `first="adapters"` train from the start wherever they are.
    Only blocks that PEFT trains copies of are then counted: `add_adapter(model, "lora", train_blocks=2)` makes them.

    Args:
        stages (`int`, *optional*, defaults to 4):
            Number $S$ of stages, from 2 to one more than the number of blocks (where every block has its own stage).
        first (`str`, *optional*, defaults to `"head"`):
            What trains in the first stage and ever after: `"head"`, or `"adapters"` for head and all adapters.
        order (`str`, *optional*, defaults to `"top_down"`):
            `"top_down"` thaws the block next to the head first, as in the paper; `"bottom_up"` the one next to the
            input.
        fractions (`Sequence[float]`, *optional*):
            Fraction of training, in [0, 1), at which each stage begins; the first is 0. By default stages are equally
            long.
        every (`float`, *optional*):
            Epochs between the beginnings of two stages, in place of `fractions`; 1 in the paper.
        lr_decay (`float`, *optional*, defaults to 1.0):
            Factor (dimensionless) on all learning rates with each stage. fastai halves them: 0.5.
        norm_only, head, blocks:
            As for [`UnfreezingSchedule`].

    Raises:
        ValueError: at construction if the options contradict each other; when the Trainer is built if there are more
            stages than blocks to thaw; and as [`UnfreezingSchedule`] does.

    Relations:
        [`UnfreezingSchedule`] takes any phases; `python -m hf_transfer schedule MODEL` writes these ones down to edit.

    Example:
        >>> parts = {"block.0": ["a"], "block.1": ["b"], "block.2": ["c"], "head": ["h"]}
        >>> for phase in GradualUnfreezing(stages=3).plan(parts):
        ...     print(phase)
        start: head
        fraction 0.333333: head, block.1-2
        fraction 0.666667: head, block.0-2

    Paper: Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification", ACL 2018, https://huggingface.co/papers/1801.06146
    """

    def __init__(
        self,
        stages: int = 4,
        *,
        first: Literal["head", "adapters"] = "head",
        order: Literal["top_down", "bottom_up"] = "top_down",
        fractions: Sequence[float] | None = None,
        every: float | None = None,
        lr_decay: float = 1.0,
        norm_only: bool = False,
        head: str | None = None,
        blocks: str | Sequence[str] | None = None,
    ):
        if order not in ("top_down", "bottom_up"):
            raise ValueError(
                f"order={order!r} is unknown - it says which blocks thaw first - use 'top_down' (those next to the "
                "head) or 'bottom_up' (those next to the input)."
            )
        if first not in ("head", "adapters"):
            raise ValueError(
                f"first={first!r} is unknown - it says what trains before any block thaws - use 'head', or 'adapters' "
                "for the head and all adapters of PEFT."
            )
        if stages < 2:
            raise ValueError(
                f"stages={stages} thaws nothing - the first stage trains only the head - use stages >= 2, or "
                "`FreezeBackbone()` to train the head alone."
            )
        if fractions is not None and (every is not None or len(fractions) != stages):
            raise ValueError(
                f"fractions={list(fractions)} with every={every} and stages={stages} - each stage needs exactly one "
                f"entry point - give {stages} fractions and no `every`."
            )
        if fractions is not None:
            entries = [{"fraction": fraction} for fraction in fractions]
        elif every is not None:
            entries = [{"epoch": stage * every} for stage in range(stages)]
        else:
            entries = [{"fraction": stage / stages} for stage in range(stages)]
        decay = {} if lr_decay == 1.0 else {"lr_scale": lr_decay}
        self.stages = stages
        self.first = first
        self.order = order
        # What trains depends on the model; the entry points can be checked before there is one.
        super().__init__(
            [
                {"train": "all", **entry, **{key: factor**stage for key, factor in decay.items()}}
                for stage, entry in enumerate(entries)
            ],
            norm_only=norm_only,
            head=head,
            blocks=blocks,
        )

    def plan(self, parts: Mapping[str, Sequence[str]]) -> tuple[Phase, ...]:
        """The phases for a model with these parts."""
        if not parts:
            raise ValueError(
                "GradualUnfreezing was asked for its phases without a model - what thaws when depends on the model's "
                "number of blocks - pass it: to_yaml(model)."
            )
        blocks = [part for part in parts if part.startswith("block.")]
        if self.first == "adapters":
            blocks = [part for part in blocks if any(_COPY in name for name in parts[part])]
            if not blocks:
                raise ValueError(
                    'first="adapters" leaves nothing to thaw later - no block of the model has more to train than its '
                    'adapters - add_adapter(model, "lora", train_blocks=2) makes copies of the two top blocks; to '
                    "train adapters alone, leave the schedule out."
                )
        count = len(blocks)
        steps = self.stages - 1
        if steps > count:
            seen = describe_parts(parts) if self.first == "head" else f"only {describe_parts(blocks)} to thaw"
            raise ValueError(
                f"stages={self.stages} needs {steps} groups of blocks, but the model has {seen} - a stage that thaws "
                f"nothing is a mistake - use stages <= {count + 1}."
            )
        phases = []
        for stage, phase in enumerate(self.phases):
            thawed = round(count * stage / steps)
            train = [part for part in ("head", "neck") if parts.get(part)]
            train += ["adapters"] if self.first == "adapters" else []
            if thawed:
                group = blocks[count - thawed :] if self.order == "top_down" else blocks[:thawed]
                first, last = group[0].removeprefix("block."), group[-1].removeprefix("block.")
                train.append(f"block.{first}" if first == last else f"block.{first}-{last}")
            if parts.get("embeddings") and (stage == steps if self.order == "top_down" else stage > 0):
                train.append("embeddings")
            phases.append(replace(phase, train=train))
        return tuple(phases)

    def __str__(self) -> str:
        first = "" if self.first == "head" else f", first={self.first!r}"
        return f"GradualUnfreezing(stages={self.stages}, order={self.order!r}{first})"
