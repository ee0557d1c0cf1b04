"""Choosing the source: which pretrained model to start from, and how far its data is from the target's."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from hf_transfer.selection.api import rank_models
    from hf_transfer.selection.distance import DomainDistance, domain_distance
    from hf_transfer.selection.ranking import SourceRanking
    from hf_transfer.selection.source_distances import compare_domains, distance_table
    from hf_transfer.selection.task_embeddings import task_embedding


__all__ = [
    "DomainDistance",
    "SourceRanking",
    "compare_domains",
    "distance_table",
    "domain_distance",
    "rank_models",
    "task_embedding",
]

# As in `hf_transfer` itself: a distance needs neither models nor the probes of a ranking.
_LAZY = {
    "api": "rank_models",
    "distance": "DomainDistance domain_distance",
    "ranking": "SourceRanking",
    "source_distances": "compare_domains distance_table",
    "task_embeddings": "task_embedding",
}
_MODULE_OF = {name: module for module, names in _LAZY.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module `hf_transfer.selection` has no attribute `{name}`")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
