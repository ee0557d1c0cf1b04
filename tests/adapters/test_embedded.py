"""The embedded adapters: made once, refused when unknown; tests/recipes/test_load_adapter.py trains one."""

from __future__ import annotations

import pytest
from huggingface_hub import constants

from hf_transfer.adapters import embedded


@pytest.mark.parametrize("kind", ["sound", "", "../text"])
def test_unknown_kind(kind):
    with pytest.raises(ValueError, match="no embedded adapter `.*Pass `embedded:text`, `embedded:image` or `embed"):
        embedded.embedded_adapter(kind)


def test_made_once_and_whole(monkeypatch, tmp_path, bases):
    from tests.adapters.saved import adapted

    made = []

    def train(kind):
        made.append(kind)
        return adapted("text", bases["text"]), None

    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    monkeypatch.setattr(embedded, "resolve_name", lambda name: str(tmp_path / "source_text_0123456789ab"))
    monkeypatch.setattr(embedded, "_train", train)
    (tmp_path / "hf_transfer").mkdir()
    first, second = embedded.embedded_adapter("text"), embedded.embedded_adapter("text")
    assert first == second and made == ["text"]
    assert (first / "adapter_config.json").is_file() and first.name.startswith("adapter_text_0123456789ab_")
    assert [path.name for path in (tmp_path / "hf_transfer").iterdir()] == [first.name]
