"""Model cards filled from a run, and data cards for what a model leaves behind."""

from hf_transfer.model_card.data_card import DataCardFacts, write_data_card
from hf_transfer.model_card.facts import Baseline, DataFacts, RunFacts, Score, Term
from hf_transfer.model_card.storage import load_facts, save_facts
from hf_transfer.model_card.writing import write_card


__all__ = [
    "Baseline",
    "DataCardFacts",
    "DataFacts",
    "RunFacts",
    "Score",
    "Term",
    "load_facts",
    "save_facts",
    "write_card",
    "write_data_card",
]
