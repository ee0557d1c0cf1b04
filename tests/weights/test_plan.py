"""What a transfer will do: parts of a model, and the rule for a bias beside a weight."""

from __future__ import annotations

import pytest
from torch import nn
from transformers import BertForNextSentencePrediction, BertModel

from hf_transfer import anatomy
from hf_transfer.weights.naming import Candidate
from hf_transfer.weights.plan import Plan, find_parts
from hf_transfer.weights.slots import slots
from hf_transfer.weights.source import open_source
from tests.models import TINY, bert_config, lora, tiny_bert, tiny_resnet


@pytest.mark.parametrize("make", TINY.values(), ids=TINY)
def test_parts_are_those_of_the_anatomy(make):
    model = make()
    found = find_parts(model, slots(model), None)
    for part, names in anatomy(model).parts().items():
        assert {found[name] for name in names} <= {part}
    assert found.keys() == slots(model).keys()


def test_buffers_belong_to_the_part_of_their_module():
    model = tiny_resnet()
    found = find_parts(model, slots(model), None)
    assert found["resnet.embedder.embedder.normalization.running_mean"] == "embeddings"
    assert found["resnet.encoder.stages.0.layers.0.layer.0.normalization.num_batches_tracked"] == "block.0"


def test_parts_under_lora_have_bare_names():
    model = lora(tiny_bert(), ["query"], "classifier")
    base = model.get_base_model()
    assert find_parts(base, slots(model), None) == find_parts(tiny_bert(), slots(tiny_bert()), None)


def test_models_without_anatomy():
    base, sentences, plain = BertModel(bert_config()), BertForNextSentencePrediction(bert_config()), nn.Linear(2, 2)
    assert find_parts(base, slots(base), None) == {} and find_parts(plain, slots(plain), None) == {}
    parts = find_parts(sentences, slots(sentences), None)
    assert set(parts.values()) == {"head"} and all(name.startswith("cls.") for name in parts)


def entries(model, source_model, **changes):
    places, source = slots(model), open_source(source_model)
    chosen = {name: Candidate(name, (name,), shape, how="same name") for name, shape in source.shapes.items()}
    options = {"blocks": None, "head": None, "resize": (), **changes}
    plan = Plan(model, source, find_parts(model, places, None), **options)
    plan.fill(places, chosen)
    return plan


def test_every_tensor_is_entered_once():
    model = tiny_resnet()
    plan = entries(model, tiny_resnet())
    assert [entry.name for entry in plan.report.copied] == list(model.state_dict())
    assert [slot.name for slot in plan.targets()] == list(model.state_dict())


def test_statistics_go_with_the_weight_of_their_norm():
    narrow, wide = nn.Sequential(nn.BatchNorm1d(2)), nn.Sequential(nn.BatchNorm1d(3))
    plan = entries(narrow, wide)
    reasons = {entry.name: entry.reason for entry in plan.report.skipped}
    assert reasons.pop("0.num_batches_tracked") == "the weight beside it has another shape"
    assert not plan.targets() and len(reasons) == 4
    assert all(reason.startswith(("another shape:", "the weight beside")) for reason in reasons.values())
