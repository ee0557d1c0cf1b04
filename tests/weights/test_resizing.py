"""Position tables on other grids, and tables by rows."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    CLIPVisionConfig,
    CLIPVisionModel,
    DeiTConfig,
    DeiTForImageClassification,
)

from hf_transfer.weights import transfer_parameters
from hf_transfer.weights.resizing import interpolate_positions
from tests.models import bert_config, tiny_bert, tiny_gpt2, tiny_token_bert, tiny_vit


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "patch_size": 4}


def cubic(distance: float) -> float:
    """Keys' kernel with a = -0.75, which torch and OpenCV take."""
    x, a = abs(distance), -0.75
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def naive(grid: list[list[float]], rows: int, columns: int) -> list[list[float]]:
    """Bicubic interpolation of one channel, pixel by pixel in float64."""

    def taps(size: int, wanted: int, place: int) -> list[tuple[int, float]]:
        centre = (place + 0.5) * size / wanted - 0.5
        first = math.floor(centre)
        return [(min(max(k, 0), size - 1), cubic(centre - k)) for k in range(first - 1, first + 3)]

    return [
        [
            sum(wr * wc * grid[r][c] for r, wr in taps(len(grid), rows, i) for c, wc in taps(len(grid[0]), columns, j))
            for j in range(columns)
        ]
        for i in range(rows)
    ]


@pytest.mark.parametrize(("old", "new"), [((2, 2), (4, 4)), ((4, 4), (2, 2)), ((3, 5), (4, 2)), ((1, 1), (3, 3))])
@pytest.mark.parametrize("before", [0, 1, 2])
def test_against_pixel_by_pixel_interpolation(old, new, before):
    table = torch.randn(1, before + math.prod(old), 3)
    result = interpolate_positions(table, old, new)
    assert torch.equal(result[:, :before], table[:, :before])
    for channel in range(3):
        grid = table[0, before:, channel].reshape(old).double().tolist()
        expected = torch.tensor(naive(grid, *new))
        torch.testing.assert_close(result[0, before:, channel].reshape(new), expected, rtol=1e-5, atol=1e-5)


def test_closed_forms():
    constant = torch.full((1, 1 + 9, 2), 1.25)
    torch.testing.assert_close(interpolate_positions(constant, (3, 3), (5, 7)), torch.full((1, 36, 2), 1.25))
    table = torch.randn(1, 10, 4)
    torch.testing.assert_close(interpolate_positions(table, (3, 3), (3, 3)), table)


def test_half_precision_is_interpolated_in_float32_and_rounded_once():
    table = torch.randn(1, 5, 4).bfloat16()
    result = interpolate_positions(table, (2, 2), (4, 4))
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, interpolate_positions(table.float(), (2, 2), (4, 4)).bfloat16())


def test_a_vit_for_larger_images_is_the_one_that_interpolates_on_the_fly():
    small = tiny_vit().eval()
    torch.nn.init.normal_(small.vit.embeddings.position_embeddings)
    large = tiny_vit_of(16).eval()
    report = transfer_parameters(large, small)
    (entry,) = report.resized
    assert entry.name == "vit.embeddings.position_embeddings" and entry.part == "embeddings"
    assert entry.reason == "bicubic, 2 x 2 to 4 x 4 patches"
    assert not report.skipped and report.coverage == 1
    pixels = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(
        large(pixel_values=pixels).logits, small(pixel_values=pixels, interpolate_pos_encoding=True).logits
    )


def tiny_vit_of(size: int):
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(ViTConfig(image_size=size, num_labels=3, **{**SMALL, "num_hidden_layers": 2}))


def test_images_that_are_not_square():
    def vit(size):
        from transformers import ViTConfig, ViTForImageClassification

        return ViTForImageClassification(ViTConfig(image_size=size, **SMALL))

    report = transfer_parameters(vit((8, 16)), vit((16, 12)))
    assert [entry.reason for entry in report.resized] == ["bicubic, 4 x 3 to 2 x 4 patches"]


def test_two_tokens_before_the_grid():
    def deit(size):
        return DeiTForImageClassification(DeiTConfig(image_size=size, **SMALL))

    first, second = deit(8), deit(12)
    torch.nn.init.normal_(first.deit.embeddings.position_embeddings)
    report = transfer_parameters(second, first)
    assert [entry.reason for entry in report.resized] == ["bicubic, 2 x 2 to 3 x 3 patches"]
    old, new = first.deit.embeddings.position_embeddings, second.deit.embeddings.position_embeddings
    assert torch.equal(new[:, :2], old[:, :2]) and new.shape == (1, 11, 16)


def test_another_number_of_tokens_before_the_grid_is_no_resizing():
    vit, deit = tiny_vit_of(12), DeiTForImageClassification(DeiTConfig(image_size=8, **SMALL))
    state = {name.replace("vit.", "deit."): value for name, value in vit.state_dict().items()}
    report = transfer_parameters(deit, state)
    assert not report.resized
    assert "another shape" in {e.name: e.reason for e in report.skipped}["deit.embeddings.position_embeddings"]


