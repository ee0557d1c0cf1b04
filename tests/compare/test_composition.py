"""A loss from a YAML file."""

from __future__ import annotations

import pytest

from hf_transfer.compare.composition import read_loss
from hf_transfer.domain_adaptation.methods import VOCABULARY


def loss(tmp_path, text, name="mine.yaml"):
    (tmp_path / name).write_text(text)
    return read_loss(tmp_path / name, VOCABULARY)


def test_weights_options_and_defaults(tmp_path):
    method = loss(
        tmp_path, "cdan: {weight: 0.5, entropy_conditioning: true}\nmcc: 1e-1\nim:\nadabn:\nkmm: {clip: null}\n"
    )
    assert method.name == "mine"
    cdan, mcc, im = method.objectives(num_domains=2)
    assert (cdan.weight, cdan.entropy_conditioning, mcc.weight) == (0.5, True, 0.1)
    assert im.weight == type(im)().weight
    assert method.weighting.clip is None
    assert method.description()["mcc"] == {"weight": 0.1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dannn: 1.0", "mine.yaml` names `dannn`, which is no method.*Did you mean `dann`"),
        ("mcc: {temprature: 2}", "gives `mcc` the option `temprature`.*Did you mean `temperature`"),
        ("mcc: heavy", "gives `mcc` `heavy`, a str, which is neither a weight nor options.*Write `mcc: 1.0`"),
        ("mcc: true", "neither a weight nor options"),
        ("adabn: 0.5", "gives `adabn` the option `weight`"),
        ("mcc: -1", "weight=-1"),
        ("[mcc]", r"holds `\['mcc'\]`, a list, not methods"),
        ("", "holds nothing, not methods"),
        ("mcc: {a", "is no YAML"),
        ("mcc: 1\nminimum_class_confusion: 1", "are one class"),
    ],
)
def test_what_is_no_loss(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        loss(tmp_path, text)


def test_no_file_and_a_file_called_like_a_method(tmp_path):
    with pytest.raises(FileNotFoundError, match="`--loss .*none.yaml`: there is no such file.*Write one"):
        read_loss(tmp_path / "none.yaml", VOCABULARY)
    with pytest.raises(ValueError, match="is called like the method `dann`.*Rename"):
        loss(tmp_path, "mcc: 1", name="dann.yaml")
