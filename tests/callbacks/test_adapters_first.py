"""Adapters first, top blocks later: what trains, rests and moves while PEFT's copies of blocks are frozen."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hf_transfer import FreezeBackbone, GradualUnfreezing, UnfreezingSchedule, anatomy
from hf_transfer.adapters import add_adapter
from hf_transfer.callbacks.selection import select_parameters
from tests.callbacks.harness import Recorder, changed, copy_of, make_trainer, seeded
from tests.models import lora, tiny_bert, tiny_resnet


pytestmark = pytest.mark.slow

COPY = ".modules_to_save.default."
PHASES = """
phases:
  - train: [head, adapters]
  - {step: 2, train: [head, adapters, block.-1]}
  - {step: 4, train: all}
"""


def text() -> nn.Module:
    return add_adapter(seeded(tiny_bert), "lora", train_blocks=2, r=2, target_modules=["query", "value"])


def image() -> nn.Module:
    return add_adapter(seeded(tiny_resnet), "lora", train_blocks=1, r=2)


def train(folder, model, *callbacks, **options):
    recorder = Recorder()
    trainer = make_trainer(folder, model, *callbacks, recorder, max_steps=6, **options)
    trainer.train()
    return recorder.steps, recorder.weights


def of_block(names: set[str], number: int) -> set[str]:
    return {name for name in names if f".layer.{number}." in name}


def test_the_word_selects_adapters_wherever_they_are_and_no_copy():
    for model in (text(), image()):
        parts = anatomy(model).parts()
        adapters = select_parameters(parts, ["adapters"])
        assert adapters == {name for name, _ in model.named_parameters() if ".lora_" in name} != set()
        both = select_parameters(parts, ["adapters", "block.-1"])
        assert all(COPY in name or "original_module" in name for name in both - adapters)


# PEFT (0.21) says so of every norm that `ln_tuning` adapts.
@pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")
@pytest.mark.parametrize("method", ["dora", "ia3", "ln_tuning"])
def test_the_word_knows_methods_by_their_place(method):
    model = add_adapter(seeded(), method)
    adapters = select_parameters(anatomy(model).parts(), ["adapters"])
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert adapters and trained - adapters == {name for name in trained if COPY in name}


def test_the_word_knows_prompts():
    from peft import PromptTuningConfig, get_peft_model

    model = get_peft_model(seeded(), PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2))
    adapters = select_parameters(anatomy(model).parts(), ["adapters"])
    assert adapters == {"prompt_encoder.default.embedding.weight"}


def test_the_word_without_adapters_is_refused():
    with pytest.raises(
        ValueError, match=r"`adapters` selects nothing: .*put one in with add_adapter\(model, \"lora\"\)"
    ):
        select_parameters(anatomy(tiny_bert()).parts(), ["head", "adapters"])


@pytest.mark.parametrize("schedule", ["gradual", "phases"])
def test_adapters_train_from_the_start_and_copies_of_blocks_later(tmp_path, schedule):
    model = text()
    before = copy_of(model)
    if schedule == "gradual":
        callback = GradualUnfreezing(stages=3, first="adapters")
    else:
        (tmp_path / "phases.yaml").write_text(PHASES)
        callback = UnfreezingSchedule(tmp_path / "phases.yaml")
    steps, weights = train(tmp_path, model, callback)
    parts = anatomy(model).parts()
    adapters = {name for name in parts["block.0"] if ".lora_" in name}
    head = {name for name in parts["head"] if COPY in name}
    copies = [{name for name in parts[f"block.{number}"] if COPY in name} for number in range(3)]
    assert adapters and head and not copies[0] and copies[1] and copies[2]
    neck = {name for name in parts["neck"] if COPY in name}
    trains = [step["trains"] - neck for step in steps]
    assert trains[:2] == [adapters | head] * 2
    assert trains[2:4] == [adapters | head | copies[2]] * 2
    assert trains[4:] == [adapters | head | copies[2] | copies[1]] * 2
    frozen = (copies[1] | copies[2], copies[1], set())
    for step, now in enumerate(weights):
        moved = changed(before, now)
        still = frozen[step // 2]
        assert not moved & still, (step, moved & still)
        before = now
        assert not any("original_module" in name or "base_layer" in name for name in moved)
        # `query.bias` and the like move by rounding at most; weights must move
        awake = {name for name in trains[step] if name.endswith("weight") and name not in still}
        assert {name for name in awake if "lora_A" not in name} <= moved


def test_frozen_copies_rest_and_layers_with_adapters_do_not(tmp_path):
    steps, _ = train(tmp_path, text(), GradualUnfreezing(stages=3, first="adapters"))
    for number, step in enumerate(steps):
        for block in range(3):
            wanted = block == 1 and number < 4 or block == 2 and number < 2
            inside = [name for name in of_block(step["resting"], block) if COPY in f"{name}."]
            assert bool(inside) is wanted, (number, block)
        assert not of_block(step["resting"], 0)


def test_statistics_of_frozen_copies_stand_still(tmp_path):
    model = image()
    start = copy_of(model)
    _, weights = train(tmp_path, model, GradualUnfreezing(stages=2, first="adapters"))
    statistics = {name for name in start if "running" in name and COPY in name}
    pretrained = {name for name in start if "running" in name} - statistics
    blocks = {name for part in ("block.", "embeddings") for name in statistics if _part(model, name).startswith(part)}
    assert blocks and not changed(start, weights[2]) & blocks
    assert changed(weights[2], weights[5]) >= blocks
    assert not changed(start, weights[5]) & pretrained


def _part(model: nn.Module, buffer: str) -> str:
    beside = f"{buffer.rpartition('.')[0]}.weight"
    return anatomy(model).part_of()[beside]


def test_a_backbone_under_adapters_can_be_frozen_as_a_whole(tmp_path):
    model = text()
    steps, _ = train(tmp_path, model, FreezeBackbone())
    assert all(COPY in name and "classifier" in name for step in steps for name in step["trains"])
    only = text()
    steps, _ = train(tmp_path, only, FreezeBackbone(train=["head", "adapters"]))
    assert {name for name in steps[0]["trains"] if ".layer." in name} == select_parameters(
        anatomy(only).parts(), ["adapters"]
    )


def test_it_prints_as_the_call():
    assert str(GradualUnfreezing(2, first="adapters")).endswith("order='top_down', first='adapters')")


def test_adapters_alone_leave_nothing_to_thaw():
    model = lora(tiny_bert(), ["query"], "classifier")
    with pytest.raises(ValueError, match=r'first="adapters" leaves nothing to thaw later .*train_blocks=2\)'):
        GradualUnfreezing(first="adapters").plan(anatomy(model).parts())


def test_only_blocks_with_copies_are_counted():
    with pytest.raises(ValueError, match=r"only `block.1` to `block.2` to thaw .* use stages <= 3"):
        GradualUnfreezing(stages=4, first="adapters").plan(anatomy(text()).parts())


def test_an_unknown_first_is_refused():
    with pytest.raises(ValueError, match="first='lora' is unknown .* use 'head', or 'adapters'"):
        GradualUnfreezing(first="lora")  # type: ignore[arg-type]


def test_the_model_is_left_as_it_was(tmp_path):
    model = text()
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    train(tmp_path, model, GradualUnfreezing(stages=2, first="adapters"))
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
    assert torch.is_grad_enabled()
