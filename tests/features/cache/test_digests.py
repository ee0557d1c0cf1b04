from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel

from hf_transfer import DomainAdversarial, anatomy, attach
from hf_transfer.features.cache.digests import weights_digest
from tests.features.cache import digest_program
from tests.models import TINY, lora, tiny_bert, tiny_gpt2, tiny_resnet, tiny_vit


def seeded(build, **options) -> nn.Module:
    torch.manual_seed(0)
    return build(**options)


def test_the_same_in_another_process():
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": "1"}
    program = "from tests.features.cache.digest_program import digests; print(*digests())"
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[3],
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == digest_program.digests()


@pytest.mark.parametrize("name", TINY)
def test_every_parameter_and_buffer_counts(name):
    model = seeded(TINY[name])
    digest = weights_digest(model)
    assert (
        digest == weights_digest(seeded(TINY[name])) == weights_digest(model.train()) == weights_digest(model.eval())
    )
    seen = {digest}
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for number, (_, tensor) in enumerate(tensors):
        flat = tensor.detach().view(-1)
        place = number * 7919 % flat.numel()
        before = flat[place].clone()
        flat[place] = before + 1 if tensor.dtype != torch.bool else ~before
        seen.add(weights_digest(model))
        flat[place] = before
    assert weights_digest(model) == digest
    assert len(seen) == len(tensors) + 1


def test_the_last_bit_of_one_weight_counts():
    model = seeded(tiny_bert)
    digest = weights_digest(model)
    weight = model.bert.encoder.layer[1].output.dense.weight.detach()
    weight.view(torch.int32)[3, 5] ^= 1
    assert weights_digest(model) != digest


@pytest.mark.parametrize(
    "options",
    [
        *({"hidden_act": "relu"}, {"layer_norm_eps": 1e-5}, {"num_attention_heads": 4}, {"pad_token_id": 3}),
        *({"is_decoder": True}, {"attention_probs_dropout_prob": 0.3}),
    ],
)
def test_configurations_count_where_the_weights_are_equal(options):
    assert weights_digest(seeded(tiny_bert, **options)) != weights_digest(seeded(tiny_bert))


def test_a_changed_configuration_counts_after_the_model_was_built():
    model = seeded(tiny_gpt2)
    digest = weights_digest(model)
    model.config.pad_token_id = 5  # moves the token at which the model pools
    assert weights_digest(model) != digest


def test_classes_and_precision_count():
    model = seeded(tiny_bert)
    digest = weights_digest(model)
    model.bert.encoder.layer[0].intermediate.intermediate_act_fn = nn.ReLU()
    assert weights_digest(model) != digest
    half = weights_digest(seeded(tiny_bert).bfloat16())
    assert len({digest, half, weights_digest(seeded(tiny_bert).half()), weights_digest(seeded(tiny_bert).bert)}) == 4
    # rounded and widened again it is another model
    assert weights_digest(seeded(tiny_bert).bfloat16().float()) not in (digest, half)


def test_labels_and_origin_do_not_count(tmp_path):
    model = seeded(tiny_bert)
    digest = weights_digest(model)
    model.config.id2label = {0: "x", 1: "y", 2: "z"}
    model.config.label2id = {"x": 0, "y": 1, "z": 2}
    model.config.problem_type = "multi_label_classification"
    model.config._name_or_path = "somewhere"
    assert weights_digest(model) == digest
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert loaded.config._name_or_path == str(tmp_path) and weights_digest(loaded) == digest


@pytest.mark.parametrize("name", TINY)
def test_the_head_is_left_out(name):
    model, other = seeded(TINY[name]), seeded(TINY[name])
    head = anatomy(other).head
    layer = other.get_submodule(head)
    nn.init.normal_(layer.weight)
    assert weights_digest(model) != weights_digest(other)
    assert weights_digest(model, without=[head]) == weights_digest(other, without=[head])
    # of another size too, as for other labels
    parent, _, child = head.rpartition(".")
    setattr(other.get_submodule(parent), child, nn.Linear(layer.weight.shape[1], 7))
    other.config.num_labels = 7
    other.num_labels = 7
    assert weights_digest(model, without=[head]) == weights_digest(other, without=[head])


def test_without_leaves_out_what_it_names_and_nothing_else():
    model = seeded(tiny_bert)
    digest = weights_digest(model, without=["bert.encoder.layer.1"])
    nn.init.zeros_(model.bert.encoder.layer[1].output.dense.weight)
    assert weights_digest(model, without=["bert.encoder.layer.1"]) == digest
    model.bert.encoder.layer[2].output.dense.bias.data.fill_(1)
    assert weights_digest(model, without=["bert.encoder.layer.1"]) != digest


def test_names_that_begin_alike_are_different():
    model = nn.Module()
    model.layer, model.layer_norm = nn.Linear(2, 2), nn.LayerNorm(2)
    digest = weights_digest(model, without=["layer"])
    nn.init.zeros_(model.layer_norm.weight)
    assert weights_digest(model, without=["layer"]) != digest


