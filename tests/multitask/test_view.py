"""A model of several tasks seen as one of them: its logits and loss, and nothing left behind."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from hf_transfer import MultiTask, as_task, attach
from hf_transfer.adapters import add_adapter
from hf_transfer.multitask.view import multi_task_of
from tests.models import TINY, batch_for, tiny_bert, tiny_token_bert
from tests.multitask.running_rows import TAGS, TASKS, TOPIC, WORDS


def attached(make=tiny_bert, tasks=TASKS, *, peft=False):
    torch.manual_seed(0)
    model = make()
    model = add_adapter(model, "lora") if peft else model
    attach(model, [MultiTask(tasks)])
    return model.eval()


def inputs(model):
    batch = batch_for(model)
    return {name: value for name, value in batch.items() if name not in ("labels", "domain")}


@pytest.mark.parametrize("peft", [False, True])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "vit", "resnet"])
def test_the_logits_are_those_of_the_task_on_the_features_of_the_model(name, peft):
    model = attached(TINY[name], peft=peft)
    given = inputs(model)
    features = []
    head = model.get_submodule(model.transfer_objectives.attachment.anatomy.head)
    handle = head.register_forward_pre_hook(lambda module, args: features.append(args[0]))
    with torch.no_grad():
        own = model(**given).logits
        with as_task(model, "topic"):
            logits = model(**given).logits
    handle.remove()
    read = features[-1]
    if read.dim() == 3:  # a decoder, at the last token that is no padding
        read = read[torch.arange(4), given["attention_mask"].sum(1) - 1]
    learned = multi_task_of(model).heads["topic"]
    torch.testing.assert_close(logits, F.linear(read, learned.weight, learned.bias))
    assert own.shape == (4, 3) and not torch.equal(own, logits)


@torch.no_grad()
def test_it_can_be_repeated_bit_for_bit_and_leaves_nothing():
    model = attached()
    given = inputs(model)
    before = model(**given).logits
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    found = []
    for _ in range(2):
        with as_task(model, "tags") as task:
            found.append(model(**given).logits)
        assert task == TAGS
        assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert torch.equal(*found) and torch.equal(model(**given).logits, before)


@torch.no_grad()
def test_the_loss_is_that_of_the_task_whatever_the_model_itself_predicts():
    model = attached()
    given = inputs(model)
    labels = {
        "topic": torch.tensor([2, -100, 0, 1]),
        "stars": torch.tensor([0.5, -100.0, 1.0, -1.0]),
        "tags": torch.tensor([[1, 0], [-100, -100], [0, 0], [1, 1]]),
    }
    rows = [0, 2, 3]
    for task in TASKS:
        with as_task(model, task.name):
            output = model(**given, labels=labels[task.name])
        logits, wanted = output.logits[rows], labels[task.name][rows]
        expected = {
            "classification": lambda a, b: F.cross_entropy(a, b),
            "regression": lambda a, b: F.mse_loss(a.squeeze(1), b),
            "multi_label": lambda a, b: F.binary_cross_entropy_with_logits(a, b.float()),
        }[task.kind](logits, wanted)
        torch.testing.assert_close(output.loss, expected)
        with as_task(model, task.name):
            assert model(**given).loss is None
            unnamed = model(**given, labels=labels[task.name], return_dict=False)
        assert torch.equal(unnamed[0], output.loss) and torch.equal(unnamed[1], output.logits)


@torch.no_grad()
def test_tasks_of_tokens_read_states_of_tokens_in_either_kind_of_model():
    for make, tasks in ((tiny_bert, (TOPIC, WORDS)), (tiny_token_bert, (WORDS,))):
        model = attached(make, tasks)
        given = inputs(model)
        with as_task(model, "words"):
            output = model(**given, labels=torch.ones(4, 6, dtype=torch.long))
        states = model.bert(**given).last_hidden_state
        learned = multi_task_of(model).heads["words"]
        torch.testing.assert_close(output.logits, F.linear(states, learned.weight, learned.bias))
        torch.testing.assert_close(output.loss, F.cross_entropy(output.logits.flatten(0, 1), torch.ones(24).long()))


@torch.no_grad()
def test_inputs_may_come_without_a_name_and_columns_of_other_tasks_are_left_aside():
    model = attached()
    given = inputs(model)
    with as_task(model, "topic"):
        named = model(input_ids=given["input_ids"]).logits
        assert torch.equal(model(given["input_ids"]).logits, named)
        others = {"labels_stars": torch.zeros(4), "task": torch.zeros(4, dtype=torch.long)}
        assert torch.equal(model(input_ids=given["input_ids"], **others).logits, named)


@torch.no_grad()
def test_losses_are_float32_under_autocast():
    model = attached()
    with torch.autocast("cpu", dtype=torch.bfloat16), as_task(model, "topic"):
        output = model(**inputs(model), labels=torch.tensor([0, 1, 2, 0]))
    assert output.logits.dtype == output.loss.dtype == torch.float32


def test_what_it_refuses():
    model = attached()
    with pytest.raises(ValueError, match="no task `mood`: the model has no head for it. Its tasks are topic, stars"):
        with as_task(model, "mood"):
            pass
    with pytest.raises(ValueError, match="no tasks attached: it has one head, its own. Attach them first"):
        with as_task(tiny_bert(), "topic"):
            pass
    with pytest.raises(ValueError, match="in training mode as task `topic`: .* Call `model.eval\\(\\)` first"):
        with as_task(model.train(), "topic"):
            model(**inputs(model))
    assert model(**inputs(model)).logits.shape == (4, 3)  # the error left no hook
