"""Meta-learning: an initialisation from which a few steps on a few rows suffice."""

from hf_transfer.meta.head import give_episode_head
from hf_transfer.meta.results import MetaTestResults
from hf_transfer.meta.scale_shift import add_scale_shift, fold_scale_shift
from hf_transfer.meta.testing import meta_test
from hf_transfer.meta.trainer import MetaTrainer


__all__ = [
    "MetaTestResults",
    "MetaTrainer",
    "add_scale_shift",
    "fold_scale_shift",
    "give_episode_head",
    "meta_test",
]
