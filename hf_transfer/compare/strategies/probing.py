"""Feature extraction: a linear probe on the features of the frozen model, which all probe-type strategies share."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_transfer.compare.cells import TEST, VALIDATION
from hf_transfer.compare.strategies.strategy import Fitted, Strategy
from hf_transfer.model_card.environment import device_name
from hf_transfer.model_card.facts import RunFacts
from hf_transfer.trainer import TransferTrainer


if TYPE_CHECKING:
    from datasets import Dataset

    from hf_transfer.compare.problem.setup import Setup
    from hf_transfer.features import Probe

__all__ = ["LinearProbe", "padded_logits", "probe_facts", "told_probe"]


@dataclass(frozen=True, kw_only=True)
class LinearProbe(Strategy):
    """
    Freeze the model, read what its head is given once, fit a linear classifier to it, and write it into the head.

    The features are those that all strategies of the model share, and the probe is the one that `FineTune` with
    `start="probe"` begins with. What it says of the rows follows from the features: the model is not run again.

    Relations:
        [`FineTune`] with `start="probe"` goes on and trains all weights (LP-FT).

    Example:
        >>> LinearProbe(name="probe", about="A linear classifier on frozen features.").rate is None
        True
    """

    def fit(self, setup: Setup) -> Fitted:
        """Fit the probe, or take the one that was fitted for this model, seed and share of rows."""
        probe = setup.probe()
        model: Any = probe.fold_into(setup.fresh())
        splits: list[Any] = [split for split in (VALIDATION, TEST) if getattr(setup, split) is not None]
        args = copy.copy(setup.args)
        args.without_validation()  # the trainer saves, but trains nothing
        trainer = TransferTrainer(model, args, processing_class=setup.processor)
        trainer.facts = probe_facts(setup, probe)
        return Fitted(
            model,
            trained_parameters=sum(part.size for part in probe.linear() if part.any()),
            trainer=trainer,
            logits={split: padded_logits(probe, setup.features(split)) for split in splits},
            note=told_probe(probe),
        )


def padded_logits(probe: Probe, features: Dataset) -> np.ndarray:
    """
    What a probe says of every row, `(N, C)` float32; of tokens `(N, T, C)`, zeros behind the last one of a row.

    Args:
        probe (`Probe`): a linear one.
        features (`Dataset`): as `extract_features` makes them.
    """
    logits = probe.logits(features).astype(np.float32)
    if probe.task != "token":
        return logits
    lengths = np.array([len(labels) for labels in features["labels"]])
    padded = np.zeros((len(lengths), int(lengths.max(initial=0)), logits.shape[1]), np.float32)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = logits
    return padded


def probe_facts(setup: Setup, probe: Probe) -> RunFacts:
    """What the model card says of a probed model, beside data and scores."""
    data = setup.problem.data
    facts = RunFacts(task=data.task, inputs=list(data.input_columns), method=probe.kind, seeds=[setup.seed])
    facts.strategy = [
        "The model stayed frozen. Its features were computed once, what its head is given, and a "
        f"{told_probe(probe)} was fitted to them and written into the head, with the standardisation of the features."
    ]
    facts.device = device_name(setup.args)
    return facts


def told_probe(probe: Probe) -> str:
    """A probe in a few words, such as `logistic probe of strength 0.1`."""
    strength = f"{probe.strength:.3g}" if isinstance(probe.strength, float) else probe.strength
    return f"{probe.kind.replace('_', ' ')} probe of strength {strength}"
