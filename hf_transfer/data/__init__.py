"""
Domain mixing, the alternating sampler, loading from the Hub or a path, and the embedded data.

`mix_domains` and the sampler need only torch until a `datasets` object is passed in; the other modules import
`datasets` and are therefore imported by their full names.
"""

from __future__ import annotations

from hf_transfer.data.mixing import mix_domains
from hf_transfer.data.sampling import AlternatingSampler, domain_sampler


__all__ = ["AlternatingSampler", "domain_sampler", "mix_domains"]