def test_only_counts_what_it_names():
    prefix = ["bert.embeddings", "bert.encoder.layer.0"]
    model = seeded(tiny_bert)
    digest = weights_digest(model, only=prefix)
    nn.init.zeros_(model.bert.encoder.layer[1].output.dense.weight)
    nn.init.zeros_(model.classifier.weight)
    assert weights_digest(model, only=prefix) == digest
    assert weights_digest(model, only=prefix[:1]) != digest
    nn.init.zeros_(model.bert.encoder.layer[0].output.dense.weight)
    assert weights_digest(model, only=prefix) != digest
    digest = weights_digest(model, only=prefix, without=["bert.encoder.layer.0.output"])
    nn.init.ones_(model.bert.encoder.layer[0].output.dense.weight)
    assert weights_digest(model, only=prefix, without=["bert.encoder.layer.0.output"]) == digest


@pytest.mark.parametrize("where", [{"without": ["clasifier"]}, {"only": ["clasifier"]}])
def test_a_name_that_is_not_there_is_refused(where):
    message = r"has no module or parameter `clasifier` - what should .* - give a name .*, such as `bert`"
    with pytest.raises(ValueError, match=message):
        weights_digest(tiny_bert(), **where)


def test_a_model_without_weights_is_refused():
    with torch.device("meta"):
        model = BertModel(BertConfig(num_hidden_layers=1))
    with pytest.raises(ValueError, match="is on the meta device and has no data"):
        weights_digest(model)


def test_buffers_that_are_not_saved_count():
    model = nn.Sequential(nn.Linear(2, 2))
    model.register_buffer("scale", torch.ones(1), persistent=False)
    digest = weights_digest(model)
    model.scale += 1
    assert weights_digest(model) != digest


def test_names_count_and_tied_weights_do_no_harm():
    def tied(share: bool) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        if share:
            model[1].weight = model[0].weight
        else:
            model[1].weight = nn.Parameter(model[0].weight.detach().clone())
        return model

    assert weights_digest(tied(True)) == weights_digest(tied(False))
    swapped = tied(False)
    swapped[0].bias, swapped[1].bias = swapped[1].bias, swapped[0].bias
    assert weights_digest(swapped) != weights_digest(tied(False))


def test_objectives_that_are_attached_do_not_count():
    model = seeded(tiny_bert)
    digest = weights_digest(model)
    with attach(model, [DomainAdversarial(hidden_size=4)]):
        assert any("transfer_objectives" in name for name, _ in model.named_parameters())
        assert weights_digest(model) == digest
    assert weights_digest(model) == digest


def adapted(seed: int = 0, **options) -> nn.Module:
    model = seeded(tiny_bert)
    torch.manual_seed(seed)
    model = lora(model, ["query", "value"], "classifier", init_lora_weights=False, **options)
    model.add_adapter("other", model.peft_config["default"])
    return model


def test_adapters_their_state_and_their_strength_count():
    model = adapted()
    digest = weights_digest(model)
    assert digest == weights_digest(adapted()) != weights_digest(model.get_base_model())
    seen = {digest, weights_digest(adapted(seed=1)), weights_digest(adapted(lora_alpha=3))}
    with model.disable_adapter():
        seen.add(weights_digest(model))
    assert weights_digest(model) == digest
    model.set_adapter("other")
    seen.add(weights_digest(model))
    model.set_adapter("default")
    layer = model.base_model.model.bert.encoder.layer[0].attention.self.query
    layer.set_scale("default", 2.0)
    seen.add(weights_digest(model))
    layer.set_scale("default", 1.0)
    assert weights_digest(model) == digest
    layer.lora_A["default"].weight.data[0, 0] += 1
    seen.add(weights_digest(model))
    layer.lora_A["default"].weight.data[0, 0] -= 1
    model.merge_adapter()
    seen.add(weights_digest(model))
    assert len(seen) == 8


def test_a_prompt_that_is_switched_off_counts():
    from peft import PromptTuningConfig, TaskType, get_peft_model

    config = PromptTuningConfig(task_type=TaskType.SEQ_CLS, num_virtual_tokens=2)
    model = get_peft_model(seeded(tiny_bert), config)
    digest = weights_digest(model)
    # as `disable_adapter` does, which in peft 0.21 stumbles over classifiers
    model.forward = model.base_model.forward
    assert weights_digest(model) != digest
    del model.forward
    assert weights_digest(model) == digest


def test_both_copies_of_the_head_are_left_out_under_peft():
    model = adapted()
    head = anatomy(model).head
    digest = weights_digest(model, without=[head])
    for name, parameter in model.named_parameters():
        if "classifier" in name:
            nn.init.normal_(parameter)
    assert weights_digest(model, without=[head]) == digest
    copy = next(name for name, _ in model.named_modules() if name.endswith("modules_to_save.default"))
    assert weights_digest(model, without=[copy]) == digest


def test_an_adapter_that_was_saved_and_loaded(tmp_path):
    from peft import PeftModel

    model = lora(seeded(tiny_bert), ["query"], "classifier", init_lora_weights=False, task_type="SEQ_CLS")
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(seeded(tiny_bert), tmp_path)
    head = anatomy(model).head
    assert weights_digest(loaded, without=[head]) == weights_digest(model, without=[head])


def test_a_model_of_another_family_is_another():
    digests = [weights_digest(seeded(build)) for build in (tiny_bert, tiny_gpt2, tiny_vit, tiny_resnet)]
    assert len(set(digests)) == 4
