"""What is measured of a trained run without labels of the target."""

from __future__ import annotations

from collections.abc import Sequence

from hf_transfer.diagnostics import proxy_a_distance
from hf_transfer.domain_adaptation.outputs import Outputs
from hf_transfer.domain_adaptation.training import Run
from hf_transfer.validators import validate_without_labels


LEAST_ROWS = 4
"""Rows of each domain below which no distance between them can be measured."""

__all__ = ["LEAST_ROWS", "domain_distance", "largest_shares", "validated"]


def validated(run: Run, validators: Sequence[str]) -> dict[str, float]:
    """The scores of validators for the model of a run, more is better; none for a regression, which has none."""
    domains = run.domains
    if domains.data.task == "regression":
        return {}
    return validate_without_labels(
        run.model,
        domains.validation,
        domains.target,
        train_source=domains.source_train,
        validators=validators,
        data_collator=domains.collate,
        batch_size=run.args.per_device_eval_batch_size,
        max_rows=max(len(domains.validation), len(domains.target), len(domains.source_train)),
        seed=run.args.seed,
    )


def domain_distance(outputs: dict[str, Outputs], *, seed: int) -> dict[str, float]:
    """The proxy A-distance of the features of source and target, or nothing where there are too few rows."""
    source, target = (outputs[name].features.numpy() for name in ("source", "target"))
    if min(len(source), len(target)) < LEAST_ROWS:
        return {}
    return {"a_distance": float(proxy_a_distance(source, target, seed=seed))}


def largest_shares(outputs: dict[str, Outputs]) -> dict[str, float]:
    """
    Share of the class that is predicted most often, in the `source` and the `target`; nothing where a row has not one
    class.
    """
    if any(part.labels.dim() > 1 or part.logits.shape[-1] < 2 or not len(part.logits) for part in outputs.values()):
        return {}
    return {
        f"{name}_largest_share": part.logits.argmax(-1).bincount().max().item() / len(part.logits)
        for name, part in outputs.items()
    }
