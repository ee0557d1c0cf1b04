from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from transformers import BertModel

from hf_transfer import attach
from hf_transfer.compare.problem.pretrained import Pretrained
from hf_transfer.objectives import L2SP
from tests.compare.tiny_problems import checkpoint, image_data, image_processor, text_data, token_data, tokenizer
from tests.models import bert_config, lora, tiny_bert, tiny_llama, tiny_resnet, tiny_token_bert, tiny_vit


def different(one, other) -> set[str]:
    """Names of the tensors in which two models differ."""
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    return {name for name in first if not torch.equal(first[name], second[name])}


def drawn_by_the_seed(base: Pretrained) -> set[str]:
    """What differs between seeds, after a look that nothing does with the same one."""
    torch.manual_seed(1)
    first = base.fresh(0)
    torch.rand(7)  # what was drawn before counts for nothing
    assert not different(first, base.fresh(0))
    found = different(first, base.fresh(1))
    assert not different(first, base.fresh(0))
    return found


def stored(model, base: Pretrained, *, but: set[str]) -> None:
    """All but some tensors of a fresh model are those of the model that was saved."""
    fresh, own = base.fresh(3).state_dict(), model.state_dict()
    for name, value in fresh.items():
        if name not in but:
            torch.testing.assert_close(value, own[name], rtol=0, atol=0)


def test_a_head_of_another_size_is_drawn_by_the_seed_and_nothing_else(tmp_path):
    model = tiny_bert(num_labels=5)
    base = Pretrained("bert", checkpoint(tmp_path, model, tokenizer()), text_data())
    # the biases are zero whatever the seed
    assert base.new == ("classifier.weight", "classifier.bias") and drawn_by_the_seed(base) == {"classifier.weight"}
    assert base.new_head and not base.new_neck
    stored(model, base, but=set(base.new))
    fresh = base.fresh(0)
    assert fresh.config.num_labels == 2 and fresh.config.id2label == {0: "bad", 1: "good"}


def test_what_a_base_model_lacks_is_new_the_neck_too(tmp_path):
    model = BertModel(bert_config(), add_pooling_layer=False)
    base = Pretrained("mini", checkpoint(tmp_path, model, tokenizer()), text_data())
    assert drawn_by_the_seed(base) == {"bert.pooler.dense.weight", "classifier.weight"}
    assert base.new_neck and base.new_head
    with_pooler = Pretrained("mini", checkpoint(tmp_path / "b", BertModel(bert_config()), tokenizer()), text_data())
    assert drawn_by_the_seed(with_pooler) == {"classifier.weight"} and not with_pooler.new_neck


def test_batch_norm_keeps_its_statistics_and_a_mismatched_head_is_new(tmp_path):
    model = tiny_resnet(num_labels=7)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(1, 2)
    base = Pretrained("resnet", checkpoint(tmp_path, model, image_processor()), image_data())
    # convolutional models leave the bias to torch's own initialiser or zero it
    assert {"classifier.1.weight"} <= drawn_by_the_seed(base) <= {"classifier.1.weight", "classifier.1.bias"}
    stored(model, base, but=set(base.new))


def test_a_head_that_fits_stays(tmp_path):
    model = tiny_bert(num_labels=2)
    base = Pretrained("bert", checkpoint(tmp_path, model, tokenizer()), text_data())
    assert base.new == () and not drawn_by_the_seed(base) and not base.new_head and not base.new_neck
    stored(model, base, but=set())


@pytest.mark.parametrize("kind", ["llama", "tokens", "vit"])
def test_other_kinds_of_models(tmp_path, kind):
    model, processor, data, head = {
        "llama": (tiny_llama(), tokenizer(), text_data(), {"score.weight"}),
        "tokens": (tiny_token_bert(num_labels=4), tokenizer(), token_data(), {"classifier.weight"}),
        "vit": (tiny_vit(), image_processor(), image_data(), {"classifier.weight"}),
    }[kind]
    base = Pretrained(kind, checkpoint(tmp_path, model, processor), data)
    assert drawn_by_the_seed(base) == head
    assert base.fresh(0).config.num_labels == data.num_labels


def test_scratch_has_the_architecture_and_nothing_of_the_weights(tmp_path):
    torch.manual_seed(99)  # the model itself was made from scratch
    model = tiny_resnet(num_labels=7)
    base = Pretrained("resnet", checkpoint(tmp_path, model, image_processor()), image_data())
    first, again, other = base.scratch(0), base.scratch(0), base.scratch(1)
    assert not different(first, again) and type(first) is type(base.model)
    random_weights = {name for name, _ in first.named_parameters() if "convolution.weight" in name}
    assert random_weights <= different(first, other) and random_weights <= different(first, base.fresh(0))
    assert first.config.num_labels == 2
    assert all(parameter.requires_grad for parameter in first.parameters())


