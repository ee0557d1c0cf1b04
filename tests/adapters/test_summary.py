"""The table of what an adapter was put into."""

from __future__ import annotations

import pytest

from hf_transfer import adapter_summary, add_adapter
from tests.models import tiny_bert, tiny_llama, tiny_resnet


def _rows(text: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split() for line in text.splitlines()[2:]}


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (tiny_bert, {"method": "lora"}),
        (tiny_bert, {"method": "ia3", "train_blocks": 1}),
        (tiny_resnet, {"method": "lora"}),
        (tiny_resnet, {"method": "ln_tuning"}),
        (tiny_bert, {"method": "prefix_tuning", "num_virtual_tokens": 3}),
    ],
)
def test_the_numbers_are_those_of_the_model(make, options):
    model = add_adapter(make(), **options)
    text = adapter_summary(model)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    spare = sum(p.numel() for name, p in model.named_parameters() if "original_module" in name)
    total = sum(p.numel() for p in model.parameters()) - spare
    assert f"{trainable:,} of {total:,} parameters train ({100 * trainable / total:.2f}%)" in text
    rows = _rows(text)
    assert sum(int(row[-2].replace(",", "")) for row in rows.values()) == trainable


def test_blocks_alike_share_a_line():
    rows = _rows(adapter_summary(add_adapter(tiny_bert(), train_blocks=1)))
    assert list(rows) == ["block.0-1", "block.2", "neck", "head"]
    assert " ".join(rows["block.0-1"]).startswith("block.0-1 8 attention, 4 mlp - ")
    assert rows["block.2"][1:3] == ["-", "layer.2"]
    assert rows["head"][1:3] == ["-", "classifier"]


def test_each_adapter_has_its_own_table():
    model = add_adapter(tiny_llama())
    add_adapter(model, name="other", target_modules="mlp", r=2)
    assert "6 mlp" in adapter_summary(model) and "attention" not in adapter_summary(model)
    assert "lora `default`" in adapter_summary(model, name="default")
    assert "8 attention, 6 mlp" in adapter_summary(model, name="default")


def test_what_has_no_adapter():
    with pytest.raises(ValueError, match=r"ForSequenceClassification has no adapter.*nothing to sum up.*Pass what"):
        adapter_summary(tiny_bert())
    with pytest.raises(ValueError, match=r"no adapter `other`: it has default.*Pass one of these"):
        adapter_summary(add_adapter(tiny_bert()), name="other")
