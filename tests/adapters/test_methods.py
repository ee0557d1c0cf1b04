"""Words for PEFT's methods, and the errors about them."""

from __future__ import annotations

import sys

import pytest

from hf_transfer.adapters.methods import METHODS, make_config, method_of, method_of_config, peft
from hf_transfer.callbacks.rank_allocation import STEPS_OF_THE_RUN


# What a config cannot be made without.
NEEDED = {"vblora": {"num_vectors": 4, "vector_length": 4}}


@pytest.mark.parametrize("word", METHODS)
def test_every_word_makes_a_config_of_its_class(word):
    config = make_config(word, NEEDED.get(word, {}))
    assert type(config).__name__ == METHODS[word].config
    assert all(getattr(config, key) == value for key, value in METHODS[word].options.items())
    assert config.is_prompt_learning == METHODS[word].is_prompt


def test_options_win_over_what_the_word_means():
    assert make_config("lora", {"r": 3, "lora_alpha": 5}).r == 3
    assert make_config("pissa", {"init_lora_weights": "pissa_niter_4"}).init_lora_weights == "pissa_niter_4"
    assert make_config("adalora", {}).total_step == STEPS_OF_THE_RUN


def test_an_unknown_option_names_near_ones():
    with pytest.raises(ValueError, match=r"`rnak` is no option of ia3.*would not be the one.*It has.*feedforward"):
        make_config("ia3", {"rnak": 3})
    with pytest.raises(ValueError, match=r"`lora_alhpa` is no option of dora.*Near it are lora_alpha"):
        make_config("dora", {"lora_alhpa": 3})


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("bitfit", 'Nearest is "beft"'),
        ("bottleneck", "library `adapters`"),
        ("eva", "initialize_lora_eva_weights"),
        ("lora+", "Near it are"),
        ("LoRA", "Near it are lora"),
        ("qlora", "quantization_config"),
        ("zzzzzz", "There are adalora"),
    ],
)
def test_an_unknown_word_lists_what_there_is(word, hint):
    with pytest.raises(ValueError, match=f"`{word[:4]}.*no method with a word.*") as error:
        method_of(word)
    assert hint in str(error.value)
    assert "There are adalora" in str(error.value)


def test_the_method_of_a_config():
    from peft import AdaLoraConfig, IA3Config, LoraConfig, PolyConfig

    assert method_of_config(LoraConfig()) is METHODS["lora"]
    assert method_of_config(LoraConfig(init_lora_weights="gaussian")) is METHODS["lora"]
    assert method_of_config(LoraConfig(init_lora_weights="pissa_niter_4")) is METHODS["pissa"]
    assert method_of_config(AdaLoraConfig(total_step=9)) is METHODS["adalora"]
    assert method_of_config(LoraConfig(init_lora_weights="olora")) is METHODS["olora"]
    assert method_of_config(LoraConfig(use_dora=True)) is METHODS["dora"]
    assert method_of_config(IA3Config()) is METHODS["ia3"]
    assert method_of_config(PolyConfig()) is None


def test_without_peft_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"not installed.*pip install \"hf-transfer-learning\[recipes\]\""):
        peft()


def test_a_method_of_a_later_peft(monkeypatch):
    import peft as library

    monkeypatch.delattr(library, "HiraConfig")
    with pytest.raises(ValueError, match=r"has no `HiraConfig`.*later version.*pip install -U peft"):
        make_config("hira", {})
