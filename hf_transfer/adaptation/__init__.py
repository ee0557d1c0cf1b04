"""Adapting a loaded model to unlabelled data of its target domain, without a trainer and without source data."""

from hf_transfer.adaptation.at_test_time import OnlinePredictions, TestTimeEntropy, adapt_at_test_time
from hf_transfer.adaptation.batch_norm import adapt_batch_norm
from hf_transfer.adaptation.source_free import SourceFreeReport, adapt_source_free


__all__ = [
    "OnlinePredictions",
    "SourceFreeReport",
    "TestTimeEntropy",
    "adapt_at_test_time",
    "adapt_batch_norm",
    "adapt_source_free",
]
