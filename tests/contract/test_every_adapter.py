"""
An adapter in every architecture: one step changes only what should, and saved and loaded it gives the same logits.

The gate runs one architecture of each model type with one method, alternating; all of them with all methods, which
takes some minutes, are run by `python -m tests.contract.adapter_sweep`.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from torch import nn

from tests.architectures import ARCHITECTURES, Architecture, architecture
from tests.contract import adapter_sweep
from tests.contract.adapter_sweep import LOADED_BY_US_ONLY, NOT_MERGED, REFUSED, check, distance, outputs, run
from tests.small_architectures import NOT_RUN, RUN, small_model, training_batch


# Slow, or the same code as another
LEFT_TO_THE_SWEEP = {"perceiver"}
METHODS = itertools.cycle(["lora", "ia3", "lora", "ln_tuning"])
BY_TYPE = {one.model_type: one for one in reversed(RUN) if one.model_type not in LEFT_TO_THE_SWEEP}
# Only batch norms, or norms that lie inside what is saved whole: there is nothing for layer-norm tuning
WITHOUT_NORMS: set[str] = set()
CASES = [
    (one, "ia3" if method == "ln_tuning" and model_type in WITHOUT_NORMS else method)
    for (model_type, one), method in zip(sorted(BY_TYPE.items()), METHODS, strict=False)
]


class Coverage:
    """What became of each case of this process."""

    def __init__(self) -> None:
        self.passed: list[Architecture] = []
        self.methods: Counter[str] = Counter()
        self.refused: list[str] = []

    def __str__(self) -> str:
        methods = ", ".join(f"{count} with {method}" for method, count in self.methods.items())
        lines = [f"adapters hold for {len(self.passed)} of {len(CASES)} model types ({methods})"]
        lines += [f"refused: {name}: {REFUSED[name][0]}" for name in self.refused]
        lines += [f"loaded by hf_transfer only, not by PEFT: {', '.join(sorted(LOADED_BY_US_ONLY))}"]
        lines += [f"not merged by PEFT: {', '.join(sorted(NOT_MERGED))}"]
        lines += [f"left to `python -m tests.contract.adapter_sweep`: {', '.join(sorted(LEFT_TO_THE_SWEEP))}"]
        lines += [f"not run: {name}: needs the library {library}" for name, library in NOT_RUN.items()]
        return "\n  ".join(lines)


@pytest.fixture(scope="module")
def coverage(request: pytest.FixtureRequest) -> Iterator[Coverage]:
    coverage = Coverage()
    yield coverage
    capture: Any = request.config.pluginmanager.getplugin("capturemanager")
    if capture is not None and coverage.passed:
        with capture.global_and_fixture_disabled():
            print(f"\n{coverage}")


@pytest.fixture(autouse=True)
def without_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT compiles the template of its card for each adapter it saves: a tenth of the time, and nobody reads it."""
    monkeypatch.setattr(PeftModel, "create_or_update_model_card", lambda *given: None)


# PEFT (0.21) looks for weights of experts in models that store none fused
@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")  # PEFT's loader (0.21) of every norm
@pytest.mark.parametrize(
    "number", range(len(CASES)), ids=lambda number: "-".join([CASES[number][0].id, CASES[number][1]])
)
def test_every_adapter(number: int, coverage: Coverage) -> None:
    one, method = CASES[number]
    if run(one, method, from_disk=False, ours=[number % 2 == 0]):
        coverage.passed.append(one)
        coverage.methods[method] += 1
    else:
        coverage.refused.append(one.model_type)


def test_all_model_types_are_covered(coverage: Coverage) -> None:
    if len(coverage.passed) + len(coverage.refused) < len(CASES):
        pytest.skip("only a part of the model types ran in this process")
    assert {one.model_type for one in ARCHITECTURES if one.class_name not in NOT_RUN} == {*BY_TYPE, *LEFT_TO_THE_SWEEP}
    expected = {one.model_type for one, method in CASES if method in REFUSED.get(one.model_type, ("", ()))[1]}
    assert set(coverage.refused) == expected
    assert len(coverage.passed) >= PASSED
    assert min(coverage.methods.values()) > 30


# The number may rise but not fall: one that passes today is an exception tomorrow only with a reason
PASSED = 186