def test_runs_cannot_change_each_other_or_the_random_numbers(tmp_path):
    base = Pretrained("bert", checkpoint(tmp_path, tiny_bert(num_labels=5), tokenizer()), text_data())
    before = copy.deepcopy(base.model.state_dict())
    model = base.fresh(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert all(torch.equal(before[name], value) for name, value in base.model.state_dict().items())
    assert len(different(model, base.fresh(0))) == len(list(model.parameters()))

    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    expected = torch.rand(1).item(), np.random.rand(), random.random()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    base.fresh(1), base.scratch(1), Pretrained("again", base.name, text_data())
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == expected


def test_loading_twice_gives_the_same(tmp_path):
    folder = checkpoint(tmp_path, tiny_bert(num_labels=5), tokenizer())
    torch.manual_seed(1)
    first = Pretrained("a", folder, text_data())
    torch.manual_seed(2)
    second = Pretrained("b", folder, text_data())
    assert not different(first.fresh(4), second.fresh(4)) and first.digest == second.digest
    other = Pretrained("c", checkpoint(tmp_path / "c", tiny_bert(num_labels=5), tokenizer()), text_data())
    assert other.digest != first.digest


# --- models in memory


def test_a_classifier_in_memory_keeps_a_head_that_fits():
    model = tiny_bert(num_labels=2)
    base = Pretrained("mine", None, text_data(), model=model, processor=tokenizer())
    assert base.new == () and base.in_memory and base.name == "mine"
    stored(model, base, but=set())
    assert base.fresh(0) is not model and base.model.config.id2label == {0: "bad", 1: "good"}
    assert model.config.id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert base.model.name_or_path == "" and "tmp" not in str(base.model.config.to_dict())


def test_a_classifier_in_memory_of_other_classes_gets_a_head():
    model = tiny_resnet(num_labels=7)
    base = Pretrained("mine", None, image_data(), model=model, processor=image_processor())
    assert "classifier.1.weight" in drawn_by_the_seed(base)
    stored(model, base, but=set(base.new))


def test_a_base_model_in_memory_gets_a_head():
    model = BertModel(bert_config())
    base = Pretrained("mine", None, text_data(), model=model, processor=tokenizer())
    assert drawn_by_the_seed(base) == {"classifier.weight"}
    assert torch.equal(base.model.get_parameter("bert.pooler.dense.weight"), model.pooler.dense.weight)


def test_what_was_new_when_a_model_was_loaded_is_new_in_every_run(tmp_path):
    folder = checkpoint(tmp_path, BertModel(bert_config(), add_pooling_layer=False), tokenizer())
    loaded = type(tiny_bert()).from_pretrained(folder, num_labels=2)
    base = Pretrained("mine", None, text_data(), model=loaded, processor=tokenizer())
    assert drawn_by_the_seed(base) == {"bert.pooler.dense.weight", "classifier.weight"}
    assert base.model.name_or_path == folder
    pooled = Pretrained("mine", None, text_data(), model=BertModel.from_pretrained(folder), processor=tokenizer())
    assert drawn_by_the_seed(pooled) == {"bert.pooler.dense.weight", "classifier.weight"}


def test_models_in_memory_that_cannot_serve_are_refused():
    def give(model, processor=None):
        return Pretrained("mine", None, text_data(), model=model, processor=processor)

    with pytest.raises(ValueError, match=r"given without a processor.*cannot be turned.*Pass its tokenizer"):
        give(tiny_bert())
    with pytest.raises(ValueError, match=r"carries adapters.*would add theirs.*merge_and_unload"):
        give(lora(tiny_bert(), ["query"], "classifier"), tokenizer())
    attached = tiny_bert()
    attach(attached, [L2SP()])
    with pytest.raises(ValueError, match=r"Objectives are attached.*every copy.*detach"):
        give(attached, tokenizer())
    with pytest.raises(ValueError, match=r"is a Linear.*neither its head.*Pass a `PreTrainedModel`"):
        give(torch.nn.Linear(2, 2), tokenizer())
    with pytest.raises(ValueError, match=r"Neither a name nor a model.*nothing to transfer from.*Pass a Hub id"):
        Pretrained("mine", None, text_data())


def test_what_cannot_be_loaded_is_told_at_once(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Pretrained("x", str(tmp_path / "nothing"), text_data())
    folder = checkpoint(tmp_path / "bert", tiny_bert(), tokenizer())
    with pytest.raises(ValueError, match="no image-classification class"):
        Pretrained("x", folder, image_data())
