"""Which weights a checkpoint lacks, found without the network."""

from __future__ import annotations

from transformers import BertForSequenceClassification, BertModel, logging

from hf_transfer.adapters.missing_weights import missing_weights
from tests.models import bert_config, tiny_bert


def test_a_new_pooler_and_head_are_missing(tmp_path):
    BertModel(bert_config(), add_pooling_layer=False).save_pretrained(tmp_path / "without")
    BertModel(bert_config()).save_pretrained(tmp_path / "with")
    head = {"classifier.weight", "classifier.bias"}
    pooler = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert missing_weights(BertForSequenceClassification.from_pretrained(tmp_path / "with")) == head
    assert missing_weights(BertForSequenceClassification.from_pretrained(tmp_path / "without")) == head | pooler


def test_a_head_of_another_size_is_missing_and_the_same_one_is_not(tmp_path):
    tiny_bert().save_pretrained(tmp_path)
    same = BertForSequenceClassification.from_pretrained(tmp_path)
    assert missing_weights(same) == set()
    other = BertForSequenceClassification.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert missing_weights(other) == {"classifier.weight", "classifier.bias"}


def test_without_a_checkpoint_it_is_unknown(tmp_path):
    assert missing_weights(tiny_bert()) is None
    tiny_bert().save_pretrained(tmp_path / "model")
    model = BertForSequenceClassification.from_pretrained(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    assert missing_weights(model) is None


def test_the_model_and_the_logs_stay_as_they_are(tmp_path):
    tiny_bert().save_pretrained(tmp_path)
    model = BertForSequenceClassification.from_pretrained(tmp_path)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    missing_weights(model)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (verbosity, bars)
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())
