"""Few-shot classification: episodes, their evaluation on features, and training for very few labels."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from hf_transfer.few_shot.class_names import head_from_class_names
    from hf_transfer.few_shot.contrastive import contrastive_fine_tune
    from hf_transfer.few_shot.episodes import EpisodeRows, Episodes
    from hf_transfer.few_shot.evaluation import evaluate_few_shot, gather_episodes
    from hf_transfer.few_shot.pairs import PairSampler
    from hf_transfer.few_shot.results import FewShotResults
    from hf_transfer.few_shot.sampler import EpisodeSampler


__all__ = [
    "EpisodeRows",
    "EpisodeSampler",
    "Episodes",
    "FewShotResults",
    "PairSampler",
    "contrastive_fine_tune",
    "evaluate_few_shot",
    "gather_episodes",
    "head_from_class_names",
]

# As in `hf_transfer` itself: an episode sampler needs neither the trainer nor the models of the other modules.
_LAZY = {
    "class_names": "head_from_class_names",
    "contrastive": "contrastive_fine_tune",
    "episodes": "EpisodeRows Episodes",
    "evaluation": "evaluate_few_shot gather_episodes",
    "pairs": "PairSampler",
    "results": "FewShotResults",
    "sampler": "EpisodeSampler",
}
_MODULE_OF = {name: module for module, names in _LAZY.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module `hf_transfer.few_shot` has no attribute `{name}`")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
