"""ETran: what candidates are worth beside each other, by the energy and the fit of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hf_transfer.functional.discriminants import ENERGY_SHARE, combined_etran
from hf_transfer.selection.outcome import Outcome
from hf_transfer.selection.scores import ETRAN, Score, half_width


ALONE = "it is scaled over the candidates, of which only one has it"
"""Why a single candidate has no ETran."""

__all__ = ["ALONE", "with_combined_etran"]


def with_combined_etran(outcomes: Sequence[Outcome], *, size: int, part_sizes: Sequence[int]) -> tuple[Outcome, ...]:
    """
    The outcomes with their ETran, by [`combined_etran`] over all that have energy and fit.

    Nats of energy and a probability have no common unit: only beside other candidates, with both scaled to [0, 1],
    do they add. Random parts of the rows are on the scale of all rows: on one of its own the first and the last would
    not vary.

    Args:
        outcomes (`Sequence[Outcome]`): candidates, and perhaps baselines, which have no ETran.
        size (`int`): examples.
        part_sizes (`Sequence[int]`): examples of each random part.

    Degenerate cases:
        Of a single candidate it is not defined. With fewer than five parts that have energy and fit there is no
        interval. To combine again changes nothing: only the terms are read.
    """
    having = {
        own.name: (own, score)
        for own in outcomes
        if (score := own.scores.get(ETRAN)) is not None and score.terms is not None
    }
    terms = np.array([score.terms for _, score in having.values()])
    found: dict[str, Outcome] = {}
    for place, (name, (own, kept)) in enumerate(having.items()):
        if len(having) == 1:
            score = replace(kept, value=None, low=None, high=None, draws=(), reason=ALONE)
        else:
            value = float(combined_etran(terms[:, 0], terms[:, 1])[place])
            draws = tuple(None if drawn is None else _on_scale(drawn, terms) for drawn in kept.drawn_terms)
            half = half_width(draws, part_sizes, size)
            low, high = (None, None) if half is None else (value - half, value + half)
            why = kept.reason if half is None and kept.reason != ALONE else ""
            score = Score(value, low, high, why, draws, kept.terms, kept.drawn_terms, kept.seconds)
        found[name] = replace(own, scores={**own.scores, ETRAN: score})
    return tuple(found.get(own.name, own) for own in outcomes)


def _on_scale(drawn: tuple[float, float], terms: np.ndarray) -> float:
    least, spread = terms.min(0), np.ptp(terms, axis=0)
    scaled = (np.array(drawn) - least) / np.where(spread > 0, spread, 1.0)
    # a term in which all candidates are equal has no part in it
    return float(np.where(spread > 0, scaled, 0.0) @ [ENERGY_SHARE, 1 - ENERGY_SHARE])
