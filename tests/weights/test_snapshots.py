"""What a snapshot holds, and that it comes back from a file."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hf_transfer import DomainAdversarial, attach
from hf_transfer.weights import WeightSnapshot, snapshot
from hf_transfer.weights.snapshots import restore
from tests.models import lora, tiny_bert, tiny_llama, tiny_resnet


def test_trainable_parameters_and_persistent_buffers_only():
    model = tiny_resnet()
    model.resnet.embedder.requires_grad_(False)
    model.register_buffer("constant", torch.ones(3), persistent=False)
    taken = snapshot(model)
    assert taken.parameters == {name for name, p in model.named_parameters() if p.requires_grad}
    assert taken.tensors.keys() - taken.parameters == {
        name for name, _ in model.named_buffers() if name != "constant"
    }  # fmt: skip


def test_constants_of_rotary_embeddings_are_not_kept():
    assert not [name for name in snapshot(tiny_llama()).tensors if "inv_freq" in name]


def test_under_lora_only_factors_and_saved_modules():
    taken = snapshot(lora(tiny_bert(), ["query"], "classifier"))
    assert taken.tensors and all("lora_" in name or "modules_to_save" in name for name in taken.tensors)


def test_objectives_are_left_out():
    model = tiny_bert()
    attach(model, [DomainAdversarial(hidden_size=4)])
    assert not [name for name in snapshot(model).tensors if "transfer_objectives" in name]


def test_later_changes_of_the_model_do_not_reach_it():
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    taken = snapshot(model)
    with torch.no_grad():
        model.weight.zero_()
    assert torch.equal(taken.tensors["weight"].float(), before)
    restore(model, taken)
    assert torch.equal(model.weight, before)


def test_published_half_precision_weights_take_half_the_memory():
    exact, rounded = snapshot(tiny_bert()), snapshot(tiny_bert().bfloat16().float())

    def size(taken):
        return sum(tensor.nbytes for tensor in taken.tensors.values())

    assert {tensor.dtype for tensor in rounded.tensors.values()} == {torch.bfloat16}
    assert size(rounded) < 0.6 * size(exact)


def test_counters_keep_their_type():
    taken = snapshot(tiny_resnet())
    assert taken.tensors["resnet.embedder.embedder.normalization.num_batches_tracked"].dtype == torch.int64


@pytest.mark.parametrize("make", [tiny_bert, tiny_resnet, lambda: lora(tiny_bert(), ["query"], "classifier")])
def test_from_a_file_bit_for_bit(tmp_path, make):
    taken = snapshot(make())
    taken.save(tmp_path / "start.safetensors")
    read = WeightSnapshot.load(tmp_path / "start.safetensors")
    assert read.parameters == taken.parameters and read.tensors.keys() == taken.tensors.keys()
    for name, tensor in taken.tensors.items():
        assert torch.equal(read.tensors[name], tensor) and read.tensors[name].dtype == tensor.dtype


def test_wrapped_and_empty_models_are_refused():
    with pytest.raises(TypeError, match="wrapped in DataParallel: a snapshot reads"):
        snapshot(nn.DataParallel(tiny_bert()))
    with torch.device("meta"), pytest.raises(ValueError, match="on the meta device: a snapshot would"):
        snapshot(tiny_bert())
