"""Gradient surgery in a model: what the backbone gets, what it leaves alone, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hf_transfer import L2SP, Objective, TransferTrainer
from hf_transfer.functional.gradient_surgery import (
    cagrad_coefficients,
    mgda_coefficients,
    nash_coefficients,
    pcgrad_coefficients,
    random_orders,
    upgrad_coefficients,
)
from hf_transfer.multitask.task import Task
from hf_transfer.objectives.multitask.multi_task import MultiTask
from hf_transfer.objectives.multitask.surgery import METHODS, GradientSurgery
from tests.models import lora, tiny_vit
from tests.objectives.surgery_models import (
    TASKS,
    bare,
    flat,
    gradients,
    only,
    part,
    rows,
    surgeon_of,
    task_rows,
    with_tasks,
)
from tests.test_trainer import arguments


def coefficients(method, gram):
    """As in the first step."""
    if method == "pcgrad":
        return pcgrad_coefficients(gram, random_orders(torch.tensor(1), len(gram)))
    return {
        "cagrad": cagrad_coefficients,
        "nash": nash_coefficients,
        "upgrad": upgrad_coefficients,
        "mgda": mgda_coefficients,
    }[method](gram)


def close(first, second, **options):
    torch.testing.assert_close(first, second, **{"atol": 1e-6, "rtol": 2e-4, **options})


def step(model, batch, *, scale=1.0):
    loss = model(**batch).loss
    (scale * loss).backward()
    return loss.detach()


@pytest.mark.parametrize("method", METHODS)
def test_parameters_get_the_combination_of_the_gradients_of_the_tasks(method):
    batch, single = rows(), task_rows(rows())
    model, plain = with_tasks(GradientSurgery(method)), with_tasks(None)
    close(step(model, batch), step(plain, batch), atol=0, rtol=0)  # the value is that of the plain sum
    close(flat(model), coefficients(method, single @ single.T) @ single)
    assert not torch.allclose(flat(model), single.sum(0), rtol=1e-2)
    close(gradients(model, shared=False), gradients(plain, shared=False), atol=0, rtol=0)  # heads keep their own
    assert gradients(model).keys() == gradients(plain).keys()


@pytest.mark.parametrize("method", METHODS)
def test_the_representation_gets_the_combination_of_the_gradients_at_the_features(method):
    torch.manual_seed(3)
    features = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    heads = torch.randn(3, 5, dtype=torch.float64)
    hidden = features.tanh()
    surgery = GradientSurgery(method, on="representation")

    def losses(inputs):
        return torch.stack([((h @ w - 1) ** 2).mean() for h, w in zip(inputs, heads, strict=True)])

    total = surgery.total(losses(surgery.branch([hidden] * 3)), None_batch())
    (other,) = torch.autograd.grad(hidden.square().sum(), hidden, retain_graph=True)
    (total + hidden.square().sum()).backward()  # what reads the features beside the heads is not concerned
    single = torch.stack([torch.autograd.grad(loss, hidden, retain_graph=True)[0] for loss in losses([hidden] * 3)])
    single = single.flatten(1)
    expected = (coefficients(method, single @ single.T) @ single).view(4, 5) + other
    (expected,) = torch.autograd.grad(features.tanh(), features, expected)
    close(features.grad, expected, rtol=1e-8)


def None_batch():
    from hf_transfer import TransferBatch

    return TransferBatch(features=torch.zeros(0))


@pytest.mark.parametrize("on", ["parameters", "representation"])
def test_gradients_that_agree_are_added_up(on):
    tasks = (Task("a", num_labels=2), Task("b", num_labels=2, weight=3.0))
    batch = rows()
    batch = {**only(batch), "labels_a": batch["labels_flag"], "labels_b": batch["labels_flag"]}
    found = []
    for surgery in (None, GradientSurgery("pcgrad", on=on), GradientSurgery("upgrad", on=on)):
        model = with_tasks(surgery, tasks=tasks)
        heads = model.transfer_objectives["multi_task"].heads
        heads["b"].load_state_dict(heads["a"].state_dict())
        step(model, batch)
        found.append(flat(model))
    close(found[1], found[0])
    close(found[2], found[0])


@pytest.mark.parametrize("method", METHODS)
def test_accumulated_micro_batches_are_one_large_batch(method):
    batch = rows(16)
    whole, parts = with_tasks(GradientSurgery(method)), with_tasks(GradientSurgery(method))
    for number in range(2):  # two steps: the sums of the first are gone in the second
        for model in (whole, parts):
            model.zero_grad()
            surgeon_of(model).begin_step()
        step(whole, batch)
        for start in range(0, 16, 4):
            step(parts, part(batch, start, start + 4), scale=0.25)
        close(flat(parts), flat(whole))
        assert surgeon_of(parts).steps.item() == number + 1


def test_without_being_told_cleared_gradients_begin_a_step():
    batch = rows()
    model, told = with_tasks(GradientSurgery("pcgrad")), with_tasks(GradientSurgery("pcgrad"))
    for _ in range(3):
        model.zero_grad()
        told.zero_grad()
        surgeon_of(told).begin_step()
        step(model, batch)
        step(told, batch)
        close(flat(model), flat(told), atol=0, rtol=0)
    assert surgeon_of(model).steps.item() == 3


@pytest.mark.parametrize("on", ["parameters", "representation"])
@pytest.mark.parametrize("method", METHODS)
def test_an_absent_task_takes_no_part_and_its_head_gets_exact_zeros(method, on):
    batch = only(rows(), "topic")
    model, plain = with_tasks(GradientSurgery(method, on=on)), with_tasks(None)
    step(model, batch)
    step(plain, batch)
    close(flat(model), flat(plain), rtol=1e-3)
    heads = gradients(model, shared=False)
    still = {name.split(".")[-2] for name, gradient in heads.items() if not gradient.any()}
    assert still == {"stars", "flag"} and len(heads) == 6
    model.zero_grad()
    surgeon_of(model).begin_step()
    step(model, only(rows()))
    assert not flat(model).any()


class FeatureNorm(Objective):
    def forward(self, batch):
        return batch.features.square().sum(-1).mean()


@pytest.mark.parametrize("on", ["parameters", "representation"])
def test_other_objectives_pass_untouched_and_the_weight_scales_the_combination(on):
    batch = rows()
    alone, beside = (
        with_tasks(GradientSurgery("upgrad", on=on)),
        with_tasks(GradientSurgery("upgrad", on=on), FeatureNorm(weight=0.5), L2SP(weight=0.1), weight=2.0),
    )
    other = with_tasks(None, FeatureNorm(weight=0.5), L2SP(weight=0.1), weight=0.0)
    for model in (alone, beside, other):
        step(model, batch)
    close(flat(beside), 2 * flat(alone) + flat(other), atol=1e-5)


def test_under_lora_the_adapters_are_what_is_shared():
    def adapted():
        torch.manual_seed(0)
        model = lora(bare(), ["query", "value"], "classifier", init_lora_weights=False)
        return model

    batch, single = rows(), task_rows(rows(), adapted)
    model = with_tasks(GradientSurgery("nash"), model=adapted())
    step(model, batch)
    close(flat(model), coefficients("nash", single @ single.T) @ single)


def test_frozen_and_unreached_parameters_get_no_gradient():
    model = bare()
    model.bert.embeddings.requires_grad_(False)
    model.idle = nn.Linear(2, 2)  # takes no part in the forward
    model = with_tasks(GradientSurgery("pcgrad"), model=model)
    step(model, rows())
    assert model.idle.weight.grad is None and model.bert.embeddings.word_embeddings.weight.grad is None
    assert model.bert.encoder.layer[0].output.dense.weight.grad.any()


@pytest.mark.parametrize("on", ["parameters", "representation"])
def test_under_a_frozen_backbone_the_heads_still_learn(on):
    model = bare().requires_grad_(False)
    model.classifier.requires_grad_(True)
    model = with_tasks(GradientSurgery("pcgrad", on=on), model=model)
    step(model, rows())
    assert all(gradient.any() for gradient in gradients(model, shared=False).values())
    assert not any(gradient.any() for gradient in gradients(model).values())


def test_gradient_checkpointing_changes_nothing():
    batch = rows()
    plain, checkpointed = with_tasks(GradientSurgery("pcgrad")), with_tasks(GradientSurgery("pcgrad"))
    checkpointed.activation_checkpointing_enable()
    step(plain, batch)
    step(checkpointed, batch)
    close(flat(checkpointed), flat(plain))


def test_images_in_bfloat16():
    torch.manual_seed(0)
    model = with_tasks(GradientSurgery("pcgrad"), model=tiny_vit().bfloat16())
    batch = rows(model=tiny_vit())
    batch["pixel_values"] = batch["pixel_values"].bfloat16()
    step(model, batch)
    found = flat(model)
    assert found.isfinite().all() and found.any()
    single = {parameter.grad.dtype for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert torch.bfloat16 in single


def test_tokens_and_rows_share_parameters():
    tasks = (Task("topic", num_labels=3), Task("names", "tokens", num_labels=3))
    batch = rows()
    batch["labels_names"] = torch.randint(0, 3, batch["input_ids"].shape)
    batch = {name: value for name, value in batch.items() if name not in ("labels_stars", "labels_flag")}
    found = []
    for surgery, labels in ((GradientSurgery("upgrad"), ("topic", "names")), (None, ("topic",)), (None, ("names",))):
        model = with_tasks(surgery, tasks=tasks)
        step(model, only(batch, *labels))
        found.append(flat(model))
    single = torch.stack(found[1:])
    close(found[0], coefficients("upgrad", single @ single.T) @ single)


def test_share_of_conflicts_is_shown():
    model, single = with_tasks(GradientSurgery("pcgrad")), task_rows(rows())
    step(model, rows())
    gram = single @ single.T
    expected = sum(bool(gram[i, j] < 0) for i in range(3) for j in range(i)) / 3
    assert surgeon_of(model).diagnostics["conflict"].item() == pytest.approx(expected)


def test_random_degenerate_batches_give_finite_gradients():
    generator = torch.Generator().manual_seed(0)
    for number in range(1000):
        method = METHODS[number // 20 % 5] if number % 20 == 0 else "pcgrad"
        surgery = GradientSurgery(method, on="representation" if number % 3 else "parameters")
        features = torch.randn(2, 3, generator=generator) * 10 ** float(torch.randn((), generator=generator) * 3)
        if number % 4 == 0:
            features = torch.zeros(2, 3)
        module = nn.Linear(3, 3)
        read = module(features)
        inputs = surgery.branch([read, read])
        masks = (torch.rand(2, 2, generator=generator) > 0.5).float()
        losses = torch.stack([((x.sum(-1) * 1e2) ** 2 * m).mean() for x, m in zip(inputs, masks, strict=True)])
        batch = None_batch()
        object.__setattr__(batch, "model", module)
        surgery.total(losses, batch).backward()
        assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in module.parameters())


def rows_dataset(count=24):
    from datasets import Dataset

    batch = rows(count)
    return Dataset.from_dict({name: value.tolist() for name, value in batch.items()}).with_format("torch")


def trained(folder, resume=None, **options):
    trainer = TransferTrainer(
        bare(hidden_dropout_prob=0.1),
        arguments(folder, max_steps=4, save_strategy="steps", save_steps=2, **options),
        objectives=[MultiTask(TASKS, surgery=GradientSurgery("pcgrad", seed=5))],
        train_dataset=rows_dataset(),
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_a_resumed_run_goes_on_as_if_never_stopped(tmp_path):
    straight = trained(tmp_path / "a", gradient_accumulation_steps=2)
    resumed = trained(tmp_path / "b", str(tmp_path / "a" / "checkpoint-2"), gradient_accumulation_steps=2)
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert surgeon_of(straight.model).steps.item() == 4


def test_accumulation_on_representation_is_refused():
    model = with_tasks(GradientSurgery("pcgrad", on="representation"))
    step(model, rows())
    with pytest.raises(ValueError, match="under gradient accumulation.*gradient_accumulation_steps=1"):
        step(model, rows())
    model.zero_grad()
    step(model, rows())  # a new step


def test_separate_tensors_and_separate_rows_are_refused():
    surgery = GradientSurgery("pcgrad", on="representation")
    mixed = (Task("topic", num_labels=3), Task("names", "tokens", num_labels=3))
    with pytest.raises(ValueError, match="read different tensors"):
        with_tasks(surgery, tasks=mixed)
    with pytest.raises(ValueError, match="read different tensors"):
        surgery.branch([torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)])
    model = with_tasks(surgery)
    apart = [only(rows(), "topic"), only(rows(), "stars")]
    with pytest.raises(ValueError, match="no row is labelled for two tasks"):
        surgery.inspect(model, apart)
    surgery.inspect(model, [*apart, only(rows(), "topic", "flag")])
    GradientSurgery("pcgrad").inspect(model, apart)


# dynamo looks at `.grad` of tensors that are no leaves (torch 2.13)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_models():
    batch = rows()
    eager, compiled = (with_tasks(GradientSurgery("pcgrad", on="representation")) for _ in range(2))
    step(eager, batch)
    step(torch.compile(compiled, backend="aot_eager"), batch)
    close(flat(compiled), flat(eager))
    refused = torch.compile(with_tasks(GradientSurgery("pcgrad")), backend="aot_eager")
    with pytest.raises(ValueError, match="compiled backward runs once"):
        step(refused, batch)


def test_options():
    assert GradientSurgery("cagrad", c=0.2).config() == {"method": "cagrad", "on": "parameters", "c": 0.2, "seed": 0}
    assert "method=cagrad" in repr(GradientSurgery("cagrad"))
    with pytest.raises(ValueError, match='`method="pcgard"`.*Give one of pcgrad'):
        GradientSurgery("pcgard")
    with pytest.raises(ValueError, match='`on="features"`.*representation'):
        GradientSurgery("pcgrad", on="features")
    with pytest.raises(ValueError, match=r"`c=1.0` of CAGrad.*such as 0.4"):
        GradientSurgery("cagrad", c=1.0)
