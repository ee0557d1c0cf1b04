"""
Diagnostics of domain shift as `evaluate.Measurement`s that need no network.

Both take `data`, one vector of features a row, and `domain`, 0 for the source and 1 for the target, so that
`evaluate.combine` can compute them from one input.
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

from hf_transfer.diagnostics.a_distance import proxy_a_distance
from hf_transfer.diagnostics.discrepancy import mmd_test


__all__ = ["MeanDiscrepancyTest", "ProxyADistance"]


class _OfTwoDomains(evaluate.Measurement):
    """A number for features of two domains, with no cache file."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"keep_in_memory": True, **options})

    def _info(self) -> evaluate.MeasurementInfo:
        features = datasets.Features(
            {"data": datasets.List(datasets.Value("float32")), "domain": datasets.Value("int64")}
        )
        return evaluate.MeasurementInfo(
            description=self.__doc__ or "", citation="", inputs_description="", features=features
        )


class ProxyADistance(_OfTwoDomains):
    """
    Proxy A-distance of source and target: `proxy_a_distance` and the ends of its interval, all in [0, 2].

    Args:
        settings (`dict`, *optional*):
            Options for [`~hf_transfer.proxy_a_distance`], such as `{"held_out": 0.3}`.

    Raises:
        ValueError: if `domain` holds other numbers than 0 and 1; and what the function raises.

    Example:
        >>> measure = ProxyADistance()
        >>> result = measure.compute(data=[[0.0]] * 8 + [[1.0]] * 8, domain=[0] * 8 + [1] * 8)
        >>> result["proxy_a_distance"], sorted(result)
        (2.0, ['proxy_a_distance', 'proxy_a_distance_high', 'proxy_a_distance_low'])
    """

    def __init__(self, *, settings: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.settings = dict(settings or {})

    def _compute(self, *, data: Any = None, domain: Any = None, **kwargs: Any) -> dict[str, float]:
        found = proxy_a_distance(*_domains(data, domain), **self.settings)
        low, high = found.interval
        return {
            "proxy_a_distance": found.distance,
            "proxy_a_distance_low": low,
            "proxy_a_distance_high": high,
        }


class MeanDiscrepancyTest(_OfTwoDomains):
    """
    Unbiased squared MMD of source and target, `mmd`, and the p-value of its permutation test, `mmd_p_value`.

    Args:
        settings (`dict`, *optional*):
            Options for [`~hf_transfer.mmd_test`], such as `{"permutations": 199}`.

    Raises:
        ValueError: if `domain` holds other numbers than 0 and 1; and what the function raises.

    Example:
        >>> measure = MeanDiscrepancyTest(settings={"permutations": 99})
        >>> measure.compute(data=[[0.0]] * 8 + [[1.0]] * 8, domain=[0] * 8 + [1] * 8)["mmd_p_value"]
        0.01
    """

    def __init__(self, *, settings: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.settings = dict(settings or {})

    def _compute(self, *, data: Any = None, domain: Any = None, **kwargs: Any) -> dict[str, float]:
        found = mmd_test(*_domains(data, domain), **self.settings)
        return {"mmd": found.mmd, "mmd_p_value": found.p_value}


def _domains(data: Any, domain: Any) -> tuple[np.ndarray, np.ndarray]:
    numbers = np.asarray(domain)
    present = sorted({int(number) for number in numbers})
    if present != [0, 1]:
        raise ValueError(
            f"`domain` holds {', '.join(map(str, present))}: two domains are compared, the source as 0 and the target "
            "as 1. Select the rows of two domains and number them so."
        )
    widths = {len(row) for row in data}
    if len(widths) > 1:
        raise ValueError(
            f"The rows of `data` have from {min(widths)} to {max(widths)} numbers: features of one model have one "
            "width. Pool tokens before they are compared."
        )
    features = np.asarray(data, np.float32)
    return features[numbers == 0], features[numbers == 1]
