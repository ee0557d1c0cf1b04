"""A head of as many outputs as an episode has classes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hf_transfer import anatomy
from hf_transfer.adapters import add_adapter
from hf_transfer.meta.head import give_episode_head
from tests import models


@pytest.mark.parametrize("kind", ["bert", "gpt2", "vit", "resnet", "wav2vec2"])
def test_the_logits_and_the_config_have_that_many(kind):
    model = models.TINY[kind]()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert give_episode_head(model, 5) is model
    batch = models.batch_for(model)
    output = model(**{name: batch[name] for name in batch if name not in ("labels", "domain")}, labels=torch.arange(4))
    assert output.logits.shape == (4, 5) and output.loss.isfinite()
    assert model.config.num_labels == 5 and model.config.id2label[4] == "class_4"
    changed = {name for name, value in model.state_dict().items() if value.shape != before[name].shape}
    assert 1 <= len(changed) <= 2


@pytest.mark.parametrize("kind", ["bert", "gpt2", "resnet"])
def test_its_outputs_begin_alike_and_it_stays_when_asked_again(kind):
    model = models.TINY[kind]()  # of three classes, which mean something
    head = anatomy(give_episode_head(model, 3)).head
    layer = model.get_submodule(head)
    assert all(not parameter.any() for parameter in layer.parameters())
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(0.5)
    assert give_episode_head(model, 3).get_submodule(head) is layer
    assert give_episode_head(model, 4).get_submodule(head) is not layer


def test_an_adapter_gets_it_too():
    pytest.importorskip("peft")
    model = give_episode_head(add_adapter(models.tiny_bert()), 5)
    batch = models.batch_for(model)
    assert model(input_ids=batch["input_ids"]).logits.shape == (4, 5)
    head = model.base_model.model.classifier.modules_to_save["default"]
    assert head.out_features == 5 and head.weight.requires_grad and not head.weight.any()
    assert give_episode_head(model, 5).base_model.model.classifier.modules_to_save["default"] is head


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="`n_way=1`: an episode of one class .* Pass 2 or more"):
        give_episode_head(models.tiny_bert(), 1)
    model = models.tiny_bert()

    class Strange(nn.Linear):
        pass

    strange = nn.Bilinear(4, 4, 3)
    model.classifier = nn.ModuleList([strange])
    from hf_transfer.meta.head import _resized

    with pytest.raises(TypeError, match="The head is a `Bilinear`: .* `from_pretrained"):
        _resized(model, strange, 5)
