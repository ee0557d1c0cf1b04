"""Bi-tuning against loops over queues, batch and classes, its state, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer import TransferArguments, TransferBatch, TransferTrainer, attach
from hf_transfer.objectives.regularization.bi_tuning import BiTuning
from hf_transfer.objectives.regularization.r_drop import RDrop
from tests.invariants.run import rows
from tests.models import (
    batch_for,
    lora,
    tiny_bert,
    tiny_gpt2,
    tiny_llama,
    tiny_resnet,
    tiny_token_bert,
    tiny_vit,
)


def attached(make=tiny_bert, **options):
    torch.manual_seed(0)
    model = make().double().train()
    attachment = attach(model, [objective := BiTuning(**{"queue_length": 3, "projection": 5, **options})])
    objective.double()
    return model, objective, attachment


def batch(model, labels, seed=0) -> TransferBatch:
    labels = torch.tensor(labels)
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(*labels.shape, 16, dtype=torch.float64, generator=generator, requires_grad=True)
    return TransferBatch(features=features, labels=labels, model=model)


def cosine(a, b) -> float:
    return torch.dot(a, b).item() / (a.norm() * b.norm()).item()


def naive(model, objective, features, labels, keys, key_labels) -> float:
    """Both losses from lists of features; `keys` are those in the queues."""
    head, temperature = model.get_submodule(objective._head), objective.temperature
    weight = head.weight.detach().flatten(1)
    if head.bias is None:
        columns, one = weight, torch.zeros(0, dtype=torch.float64)
    else:
        columns, one = torch.cat([weight, head.bias.detach().unsqueeze(1)], 1), torch.ones(1, dtype=torch.float64)
    total, anchors = 0.0, [i for i, y in enumerate(labels) if y != -100]
    for i in anchors:
        others = [(features[j], labels[j]) for j in anchors if j != i] + list(zip(keys, key_labels, strict=True))
        w = columns[labels[i]]
        scores = [(math.exp(cosine(w, torch.cat([h, one])) / temperature), y) for h, y in others]
        scores.append((math.exp(cosine(w, torch.cat([features[i], one])) / temperature), labels[i]))
        positives = [s for s, y in scores if y == labels[i]]
        total -= sum(math.log(s / sum(s for s, _ in scores)) for s in positives) / len(positives)

        z = objective.projector(features[i]).detach()
        scores = [(math.exp(cosine(z, objective.projector(h).detach()) / temperature), y) for h, y in others]
        positives = [s for s, y in scores if y == labels[i]]
        if positives:
            total -= sum(math.log(s / sum(s for s, _ in scores)) for s in positives) / len(positives)
    return total / len(anchors)


@pytest.mark.parametrize("make", [tiny_bert, tiny_llama, tiny_vit, tiny_resnet])
@pytest.mark.parametrize("labels", [[0, 1, 0, 2, 1], [0, -100, 0, -100, 1]])
def test_value_against_loops_as_the_queues_fill(make, labels):
    model, objective, _ = attached(make, temperature=0.2)
    queues = [[] for _ in range(3)]
    for step in range(4):
        data = batch(model, labels, seed=step)
        keys = [key for queue in queues for key in queue]
        key_labels = [c for c, queue in enumerate(queues) for _ in queue]
        expected = naive(model, objective, data.features.detach(), labels, keys, key_labels)
        # the queues keep float32 features; here they are compared in the precision they have
        assert objective(data).item() == pytest.approx(expected, rel=1e-9)
        for feature, label in zip(data.features.detach(), labels, strict=True):
            if label != -100:
                queues[label] = [*queues[label], feature][-3:]
    assert [len(queue) for queue in queues][0] == 3


def test_tokens_are_rows():
    model, objective, _ = attached(tiny_token_bert, temperature=0.2)
    data = batch(model, [[0, 1, -100], [1, 0, 2]])
    expected = naive(model, objective, data.features.detach().flatten(0, 1), [0, 1, -100, 1, 0, 2], [], [])
    assert objective(data).item() == pytest.approx(expected, rel=1e-9)


def test_gradient_is_that_of_the_row_with_its_keys_held_fixed():
    model, objective, _ = attached(temperature=0.5)
    objective(batch(model, [0, 1, 2, 0]))
    data = batch(model, [0, 1], seed=1)
    queued, queued_labels = (x.detach() for x in objective.queues.content())
    known = queued_labels != -100

    def of_row(x, i):
        rest = data.features.detach()
        keys = [*queued[known], rest[1 - i]]
        classes = [*queued_labels[known].tolist(), data.labels[1 - i].item()]
        return naive_row(model, objective, x, data.labels[i].item(), keys, classes)

    (gradient,) = torch.autograd.grad(objective(data), data.features)
    for i in range(2):
        for d in (0, 7):
            step = torch.zeros(16, dtype=torch.float64)
            step[d] = 1e-6
            row = data.features[i].detach()
            slope = (of_row(row + step, i) - of_row(row - step, i)) / 2e-6
            assert gradient[i, d].item() == pytest.approx(slope / 2, rel=1e-4, abs=1e-8)  # of two anchors


def naive_row(model, objective, row, label, keys, key_labels) -> float:
    """The loss of a single row among keys: of one anchor."""
    return naive(model, objective, [row], [label], keys, key_labels)


def test_descent_brings_features_to_their_class_and_to_its_weights():
    model, objective, _ = attached()
    data = batch(model, [0, 1, 2, 0, 1, 2])
    features = data.features
    head = model.get_submodule(objective._head)
    for _ in range(200):
        value = objective(TransferBatch(features=features, labels=data.labels, model=model))
        (gradient,) = torch.autograd.grad(value, features)
        features = (features - 0.3 * gradient).detach().requires_grad_()
    unit = torch.nn.functional.normalize(features.detach(), dim=-1)
    assert unit[0] @ unit[3] > unit[0] @ unit[1]
    scores = torch.nn.functional.normalize(head.weight.detach(), dim=-1) @ unit.mT
    # each class finds its own instances
    for c in range(3):
        assert scores[c][data.labels == c].min() > scores[c][data.labels != c].max()


def test_gradients_reach_features_head_and_projector_and_no_key():
    model, objective, _ = attached()
    data = batch(model, [0, 1, 0, 2])
    objective(data).backward()
    head = model.get_submodule(objective._head)
    reached = [data.features, head.weight, head.bias, objective.projector.weight]
    assert all(x.grad.abs().sum() > 0 for x in reached)
    assert not any(buffer.requires_grad for buffer in objective.buffers())


@pytest.mark.parametrize("labels", [[-100, -100], [1]])
def test_nothing_to_contrast_is_an_exact_zero_with_a_graph(labels):
    model, objective, _ = attached()
    data = batch(model, labels)
    value = objective(data)
    assert value.item() == 0
    value.backward()
    assert not data.features.grad.any()
    assert all(p.grad is not None and not p.grad.any() for p in objective.parameters())
    assert objective.queues.seen.sum() == sum(y != -100 for y in labels)


def test_one_class_stays_finite():
    model, objective, _ = attached()
    for step in range(3):
        data = batch(model, [1, 1, 1], seed=step)
        value = objective(data)
        value.backward()
        assert value.isfinite() and data.features.grad.isfinite().all()


def test_a_look_without_gradients_leaves_the_queues_alone():
    model, objective, _ = attached()
    objective(batch(model, [0, 1, 0, 2]))
    before = {key: value.clone() for key, value in objective.state_dict().items()}
    with torch.no_grad():
        first, second = (objective(batch(model, [0, 1, 0, 2], seed=1)) for _ in range(2))
    assert first == second
    assert all(torch.equal(value, before[key]) for key, value in objective.state_dict().items())


def test_evaluation_leaves_the_queues_alone():
    model = tiny_bert()
    attach(model, [objective := BiTuning()])
    model.eval()(**batch_for(model))
    assert not objective.queues.seen.any()
    model.train()(**batch_for(model))
    assert objective.queues.seen.sum() == 4


@pytest.mark.parametrize("make", [tiny_bert, tiny_token_bert, tiny_gpt2, tiny_llama, tiny_vit, tiny_resnet])
@pytest.mark.parametrize("wrapped", [False, True], ids=["full", "lora"])
def test_in_models(make, wrapped):
    model = make()
    if wrapped:
        by_kind = {tiny_gpt2: ["c_attn"], tiny_llama: ["q_proj"], tiny_vit: ["q_proj"], tiny_resnet: r".*convolution"}
        head = "score" if make in (tiny_gpt2, tiny_llama) else "classifier"
        model = lora(model, by_kind.get(make, ["query"]), head, fan_in_fan_out=make is tiny_gpt2)
    model.train()
    attachment = attach(model, [BiTuning()])
    for seed in range(3):
        model(**batch_for(model, 8, seed=seed)).loss.backward()
        assert attachment.terms["bi_tuning"] > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in attachment.objectives.parameters())


def test_the_head_of_modules_to_save_is_the_one_that_trains():
    model = lora(tiny_bert(), ["query"], "classifier").train()
    attach(model, [BiTuning(weight=1.0)])
    inputs = batch_for(model, 8)
    model(**inputs).loss.backward()
    wrapper = model.base_model.model.classifier
    assert wrapper.modules_to_save["default"].weight.grad.abs().sum() > 0
    assert wrapper.original_module.weight.grad is None


def test_lora_on_the_head_itself_is_the_weight_in_effect():
    model = lora(tiny_bert(), ["query", "classifier"]).double().train()
    attach(model, [objective := BiTuning(temperature=0.2)])
    objective.double()
    layer = model.base_model.model.classifier
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    data = batch(model, [0, 1, 0, 2])
    value = objective(data)
    value.backward()
    assert layer.lora_B["default"].weight.grad.abs().sum() > 0
    merged = tiny_bert().double()
    with torch.no_grad():
        merged.classifier.weight.copy_(layer.base_layer.weight + layer.get_delta_weight("default"))
        merged.classifier.bias.copy_(layer.base_layer.bias)
    attach(merged, [other := BiTuning(temperature=0.2)])
    other.double().load_state_dict({**other.state_dict(), **dict(objective.projector.named_parameters("projector"))})
    again = TransferBatch(features=data.features, labels=data.labels, model=merged)
    torch.testing.assert_close(other(again), value)


def test_bfloat16():
    model = tiny_bert().train().bfloat16()
    attachment = attach(model, [BiTuning()])
    model(**batch_for(model, 8)).loss.backward()
    assert attachment.terms["bi_tuning"].dtype == torch.float32


def test_the_second_pass_of_r_drop_is_a_positive():
    model = tiny_bert().train()
    attachment = attach(model, [RDrop(), BiTuning()])
    model(**{**batch_for(model, 3), "labels": torch.tensor([0, 1, 2])}).loss.backward()
    assert attachment.terms["bi_tuning"] > 0
    assert attachment.objectives["bi_tuning"].queues.seen.tolist() == [2, 2, 2]


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2}, {"bf16": True}])
def test_a_resumed_run_is_the_straight_one_bit_for_bit_queues_too(options, tmp_path):
    def trainer():
        torch.manual_seed(0)
        args = TransferArguments(
            output_dir=str(tmp_path), max_steps=6, save_steps=3, save_strategy="steps", per_device_train_batch_size=4,
            learning_rate=1e-2, report_to="none", use_cpu=True, dataloader_pin_memory=False, disable_tqdm=True,
            **options,
        )  # fmt: skip
        objectives = [BiTuning(queue_length=5)]
        return TransferTrainer(tiny_bert(), args, objectives=objectives, train_dataset=rows(16, 0, True, False))

    straight, resumed = trainer(), trainer()
    straight.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    ours, theirs = straight.model.state_dict(), resumed.model.state_dict()
    assert "transfer_objectives.bi_tuning.queues.keys" in ours
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queue_length": 0}, "`queue_length=0`: without keys.*default 40"),
        ({"projection": 0}, "`projection=0`: without keys.*default 128"),
        ({"temperature": -1.0}, "`temperature=-1.0`: similarities are divided by it.*default 0.07"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        BiTuning(**options)


def test_other_problems_are_refused():
    with pytest.raises(ValueError, match="BiTuning on several labels a row"):
        attach(tiny_bert(problem_type="multi_label_classification"), [BiTuning()])
    with pytest.raises(ValueError, match="BiTuning on a regression"):
        attach(tiny_bert(num_labels=1), [BiTuning()])