@pytest.mark.parametrize("class_name", ["BertForSequenceClassification", "ResNetForImageClassification"])
@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_a_base_from_the_disk(class_name: str, method: str) -> None:
    check(architecture(class_name), method, from_disk=True, ours=[False, True])


# -- what PEFT alone does with the exceptions


def test_peft_cannot_run_what_reads_the_stride() -> None:
    for name in ("MobileNetV1ForImageClassification", "MobileNetV2ForImageClassification"):
        one = architecture(name)
        model = small_model(one)
        batch = training_batch(one, model)
        layers = [key for key, module in model.named_modules() if type(module) is nn.Conv2d and module.groups == 1]
        with pytest.raises(AttributeError, match="'Conv2d' object has no attribute 'stride'"):
            get_peft_model(model, LoraConfig(target_modules=layers))(**batch)


def test_peft_merges_a_standardised_convolution_wrongly() -> None:
    one = architecture("BitForImageClassification")
    model = small_model(one)
    batch = training_batch(one, model)
    adapted = get_peft_model(model, LoraConfig(target_modules=r".*\.conv\d", init_lora_weights=False))
    expected = outputs(adapted, batch)
    assert distance(expected, outputs(adapted.merge_and_unload(), batch)) > 1e-2


@pytest.mark.parametrize(
    "config", [LoraConfig(target_modules=["query"]), IA3Config(target_modules=["key"], feedforward_modules=[])]
)
def test_peft_has_no_layer_for_i_bert(config: Any) -> None:
    with pytest.raises(ValueError, match=r"Target module \(?QuantLinear.* is not supported"):
        get_peft_model(small_model(architecture("IBertForSequenceClassification")), config)


# -- what must fail


def plain_lora(**options: Any) -> Any:
    """PEFT by itself, in place of `add_adapter`."""
    return lambda model, method, **given: get_peft_model(model, LoraConfig(**given, **options))


def fails(monkeypatch: pytest.MonkeyPatch, name: str, match: str, **options: Any) -> None:
    if options:
        monkeypatch.setattr(adapter_sweep, "add_adapter", plain_lora(**options))
    with pytest.raises(AssertionError, match=match):
        check(architecture(f"{name}Classification"), "lora", from_disk=False, ours=[False])


def test_a_head_that_is_not_saved_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    fails(monkeypatch, "ViTForImage", "the head classifier is not saved", target_modules=["q_proj", "query"])


def test_statistics_that_are_not_saved_do_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    match = "changed although frozen: .*running_mean"
    fails(monkeypatch, "ResNetForImage", match, target_modules=["convolution"], modules_to_save=["classifier.1"])


def test_a_copy_inside_a_copy_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT saves all of `classifier` for this task: what is named inside it is wrapped twice, and one is never run."""
    match = "unchanged although trained: .*classifier.dense.modules_to_save"
    inside = ["classifier.dense", "classifier.out_proj"]
    fails(
        monkeypatch, "RobertaForSequence", match, target_modules=["query"], modules_to_save=inside, task_type="SEQ_CLS"
    )


def test_a_frozen_weight_that_moves_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    train = adapter_sweep.train

    def careless(one: Architecture, model: nn.Module, batch: Any) -> None:
        train(one, model, batch)
        next(parameter for parameter in model.parameters() if not parameter.requires_grad).data.add_(1e-6)

    monkeypatch.setattr(adapter_sweep, "train", careless)
    fails(monkeypatch, "BertForSequence", "changed although frozen: .*word_embeddings.weight")


def test_weights_that_are_not_loaded_do_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    load = adapter_sweep.saved_and_loaded

    def careless(*given: Any, **options: Any) -> nn.Module:
        loaded = load(*given, **options)
        next(one for name, one in loaded.named_parameters() if "lora_B" in name).data.mul_(1 + 1e-5)
        return loaded

    monkeypatch.setattr(adapter_sweep, "saved_and_loaded", careless)
    fails(monkeypatch, "BertForSequence", "loaded by PEFT, the outputs differ by")


def test_no_training_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_sweep, "train", lambda *given: None)
    fails(monkeypatch, "BertForSequence", "unchanged although trained")


def test_the_distance_sees_what_is_not_finite() -> None:
    assert not distance([torch.zeros(2)], [torch.tensor([0.0, float("nan")])]) < 1e-3
    assert distance([torch.tensor([10.0, 0.0])], [torch.tensor([10.0, 1.0])]) == pytest.approx(0.1)
