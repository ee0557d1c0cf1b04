"""Blocks drawn anew: exactly those, as the model draws them, by the seed, or nothing at all."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BeitConfig,
    BeitForImageClassification,
    BertForSequenceClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    Dinov2Config,
    Dinov2ForImageClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    SwinConfig,
    SwinForImageClassification,
    T5Config,
    T5ForSequenceClassification,
)

from hf_transfer import anatomy
from hf_transfer.weights import reinitialize_blocks
from hf_transfer.weights.reinitialization import draw_anew
from tests.models import TINY, batch_for, lora, tiny_bert, tiny_llama, tiny_resnet, tiny_vit


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
OTHERS = {
    "albert": lambda: AlbertForSequenceClassification(AlbertConfig(vocab_size=20, embedding_size=8, **SMALL)),
    "beit": lambda: BeitForImageClassification(BeitConfig(image_size=8, patch_size=4, **SMALL)),
    "convnext": lambda: ConvNextForImageClassification(
        ConvNextConfig(hidden_sizes=[4, 8], depths=[1, 2], num_stages=2)
    ),
    "deberta": lambda: DebertaV2ForSequenceClassification(
        DebertaV2Config(vocab_size=20, relative_attention=True, pos_att_type=["c2p", "p2c"], **SMALL)
    ),
    "dinov2": lambda: Dinov2ForImageClassification(Dinov2Config(image_size=8, patch_size=4, **SMALL)),
    "distilbert": lambda: DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=20, dim=16, n_layers=2, n_heads=2, hidden_dim=32)
    ),
    "mobilenet_v2": lambda: MobileNetV2ForImageClassification(MobileNetV2Config(depth_multiplier=0.1)),
    "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(vocab_size=20, **SMALL)),
    "swin": lambda: SwinForImageClassification(
        SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4)
    ),
    "t5": lambda: T5ForSequenceClassification(
        T5Config(vocab_size=20, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    ),
}


def marked(model: nn.Module) -> dict[str, torch.Tensor]:
    """Set everything to values that no initialiser gives, and return them."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(7 + torch.rand(tensor.shape))
            elif tensor.ndim == 0:
                tensor.fill_(41)
    return {name: tensor.detach().clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def differing(model: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    now = (*model.named_parameters(), *model.named_buffers())
    return {name for name, tensor in now if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("make", [*TINY.values(), *OTHERS.values()], ids=[*TINY, *OTHERS])
@pytest.mark.parametrize("count", [0, 1])
def test_exactly_the_listed_tensors_change_and_all_their_values(make, count):
    model = make()
    parts = anatomy(model).parts()
    last = max(int(part[6:]) for part in parts if part.startswith("block."))
    chosen = [*(parts[f"block.{last}"] if count else []), *parts["neck"]]
    before = marked(model)
    if not chosen:
        with pytest.raises(ValueError, match="count=0 and neck=True select nothing"):
            reinitialize_blocks(model, count)
        return
    names = reinitialize_blocks(model, count)
    assert len(names) == len(set(names)) and differing(model, before) == set(names)
    assert {name for name in names if name in dict(model.named_parameters())} == set(chosen)
    now = dict(model.named_parameters())
    for name in chosen:  # every single number, not only some
        assert now[name].isfinite().all() and (now[name] != before[name]).all(), name


def test_the_neck_can_be_left_alone():
    model = tiny_bert()
    before = marked(model)
    names = reinitialize_blocks(model, 1, neck=False)
    assert names and all(name.startswith("bert.encoder.layer.2.") for name in names)
    assert differing(model, before) == set(names)


def test_all_blocks():
    model = tiny_bert()
    before = marked(model)
    names = reinitialize_blocks(model, 3)
    assert [name for name in names if ".layer.0." in name] and differing(model, before) == set(names)
    assert not [name for name in names if "embeddings" in name or name.startswith("classifier")]


def test_values_have_the_distribution_of_the_config():
    model = tiny_bert(hidden_size=64, intermediate_size=256, initializer_range=0.3)
    marked(model)
    reinitialize_blocks(model, 1)
    layer = model.bert.encoder.layer[2]
    weight = layer.intermediate.dense.weight
    assert weight.std().item() == pytest.approx(0.3, rel=0.05)
    assert abs(weight.mean().item()) < 5 * 0.3 / math.sqrt(weight.numel())
    assert not layer.intermediate.dense.bias.any()
    assert (layer.output.LayerNorm.weight == 1).all() and not layer.output.LayerNorm.bias.any()


@pytest.mark.parametrize("make", [tiny_bert, tiny_vit, tiny_resnet, tiny_llama])
def test_the_global_seed_decides(make):
    models = [make(), make(), make()]
    for model in models:
        model.load_state_dict(models[0].state_dict())
    for model, seed in zip(models, (1, 1, 2), strict=True):
        torch.manual_seed(seed)
        names = reinitialize_blocks(model, 1)
    same, other = (
        {name for name in names if not torch.equal(models[0].state_dict()[name], model.state_dict()[name])}
        for model in models[1:]
    )
    assert not same and other


def test_models_that_were_loaded_from_files_are_drawn_anew(tmp_path):
    """`from_pretrained` marks what it loads as initialised, and transformers' initialisers leave that alone."""
    tiny_bert().save_pretrained(tmp_path)
    model = BertForSequenceClassification.from_pretrained(tmp_path)
    weight = model.bert.encoder.layer[2].output.dense.weight
    assert getattr(weight, "_is_hf_initialized", False), "nothing to guard against any more: simplify `_redraw`"
    before = marked(model)
    names = reinitialize_blocks(model, 1)
    assert differing(model, before) == set(names)
    assert not model.bert.encoder.layer[2].output.dense.bias.any()  # by the model's initialiser, not by torch's
    assert weight.std().item() == pytest.approx(model.config.initializer_range, rel=0.2)
    assert weight._is_hf_initialized  # as before: nothing initialises it a second time by accident
    model.save_pretrained(tmp_path / "again")
    again = BertForSequenceClassification.from_pretrained(tmp_path / "again")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_statistics_of_batch_norm_start_anew():
    model = tiny_resnet()
    model.train()(pixel_values=batch_for(model)["pixel_values"])
    names = reinitialize_blocks(model, 1)
    statistics = {
        name: model.get_buffer(name)
        for name in names
        if name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")
    }
    assert len(statistics) == 6  # two norms in the last block
    for name, value in statistics.items():
        assert value.float().eq(1.0 if name.endswith("running_var") else 0.0).all(), name
    assert model.resnet.embedder.embedder.normalization.num_batches_tracked == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types(dtype):
    model = tiny_bert().to(dtype)
    before = marked(model)
    names = reinitialize_blocks(model, 1)
    assert differing(model, before) == set(names)
    assert {model.get_parameter(name).dtype for name in names} == {dtype}


def test_plain_layers_without_an_initialiser_of_the_model_use_their_own():
    model = tiny_bert()
    model.bert.encoder.layer[2].extra = nn.Bilinear(2, 2, 2)  # no `_init_weights` knows it
    before = marked(model)
    names = reinitialize_blocks(model, 1)
    assert "bert.encoder.layer.2.extra.weight" in names and differing(model, before) == set(names)


def broken(self, module):
    if isinstance(module, nn.BatchNorm2d):
        raise OSError("half way")
    nn.init.zeros_(module.weight) if isinstance(module, nn.Conv2d) else None


@pytest.mark.parametrize("fail", ["missing", "raising"])
def test_nothing_changes_where_something_has_no_initialiser(monkeypatch, fail):
    model = tiny_resnet()
    model.resnet.encoder.stages[1].layers[1].scale = nn.Parameter(torch.ones(3))
    before = marked(model)
    error, message = ValueError, "no initialiser for resnet.encoder.stages.1.layers.1.scale.*neck=False"
    if fail == "raising":
        monkeypatch.setattr(type(model.resnet), "_init_weights", broken)
        error, message = OSError, "half way"
    with pytest.raises(error, match=message):
        reinitialize_blocks(model, 1)
    assert not differing(model, before)


def test_a_tied_parameter_of_a_lower_part_keeps_its_values():
    model = tiny_bert()
    layers = model.bert.encoder.layer
    layers[2].output.dense.weight = layers[0].output.dense.weight
    before = marked(model)
    names = reinitialize_blocks(model, 1)
    assert "bert.encoder.layer.2.output.dense.weight" not in names and differing(model, before) == set(names)


@pytest.mark.parametrize("count", [4, -1])
def test_more_blocks_than_there_are_and_fewer_than_none(count):
    with pytest.raises(ValueError, match=f"count={count}, but the model has 3 blocks.*Give 0 to 3"):
        reinitialize_blocks(tiny_bert(), count)


def test_nothing_selected():
    with pytest.raises(ValueError, match="count=0 and neck=False select nothing.*positive"):
        reinitialize_blocks(tiny_bert(), 0, neck=False)


def test_adapters_are_refused():
    model = lora(tiny_bert(), ["query"], "classifier")
    with pytest.raises(ValueError, match="carries adapters of PEFT: its base layers are frozen.*Fine-tune in full"):
        reinitialize_blocks(model, 1)


def test_frozen_parameters_are_refused():
    model = tiny_bert()
    model.bert.encoder.layer[2].output.dense.weight.requires_grad_(False)
    before = marked(model)
    with pytest.raises(
        ValueError, match=r"1 parameters to draw anew are frozen, bert.encoder.layer.2.output.*FreezeBackbone"
    ):
        reinitialize_blocks(model, 1)
    assert not differing(model, before)
    assert reinitialize_blocks(model, 0)  # the pooler is not


def test_wrapped_models_are_refused():
    with pytest.raises(TypeError, match="wrapped in DataParallel.*bare model"):
        reinitialize_blocks(nn.DataParallel(tiny_bert()), 1)


def test_a_model_on_the_meta_device_is_refused():
    with torch.device("meta"):
        model = tiny_bert()
    with pytest.raises(ValueError, match="is on the meta device.*real weights"):
        reinitialize_blocks(model, 1)


@pytest.mark.parametrize("make", [tiny_bert, tiny_vit, tiny_resnet])
def test_the_model_trains_afterwards(make):
    model = make().train()
    names = reinitialize_blocks(model, 1)
    batch = {key: value for key, value in batch_for(model).items() if key != "domain"}
    model(**batch).loss.backward()
    assert all(model.get_parameter(name).grad is not None for name in names if name in dict(model.named_parameters()))


# --- single tensors


def test_only_the_named_tensors_are_drawn_and_the_seed_decides():
    model = tiny_resnet()
    names = [name for name in model.state_dict() if name.startswith(("classifier", "resnet.encoder.stages.1"))]
    names = [name for name in names if "num_batches" not in name]
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.fill_(7)
    torch.manual_seed(3)
    drawn = draw_anew(model, set(names))
    first = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert drawn == names  # in the order of the model
    for name, tensor in first.items():
        if tensor.is_floating_point():
            assert bool((tensor == 7).all()) == (name not in names), name
    torch.manual_seed(3)
    draw_anew(model, list(reversed(names)))
    assert all(torch.equal(first[name], tensor) for name, tensor in model.state_dict().items())
    torch.manual_seed(4)
    draw_anew(model, names)
    assert not torch.equal(first["classifier.1.weight"], model.state_dict()["classifier.1.weight"])


def test_nothing_to_draw_draws_nothing():
    model = tiny_bert()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert draw_anew(model, ()) == [] and draw_anew(model, {"no.such.weight"}) == []
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
