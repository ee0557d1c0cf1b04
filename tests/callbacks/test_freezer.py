from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from hf_transfer.anatomy import anatomy
from hf_transfer.callbacks.freezer import Freezer, release
from tests.callbacks.harness import changed, copy_of, seeded
from tests.models import batch_for, lora, tiny_bert, tiny_resnet, tiny_vit


def freezer_for(model: nn.Module, *trains: str, **options) -> Freezer:
    parts = anatomy(model).parts()
    ruled = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    freezer = Freezer(model, ruled, **options)
    freezer.train_only({name for part in trains for name in parts[part]} & ruled.keys())
    return freezer


def forward(model: nn.Module) -> dict[str, bool]:
    """The mode of every module after a training forward."""
    model.train()
    model(**{name: value for name, value in batch_for(model).items() if name != "domain"})
    return {name: module.training for name, module in model.named_modules()}


def test_exactly_the_named_parameters_train():
    model = seeded()
    freezer = freezer_for(model, "head", "block.2")
    parts = anatomy(model).parts()
    training = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert training == {*parts["head"], *parts["block.2"]}
    freezer.train_only(set(parts["neck"]))
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == set(parts["neck"])


def test_gradients_of_frozen_parameters_are_dropped_and_the_others_kept():
    model = seeded()
    batch = {name: value for name, value in batch_for(model).items() if name != "domain"}
    model(**batch).loss.backward()
    kept = model.classifier.weight.grad
    freezer_for(model, "head")
    assert model.classifier.weight.grad is kept
    assert all(parameter.grad is None for name, parameter in model.bert.named_parameters())


def test_frozen_modules_are_in_evaluation_mode_at_every_forward():
    model = seeded()
    freezer_for(model, "head")
    for _ in range(2):
        modes = forward(model)
        assert not any(mode for name, mode in modes.items() if name.startswith("bert"))
        assert modes[""] and modes["classifier"] and modes["dropout"]


def test_parameterless_modules_follow_the_block_that_holds_them():
    model = seeded()
    freezer_for(model, "head", "neck", "block.2")
    modes = forward(model)
    assert not modes["bert.encoder.layer.1.output.dropout"]
    assert not modes["bert.encoder.layer.1.intermediate.intermediate_act_fn"]
    assert modes["bert.encoder.layer.2.output.dropout"]
    # Containers of frozen and training children train.
    assert modes["bert"] and modes["bert.encoder"] and modes["bert.encoder.layer"]


def test_dropout_of_frozen_parts_is_off_so_that_their_output_repeats():
    model = seeded(hidden_dropout_prob=0.5)
    freezer_for(model, "head")
    outputs = []
    model.bert.register_forward_hook(lambda module, args, output: outputs.append(output.pooler_output))
    forward(model), forward(model)
    assert torch.equal(*outputs)


def test_norm_only_keeps_dropout_on():
    model = seeded(hidden_dropout_prob=0.5)
    freezer_for(model, "head", norm_only=True)
    assert all(forward(model).values())


@pytest.mark.parametrize("norm_only", [False, True])
def test_running_statistics_of_frozen_batch_norms_stand_still(norm_only):
    model = seeded(tiny_resnet)
    freezer_for(model, "head", "block.2", norm_only=norm_only)
    before = copy_of(model)
    forward(model)
    moved = changed(before, copy_of(model))
    assert moved, "batch normalisation of the block that trains must move"
    assert all(name.startswith("resnet.encoder.stages.1.layers.1.") for name in moved)


def test_without_the_hook_the_statistics_would_move():
    model = seeded(tiny_resnet)
    hook = freezer_for(model, "head")
    hook._hook.remove()
    before = copy_of(model)
    forward(model)
    assert any(name.startswith("resnet") for name in changed(before, copy_of(model)))


def test_a_frozen_batch_norm_rests_in_a_module_that_otherwise_trains():
    model = seeded(tiny_resnet)
    names = {name for name, _ in model.named_parameters() if "normalization" not in name}
    Freezer(model, dict(model.named_parameters())).train_only(names)
    modes = forward(model)
    assert not any(mode for name, mode in modes.items() if name.endswith("normalization"))
    assert modes["resnet.embedder.embedder.convolution"] and modes["resnet.embedder"]