def test_tables_in_an_embedding_module():
    def clip(size):
        return CLIPVisionModel(CLIPVisionConfig(image_size=size, **SMALL))

    report = transfer_parameters(clip(16), clip(8))
    assert [entry.reason for entry in report.resized] == ["bicubic, 2 x 2 to 4 x 4 patches"]


def test_without_leave_a_table_of_another_size_stays():
    model = tiny_vit_of(16)
    before = model.vit.embeddings.position_embeddings.clone()
    report = transfer_parameters(model, tiny_vit(), resize=())
    assert torch.equal(model.vit.embeddings.position_embeddings, before) and not report.resized
    (entry,) = report.skipped
    assert entry.reason == "another shape: (1, 5, 16) in the checkpoint, (1, 17, 16) here"


def test_relative_position_biases_are_not_grids():
    def beit(size):
        return BeitForImageClassification(BeitConfig(image_size=size, use_relative_position_bias=True, **SMALL))

    report = transfer_parameters(beit(16), beit(8))
    assert {entry.name.rpartition(".")[2] for entry in report.resized} == set()
    assert any("relative_position_bias_table" in e.name and "another shape" in e.reason for e in report.skipped)


@pytest.mark.parametrize(("old", "new", "reason"), [
    (32, 12, "first 12 of 32 rows"), (12, 32, "first 12 of 12 rows; 20 rows stay as they are")
])  # fmt: skip
def test_positions_of_text_by_rows(old, new, reason):
    source, model = tiny_bert(max_position_embeddings=old), tiny_bert(max_position_embeddings=new)
    before = model.bert.embeddings.position_embeddings.weight.detach().clone()
    report = transfer_parameters(model, source)
    assert [entry.reason for entry in report.resized] == [reason]
    now, there = (of.bert.embeddings.position_embeddings.weight for of in (model, source))
    assert torch.equal(now[:12], there[:12]) and torch.equal(now[12:], before[12:])


def test_positions_of_another_kind_of_text_model_are_not_taken_by_rows():
    """RoBERTa's first token reads row 2 of its table."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    config = bert_config().to_dict()
    model = RobertaForSequenceClassification(
        RobertaConfig(**{key: config[key] for key in SMALL if key in config and key != "patch_size"}, vocab_size=50,
                      max_position_embeddings=34, type_vocab_size=2)
    )  # fmt: skip
    report = transfer_parameters(model, tiny_bert())
    assert not report.resized
    assert (
        "another shape" in {e.name: e.reason for e in report.skipped}["roberta.embeddings.position_embeddings.weight"]
    )


def test_vocabulary_only_on_request():
    source, model = tiny_bert(vocab_size=40), tiny_token_bert(vocab_size=60)
    before = model.bert.embeddings.word_embeddings.weight.detach().clone()
    report = transfer_parameters(model, source)
    assert "word_embeddings" in report.skipped[0].name and torch.equal(
        model.bert.embeddings.word_embeddings.weight, before
    )
    report = transfer_parameters(model, source, resize=("vocabulary",))
    now = model.bert.embeddings.word_embeddings.weight
    assert torch.equal(now[:40], source.bert.embeddings.word_embeddings.weight) and torch.equal(now[40:], before[40:])
    assert [entry.reason for entry in report.resized] == ["first 40 of 40 rows; 20 rows stay as they are"]


def test_vocabularies_shrink_too_and_gpt2_calls_them_otherwise():
    source, model = tiny_gpt2(), tiny_gpt2()
    model.resize_token_embeddings(20)
    report = transfer_parameters(model, source, resize=("vocabulary",))
    assert [entry.name for entry in report.resized] == ["transformer.wte.weight"]
    assert torch.equal(model.transformer.wte.weight, source.transformer.wte.weight[:20])


def test_other_widths_are_never_resized():
    source, model = tiny_bert(intermediate_size=64), tiny_bert()
    report = transfer_parameters(model, source, resize=("positions", "vocabulary"))
    layers = [f"bert.encoder.layer.{number}" for number in range(3)]
    left = ["intermediate.dense.weight", "intermediate.dense.bias", "output.dense.weight", "output.dense.bias"]
    assert not report.resized and {e.name for e in report.skipped} == {f"{a}.{b}" for a in layers for b in left}


def test_a_bias_is_not_copied_without_its_weight():
    """It would fit in shape, but belongs to other numbers."""
    model = tiny_bert()
    report = transfer_parameters(model, tiny_bert(intermediate_size=64))
    reasons = {entry.name: entry.reason for entry in report.skipped}
    assert reasons["bert.encoder.layer.0.output.dense.bias"] == "the weight beside it has another shape"
    assert reasons["bert.encoder.layer.0.intermediate.dense.bias"].startswith("another shape: (64,)")


@pytest.mark.parametrize("resize", ["positions", ("position",), ("positions", "width")])
def test_unknown_tables(resize):
    with pytest.raises(ValueError, match='names no table.*Give a tuple of "positions" and "vocabulary"'):
        transfer_parameters(tiny_bert(), tiny_bert(), resize=resize)
