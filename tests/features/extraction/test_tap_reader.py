from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AlbertConfig, AlbertForSequenceClassification, BertModel, CLIPConfig, XLNetConfig, XLNetModel

from hf_transfer.features.extraction.tap_reader import TapReader, evaluating, forward_parameters, model_inputs
from hf_transfer.features.extraction.taps import find_taps
from tests.models import TINY, batch_for, bert_config, lora, tiny_bert, tiny_llama, tiny_resnet, tiny_vit


def inputs_of(model: nn.Module, rows: int = 4) -> dict[str, Any]:
    return {n: v for n, v in batch_for(model, rows).items() if n not in ("labels", "domain")}


@pytest.mark.parametrize("kind", TINY)
def test_what_follows_the_last_tap_is_not_computed(kind):
    model = TINY[kind]().eval()
    inputs = inputs_of(model)
    calls: list[str] = []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    with TapReader(model, find_taps(model, 0)) as reader, torch.inference_mode():
        first = reader.read(inputs)
        whole = len(calls)
        second = reader.read(inputs)
    assert len(calls) - whole < whole and "" not in calls[whole:]
    torch.testing.assert_close(second["block.0"], first["block.0"])


def test_a_block_that_runs_repeatedly_is_read_when_it_runs_last():
    config = AlbertConfig(
        vocab_size=50,
        embedding_size=4,
        hidden_size=8,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=8,
        pad_token_id=0,
    )
    model = AlbertForSequenceClassification(config).eval()
    inputs = inputs_of(tiny_bert())
    with torch.no_grad():
        hidden = model.albert(**inputs).last_hidden_state
    with TapReader(model, find_taps(model, 0, "cls")) as reader, torch.inference_mode():
        for _ in range(3):
            torch.testing.assert_close(reader.read(inputs)["block.0"], hidden[:, 0])


def test_layers_with_the_tokens_first():
    config = XLNetConfig(vocab_size=50, d_model=8, n_layer=2, n_head=2, d_inner=8)
    model = XLNetModel(config).eval()
    inputs = {"input_ids": torch.randint(5, 50, (3, 3))}  # as many rows as tokens
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    with TapReader(model, find_taps(model, -1, "cls")) as reader, torch.inference_mode():
        torch.testing.assert_close(reader.read(inputs)["block.1"], hidden[:, 0])


def test_hooks_are_gone_and_the_model_computes_as_before():
    model = lora(tiny_bert(), ["query"], "classifier").eval()
    inputs = inputs_of(model)
    with torch.no_grad():
        before = model(**inputs).logits
    with TapReader(model, find_taps(model, ["head", 0])) as reader, torch.inference_mode():
        for _ in range(2):
            reader.read(inputs)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, before)


def test_modes_are_restored_module_by_module():
    model = tiny_bert().train()
    model.bert.eval()
    model.bert.pooler.train()
    modes = {name: module.training for name, module in model.named_modules()}
    with pytest.raises(KeyError), evaluating(model):
        assert torch.is_inference_mode_enabled() and not any(module.training for module in model.modules())
        raise KeyError
    assert modes == {name: module.training for name, module in model.named_modules()}
    assert not torch.is_inference_mode_enabled()


def test_inputs_are_cast_to_the_type_of_the_weights():
    model = tiny_vit().bfloat16().eval()
    with TapReader(model, find_taps(model, "head")) as reader, torch.inference_mode():
        found = reader.read(inputs_of(model))["features"]
    assert reader.low_precision and isinstance(found, torch.Tensor) and found.dtype == torch.float32


def test_half_precision_on_a_cpu_runs_in_single():
    model = tiny_bert().eval()
    for dtype, low in (("float32", False), ("float16", False), ("bfloat16", True)):
        with TapReader(model, find_taps(model, "head"), dtype=dtype) as reader:
            assert reader.low_precision is low


def test_names_that_the_model_reads():
    assert {"input_ids", "attention_mask", "token_type_ids"} <= model_inputs(tiny_bert())
    assert not {"labels", "kwargs", "return_dict"} & model_inputs(tiny_bert())
    assert model_inputs(lora(tiny_bert(), ["query"])) == model_inputs(tiny_bert())
    assert "use_cache" in forward_parameters(tiny_llama())


def test_a_tap_that_the_forward_misses_is_named():
    model = tiny_bert().eval()
    with TapReader(model, find_taps(model, 2)) as reader, torch.inference_mode():
        model.bert.encoder.layer = model.bert.encoder.layer[:2]
        with pytest.raises(RuntimeError, match=r"did not pass through `bert.encoder.layer.2`, block.2 of the model"):
            reader.read(inputs_of(model))


def test_poolings_that_do_not_suit_are_refused():
    for make, taps, pooling, message in (
        (tiny_resnet, 0, "cls", "has no class token|no class token"),
        (tiny_vit, 0, "last", "the last token is the patch"),
        (tiny_bert, "head", "last", "the model has pooled before"),
    ):
        model = make().eval()
        with TapReader(model, find_taps(model, taps, pooling)) as reader, torch.inference_mode():
            with pytest.raises(ValueError, match=message):
                reader.read(inputs_of(model))


def test_a_base_model_of_several_towers_has_no_output_of_its_own():
    from transformers import CLIPModel

    config = CLIPConfig(
        text_config={
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 8,
            "vocab_size": 50,
        },
        vision_config={
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 8,
            "image_size": 8,
            "patch_size": 4,
        },
        projection_dim=8,
    )
    model = CLIPModel(config).eval()
    inputs = {"input_ids": torch.randint(1, 40, (2, 5)), "pixel_values": torch.randn(2, 3, 8, 8)}
    with TapReader(model, find_taps(model, "head")) as reader, torch.inference_mode():
        with pytest.raises(ValueError, match="CLIPModel returns .* and no `last_hidden_state`"):
            reader.read(inputs)


def test_the_output_of_a_base_model():
    model = BertModel(bert_config()).eval()
    inputs = inputs_of(tiny_bert())
    with torch.no_grad():
        output = model(**inputs)
    mask = inputs["attention_mask"]
    for pooling, expected in ((None, output.pooler_output), ("cls", output.last_hidden_state[:, 0])):
        with TapReader(model, find_taps(model, "head", pooling)) as reader, torch.inference_mode():
            torch.testing.assert_close(reader.read(inputs, mask)["features"], expected)