def test_a_batch_norm_without_parameters_follows_its_parent():
    model = nn.Sequential(
        nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False)), nn.BatchNorm1d(2, affine=False)
    )
    freezer = Freezer(model, dict(model.named_parameters()))
    freezer.train_only({"0.0.weight"})
    model.train()(torch.randn(4, 2))
    assert model[0][1].training and model[1].training
    freezer.train_only(set())
    model.train()(torch.randn(4, 2))
    assert not model[0][1].training


def test_a_module_shared_by_a_frozen_and_a_training_parent_trains():
    dropout = nn.Dropout()
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), dropout), nn.Sequential(nn.Linear(2, 2), dropout))
    freezer = Freezer(model, dict(model.named_parameters()))
    for trains in ("0.0.weight", "1.0.weight"):
        freezer.train_only({trains})
        model.train()(torch.randn(4, 2))
        assert dropout.training
        assert [child[0].training for child in model] == [trains == "0.0.weight", trains == "1.0.weight"]
    freezer.train_only(set())
    model.train()(torch.randn(4, 2))
    assert not dropout.training


def test_a_thawed_module_returns_to_training_without_a_call_of_train():
    model = seeded()
    freezer = freezer_for(model, "head")
    forward(model)
    freezer.train_only({name for name, _ in model.named_parameters()})
    assert all(module.training for module in model.modules())


def test_evaluation_is_left_alone():
    model = seeded(tiny_vit)
    bare = copy.deepcopy(model).eval()
    freezer_for(model, "head")
    model.eval()
    batch = {name: value for name, value in batch_for(model).items() if name != "domain"}
    assert torch.equal(model(**batch).logits, bare(**batch).logits)
    assert not any(module.training for module in model.modules())


def test_adapters_obey_and_what_peft_froze_is_left_alone():
    model = lora(seeded(), ["query"], "classifier")
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    freezer = freezer_for(model, "head", "block.2")
    training = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(("layer.2" in name and "lora_" in name) or "modules_to_save" in name for name in training)
    assert any("layer.2" in name for name in training) and any("modules_to_save" in name for name in training)
    modes = forward(model)
    prefix = "base_model.model.bert.encoder.layer"
    assert not any(mode for name, mode in modes.items() if name.startswith(f"{prefix}.1"))
    # Frozen by PEFT in a block that trains: as without a schedule.
    assert modes[f"{prefix}.2.output"] and modes[f"{prefix}.2.output.dropout"]
    freezer.release()
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before


def test_batch_norms_frozen_by_peft_rest_even_in_a_block_that_trains():
    model = lora(seeded(tiny_resnet), r".*convolution", "classifier.1")
    freezer_for(model, *anatomy(model).parts())
    before = copy_of(model)
    forward(model)
    assert not changed(before, copy_of(model))


def test_release_leaves_the_model_as_it_was():
    model = seeded()
    model.bert.pooler.dense.bias.requires_grad_(False)
    freezer = freezer_for(model, "head")
    forward(model)
    freezer.release()
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["bert.pooler.dense.bias"]
    assert not model._forward_pre_hooks
    assert all(module.training for module in model.modules())
    assert all(forward(model).values())


def test_what_a_crashed_run_left_is_undone_but_not_the_present_run():
    model, crashed, present = seeded(), object(), object()
    freezer_for(model, "head", run=crashed)
    release(model, run=present)
    assert all(parameter.requires_grad for parameter in model.parameters())
    freezer_for(model, "head", run=present)
    with pytest.raises(ValueError, match="Two freezing callbacks rule the same model .* one `UnfreezingSchedule`"):
        release(model, run=present)
    release(model)
    release(model)
    assert not model._forward_pre_hooks


def test_a_copy_of_the_model_has_a_freezer_of_its_own():
    model = seeded()
    freezer_for(model, "head")
    twin = copy.deepcopy(model)
    release(twin)
    assert all(parameter.requires_grad for parameter in twin.parameters())
    assert not model.bert.pooler.dense.weight.requires_grad
    assert not forward(model)["bert.pooler"]


def test_the_hook_costs_little():
    model = seeded(tiny_bert, num_hidden_layers=12)
    freezer = freezer_for(model, "head")
    model.train()
    from timeit import timeit

    # A twelve-layer encoder has about 230 modules; 20 ms a step would be a defect, it takes about 0.2 ms.
    assert (
        timeit(lambda: (model.train(), freezer(model, ())), number=5) - timeit(lambda: model.train(), number=5) < 0.1
    )
