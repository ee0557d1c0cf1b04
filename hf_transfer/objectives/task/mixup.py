"""Mixup and CutMix."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.mixing import blend, paste, random_partners, random_share
from hf_transfer.functional.task_loss import UNLABELLED, TaskRows
from hf_transfer.functional.task_terms import mixed_targets
from hf_transfer.objective import TaskTerm


__all__ = ["CutMix", "Mixup"]


class _Mixing(TaskTerm):
    # Own tensor code in place of kornia's RandomMixUpV2 and RandomCutMixV2: the first draws its share uniformly, not
    # from a Beta distribution; both take one class number a row, and mix any row with any other, so that labelled
    # rows would be mixed with unlabelled ones.

    # The partner of each row and the share it keeps travel as columns of the batch: nothing is remembered between the
    # two hooks, and an objective that doubles the rows doubles them too.
    columns = ("mixed_with", "mixed_share")

    def __init__(self, *, alpha: float):
        super().__init__()
        if alpha <= 0:
            raise ValueError(
                f"`alpha={alpha}` is no parameter of a Beta distribution, from which the shares of the two images are "
                "drawn. Give a positive number; to leave the images as they are, leave the objective out."
            )
        self.alpha = alpha

    def build(self, spec: ModelSpec) -> Self:
        """Check that the model reads images."""
        super().build(spec)
        main_input = getattr(spec.model, "main_input_name", "pixel_values")
        if main_input != "pixel_values":
            self._refuse(f"{type(spec.model).__name__} reads `{main_input}`")
        return self

    def _refuse(self, seen: str) -> None:
        name = type(self).__name__
        raise ValueError(
            f"{name} needs images: {seen}, which cannot be mixed as pixels can. Take {name} out; for text, "
            "`LabelSmoothing` and `RDrop` regularise to a similar end."
        )

    def transform(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The batch with its images mixed, and who was mixed with whom."""
        if "pixel_values" not in inputs:
            self._refuse(f"the batch has {', '.join(inputs)}")
        name = type(self).__name__
        if "mixed_with" in inputs:
            raise ValueError(
                f"{name} finds the images mixed already: mixed twice, their targets would no longer fit them. Take "
                "one of `Mixup` and `CutMix`."
            )
        if "dropout_pass" in inputs:
            raise ValueError(
                f"{name} after RDrop: the two copies of an image would be mixed with different ones, and their "
                f"predictions have no reason to agree. List {name} before `RDrop`."
            )
        images, labels = inputs["pixel_values"], inputs["labels"]
        labelled = (labels != UNLABELLED).flatten(1).any(1) if labels.dim() > 1 else labels != UNLABELLED
        groups = labelled.long()
        if inputs.get("domain") is not None:
            groups = groups + 2 * inputs["domain"].long()
        partners = random_partners(groups)
        with torch.no_grad():
            images, share = self._mixed(images, partners, random_share(self.alpha))
        share = share.to(images.device, torch.float32).expand(len(images))
        return {**inputs, "pixel_values": images, "mixed_with": partners, "mixed_share": share}

    @abstractmethod
    def _mixed(self, images: Tensor, partners: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """The images, and how much of each is its own."""

    def adjust(self, rows: TaskRows, batch: TransferBatch) -> TaskRows:
        """The rows with the targets of both images; as they are where the images are not mixed."""
        partners, share = (batch.columns.get(name) for name in self.columns)
        if partners is None or share is None:
            return rows
        # A row of the batch is one row of the loss, or one for each of its labels.
        each = len(rows.labels) // len(partners)
        position = torch.arange(len(rows.labels), device=rows.labels.device) % each
        other = partners[rows.example] * each + position
        # What a part counts is taken into its share: the loss is the same mean of the weighted losses of both.
        counts = rows.labelled if rows.sample_weight is None else rows.labelled * rows.sample_weight
        targets, counted = mixed_targets(
            rows.targets,
            rows.targets[other],
            counts,
            counts[other],
            share[rows.example].to(rows.targets.dtype),
        )
        own_or_other = torch.where(rows.labelled.unsqueeze(-1), rows.weights, rows.weights[other])
        return replace(
            rows,
            targets=targets,
            weights=own_or_other * counted.unsqueeze(-1),
            labelled=rows.labelled | rows.labelled[other],
            sample_weight=None,
        )


class Mixup(_Mixing):
    r"""
    Mixup: train on weighted means of two images, with the same mean of their labels.

    For a random permutation $\pi$ of the batch and $\lambda \sim \operatorname{Beta}(\alpha, \alpha)$

    $$ x'_i = \lambda x_i + (1 - \lambda) x_{\pi(i)}, \qquad q'_i = \lambda q_i + (1 - \lambda) q_{\pi(i)} $$

    Args:
        alpha (`float`, *optional*, defaults to 0.2):
            $\alpha$ (dimensionless), how often the shares are nearly equal; the paper takes 0.1 to 0.4 for ImageNet.

    Shape:
        - `pixel_values`: `(B, ...)`; one $\lambda$ for the batch.
        - `batch.logits`: `(B, C)`; `batch.labels`: `(B,)`, or `(B, C)` of 0 and 1 for several labels a row.
        - returns: scalar float32, in nats per labelled row.

    Degenerate batches:
        A single row is mixed with itself. Without a labelled row an exact zero that still depends on the logits.

    Deviations from the paper:
        Rows are mixed within their domain, where the batch has a column `domain`, and labelled with labelled ones;
        where only one of two labels of a pair is known, it counts with its share. Mixed in the forward, in training
        mode only: the data set, evaluation and predictions are untouched.

    Raises:
        ValueError: if `alpha` is not positive; at attach time, or at the first batch, if the model reads no
            `pixel_values`; at the first batch beside [`CutMix`], or behind [`RDrop`].

    Relations:
        [`CutMix`] pastes in place of blending and keeps pixels natural. Both want more epochs. The other objectives
        see the features of the mixed image with the label of its first part; list it before [`RDrop`].

    Example:
        >>> import torch
        >>> inputs = {"pixel_values": torch.randn(4, 3, 8, 8), "labels": torch.tensor([0, 1, 2, 2])}
        >>> sorted(set(Mixup().transform(inputs)) - set(inputs))
        ['mixed_share', 'mixed_with']

    Paper: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018, https://huggingface.co/papers/1710.09412
    """

    def __init__(self, *, alpha: float = 0.2):
        super().__init__(alpha=alpha)

    def _mixed(self, images: Tensor, partners: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        return blend(images, partners, share), share


class CutMix(_Mixing):
    r"""
    CutMix: paste a rectangle of one image into another, and mix the labels by area.

    For a random permutation $\pi$ of the batch and a random rectangle, 1 inside of the mask $M$ and 0 outside,

    $$ x'_i = (1 - M) \odot x_i + M \odot x_{\pi(i)}, \qquad q'_i = \lambda q_i + (1 - \lambda) q_{\pi(i)} $$

    where $\lambda$ is the share of the area outside. The sides are $\sqrt{1 - \lambda'}$ of the image's, with
    $\lambda' \sim \operatorname{Beta}(\alpha, \alpha)$; what lies beyond the border is cut off.

    Args:
        alpha (`float`, *optional*, defaults to 1.0):
            $\alpha$ (dimensionless); the paper's value, at which the shares are uniform.

    Shape:
        - `pixel_values`: `(B, ..., H, W)`; one rectangle for the batch.
        - `batch.logits`: `(B, C)`; `batch.labels`: `(B,)`, or `(B, C)` of 0 and 1 for several labels a row.
        - returns: scalar float32, in nats per labelled row.

    Degenerate batches:
        A single row is pasted into itself. Without a labelled row an exact zero that still depends on the logits.

    Deviations from the paper:
        Rows are mixed within their domain, where the batch has a column `domain`, and labelled with labelled ones;
        where only one of two labels of a pair is known, it counts with its share. Every batch is mixed, in the
        forward, in training mode only: the data set, evaluation and predictions are untouched.

    Raises:
        ValueError: if `alpha` is not positive; at attach time, or at the first batch, if the model reads no
            `pixel_values`; at the first batch if they are no images `(B, ..., H, W)`, beside [`Mixup`], or behind
            [`RDrop`].

    Relations:
        [`Mixup`] blends in place of pasting. A rectangle may hide what the label names: for small objects prefer
        [`Mixup`]. The other objectives see the features of the mixed image with the label of its first part.

    Example:
        >>> import torch
        >>> inputs = {"pixel_values": torch.randn(4, 3, 8, 8), "labels": torch.tensor([0, 1, 2, 2])}
        >>> CutMix().transform(inputs)["mixed_share"].shape
        torch.Size([4])

    Paper: Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers", ICCV 2019, https://huggingface.co/papers/1905.04899
    """

    def __init__(self, *, alpha: float = 1.0):
        super().__init__(alpha=alpha)

    def _mixed(self, images: Tensor, partners: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        if images.dim() < 4:
            raise ValueError(
                f"CutMix finds `pixel_values` of shape {tuple(images.shape)}: flattened patches have no height and "
                "width to cut a rectangle from. Take `Mixup`, which mixes values of any shape."
            )
        return paste(images, partners, share)
