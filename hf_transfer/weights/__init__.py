"""Initialisation from other weights, and arithmetic with weights."""

from hf_transfer.weights.interpolation import WiseFTResult, interpolate, wise_ft
from hf_transfer.weights.reinitialization import reinitialize_blocks
from hf_transfer.weights.report import TransferEntry, TransferReport
from hf_transfer.weights.snapshots import WeightSnapshot, snapshot
from hf_transfer.weights.soups import SoupResult, greedy_soup, uniform_soup
from hf_transfer.weights.transfer import transfer_parameters


__all__ = [
    "SoupResult",
    "TransferEntry",
    "TransferReport",
    "WeightSnapshot",
    "WiseFTResult",
    "greedy_soup",
    "interpolate",
    "reinitialize_blocks",
    "snapshot",
    "transfer_parameters",
    "uniform_soup",
    "wise_ft",
]
