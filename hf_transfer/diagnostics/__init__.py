"""How far two domains are apart, and whether adaptation is going well."""

from __future__ import annotations

from hf_transfer.diagnostics.a_distance import ADistance, proxy_a_distance
from hf_transfer.diagnostics.bound import DomainBound, domain_bound
from hf_transfer.diagnostics.discrepancy import MMDTest, mmd_test
from hf_transfer.diagnostics.plot import feature_plot
from hf_transfer.diagnostics.shift import ClassRow, ClassShift, class_shift


__all__ = [
    "ADistance",
    "ClassRow",
    "ClassShift",
    "DomainBound",
    "MMDTest",
    "class_shift",
    "domain_bound",
    "feature_plot",
    "mmd_test",
    "proxy_a_distance",
]
