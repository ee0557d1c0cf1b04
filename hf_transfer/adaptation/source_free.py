"""Source-free adaptation (SHOT)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_transfer.adaptation.state import (
    class_shares,
    counted_rows,
    logits_of,
    own_parameters,
    refuse_without_classes,
    restored,
    warn_of_collapse,
)
from hf_transfer.adaptation.target_data import Collator, TargetData
from hf_transfer.anatomy import anatomy
from hf_transfer.functional.entropy import diversity, information_maximization, mean_entropy
from hf_transfer.functional.pseudo_labels import centroid_pseudo_labels
from hf_transfer.tap import HeadTap


__all__ = ["SourceFreeReport", "adapt_source_free"]


@dataclass(frozen=True)
class SourceFreeReport:
    """
    What [`adapt_source_free`] did. The sequences have an entry for the start of each epoch, those of entropy and
    diversity one more for the end.

    Args:
        rows (`int`): rows of the target, or tokens.
        steps (`int`): optimizer steps.
        entropy (`tuple[float, ...]`): mean entropy of the predictions, in nats: how undecided they are.
        diversity (`tuple[float, ...]`): entropy of the mean prediction, in nats; near 0 for a collapsed model.
        relabelled (`tuple[float, ...]`): share of rows whose pseudo-label is not what the model predicts.
        shares_before (`tuple[float, ...]`): how often each class was predicted before.
        shares_after (`tuple[float, ...]`): and after.
        collapsed (`bool`): whether nearly all rows are now given one class.
    """

    rows: int
    steps: int
    entropy: tuple[float, ...]
    diversity: tuple[float, ...]
    relabelled: tuple[float, ...]
    shares_before: tuple[float, ...]
    shares_after: tuple[float, ...]
    collapsed: bool


def adapt_source_free(
    model: nn.Module,
    data: Any,
    *,
    collator: Collator | None = None,
    batch_size: int = 32,
    epochs: int = 5,
    learning_rate: float = 5e-5,
    pseudo_label_weight: float = 0.3,
    diversity_weight: float = 1.0,
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None = None,
    seed: int = 0,
    head: str | None = None,
) -> SourceFreeReport:
    r"""
    Source-free adaptation (SHOT): fit a trained model to unlabelled target rows, with its head as it is and no source.

    The head stays frozen and holds what the source knew of the classes; the rest learns features that it classifies
    with certainty and variety. At the start of each epoch every row gets the pseudo-label $\hat y_i$ of the nearest
    class centroid (`centroid_pseudo_labels`). With predictions $p_i$ of a batch and their mean $\bar p$

    $$ L = \frac{1}{B} \sum_i H(p_i) - \gamma H(\bar p) - \frac{\beta}{B} \sum_i \log p_{i \hat y_i} $$

    Args:
        model (`nn.Module`):
            A classifier trained on the source; changed in place. Full, or a PEFT model whose adapters train
            (`PeftModel.from_pretrained(..., is_trainable=True)`): trained is what `requires_grad`, but for the head.
        data (`datasets.Dataset`, `torch.utils.data.Dataset`, `DataLoader` or iterable of batches):
            Rows or collated batches of the target. Labels in them are taken out before the collator sees them.
        collator (`Callable`, *optional*):
            Makes a batch of rows; by default `default_data_collator`, or that of a loader.
        batch_size (`int`, *optional*, defaults to 32):
            Rows of a batch. The diversity is that of a batch: take at least a few times the number of classes.
        epochs (`int`, *optional*, defaults to 5):
            Passes over the target; 15 in the paper, which says that fewer would do.
        learning_rate (`float`, *optional*, defaults to 5e-5):
            Of AdamW. With progress $p$ every rate is multiplied by $(1 + 10 p)^{-0.75}$, as in the paper.
        pseudo_label_weight (`float`, *optional*, defaults to 0.3):
            $\beta$ (dimensionless); the paper's value, 0.1 for digits.
        diversity_weight (`float`, *optional*, defaults to 1.0):
            $\gamma$ (dimensionless); 0 where the target is known to hold few of the classes.
        optimizer (`Callable`, *optional*):
            Makes another optimizer of a list of parameters.
        seed (`int`, *optional*, defaults to 0):
            Of shuffling and dropout. The global random state is left as it was.
        head (`str`, *optional*):
            Name of the head, where it cannot be told from the model.

    Returns:
        `SourceFreeReport`: what happened, among it whether the model collapsed, of which there is a warning too.

    Shape:
        - `(B, C)` logits; `(B, T, C)` of a token classifier, where each token counts that `attention_mask` counts.

    Degenerate batches:
        A batch of a single row is not trained on: its diversity cancels its entropy.

    Deviations from the paper:
        The features are the input of the model's own linear head, without the paper's bottleneck with BatchNorm and
        its weight-normalised head; train the source with [`LabelSmoothing`], as there. AdamW instead of SGD, one rate.

    Raises:
        TypeError: if the data can be read only once.
        ValueError: if the model has no softmax over classes, nothing but its head trains, or there are no data; if an
            option is out of range.

    Relations:
        Running statistics of BatchNorm move with the training. [`adapt_batch_norm`] alone is safer and often most of
        the gain. [`adapt_at_test_time`] adapts while predicting, without passes ahead. With source data at hand
        [`InformationMaximization`] and [`PseudoLabels`] do the same in a trainer. Wrong where the class proportions of
        the target are very uneven: the diversity pulls towards equal ones.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> model = BertForSequenceClassification(config)
        >>> report = adapt_source_free(model, [{"input_ids": torch.arange(8).reshape(4, 2)}], epochs=1)
        >>> report.rows, report.steps
        (4, 1)

    Paper: Liang et al., "Do We Really Need to Access the Source Data?", ICML 2020, https://huggingface.co/papers/2002.08546
    """
    refuse_without_classes(model, "adapt_source_free")
    if epochs < 1 or pseudo_label_weight < 0 or diversity_weight < 0:
        raise ValueError(
            f"`epochs={epochs}`, `pseudo_label_weight={pseudo_label_weight}`, `diversity_weight={diversity_weight}`: "
            "nothing would be learned, or the opposite. Give at least one epoch, and weights of zero or more."
        )
    target = TargetData(model, data, collator=collator, batch_size=batch_size)
    layout = anatomy(model, head=head)
    frozen = set(layout.parts()["head"])
    trained = [p for name, p in own_parameters(model).items() if p.requires_grad and name not in frozen]
    if not trained:
        raise ValueError(
            f"Nothing of {type(model).__name__} trains but its head, which stays as it is: there is nothing to adapt. "
            "Set `requires_grad` of the backbone, or load adapters with `is_trainable=True`."
        )
    tap = HeadTap(model, layout.head)
    step_of = optimizer(trained) if optimizer else torch.optim.AdamW(trained, lr=learning_rate)
    rates = [group["lr"] for group in step_of.param_groups]
    shuffle = torch.Generator().manual_seed(seed)
    devices = [target.device] if target.device.type == "cuda" else []
    # DataLoader order, dropout: all from the seed, and the caller's random numbers go on as if nothing had been.
    with restored(model), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        try:
            for name, parameter in own_parameters(model).items():
                parameter.requires_grad_(parameter.requires_grad and name not in frozen)
            passes: list[_Predictions] = []
            relabelled: list[float] = []
            steps = 0
            for epoch in range(epochs):
                now = _predict(model, target, tap)
                passes.append(now)
                labels = centroid_pseudo_labels(now.features, now.logits)
                relabelled.append((labels != now.logits.argmax(-1)).float().mean().item())
                # Of a text the labels of its tokens, of an image one.
                by_row = dict(zip(now.numbers, labels.split(now.lengths), strict=True))
                model.train()
                for position, (rows, inputs) in enumerate(target.batches(shuffle)):
                    if len(rows) < 2:
                        continue
                    progress = (epoch + position / now.batches) / epochs
                    for group, rate in zip(step_of.param_groups, rates, strict=True):
                        group["lr"] = rate * (1 + 10 * progress) ** -0.75
                    logits = counted_rows(logits_of(model(**inputs)), inputs)[0].float()
                    loss = information_maximization(logits, diversity_weight=diversity_weight)
                    chosen = torch.cat([by_row[row] for row in rows]).to(logits.device)
                    loss = loss + pseudo_label_weight * F.cross_entropy(logits, chosen)
                    step_of.zero_grad()
                    loss.backward()
                    step_of.step()
                    steps += 1
                step_of.zero_grad()
            passes.append(_predict(model, target, tap))
        finally:
            tap.remove()
            step_of.zero_grad()
    return _report(passes, relabelled, steps)


@dataclass(frozen=True)
class _Predictions:
    logits: Tensor
    features: Tensor
    numbers: list[int]
    lengths: list[int]
    batches: int


def _predict(model: nn.Module, target: TargetData, tap: HeadTap) -> _Predictions:
    """Logits and features of every row in evaluation mode, on the CPU."""
    model.eval()
    logits, features, numbers, lengths, batches = [], [], [], [], 0
    tap.open = True
    try:
        with torch.no_grad():
            for rows, inputs in target.batches():
                output = logits_of(model(**inputs))
                flat, each = counted_rows(output, inputs)
                logits.append(flat.float().cpu())
                features.append(counted_rows(tap.take(output, inputs), inputs)[0].cpu())
                numbers += rows
                lengths += each
                batches += 1
    finally:
        tap.open = False
    if not logits:
        raise ValueError(
            "The target data have no batch: there is nothing to adapt to. Give rows of the target domain; they need "
            "no labels."
        )
    return _Predictions(torch.cat(logits), torch.cat(features), numbers, lengths, batches)


def _report(passes: Sequence[_Predictions], relabelled: list[float], steps: int) -> SourceFreeReport:
    before, after = class_shares(passes[0].logits), class_shares(passes[-1].logits)
    advice = "Lower `learning_rate` or `pseudo_label_weight`, raise `batch_size`, or take `adapt_batch_norm`."
    return SourceFreeReport(
        rows=len(passes[-1].logits),
        steps=steps,
        entropy=tuple(mean_entropy(each.logits).item() for each in passes),
        diversity=tuple(diversity(each.logits).item() for each in passes),
        relabelled=tuple(relabelled),
        shares_before=tuple(before.tolist()),
        shares_after=tuple(after.tolist()),
        collapsed=warn_of_collapse("adapt_source_free", before, after, advice),
    )
