"""Attaching and detaching: what changes in a model, and what does not."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn

from hf_transfer import L2SP, DomainAdversarial, Objective, TransferBatch, attach
from hf_transfer.attach import CHILD
from tests.models import TINY, batch_for, lora, tiny_bert, tiny_resnet, tiny_vit


class Seen(Objective):
    """Keeps the batch it was given; its term is the mean feature."""

    def forward(self, batch):
        self.batch = batch
        return batch.features.mean()


def fingerprint(model: nn.Module):
    state = {key: value.clone() for key, value in model.state_dict().items()}
    hooks = [(name, len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()]
    attributes = set(vars(model)) | {str(getattr(model, "_keys_to_ignore_on_save", None))}
    return state, hooks, attributes


def same(first, second) -> bool:
    return (
        first[1:] == second[1:]
        and first[0].keys() == second[0].keys()
        and all(torch.equal(value, second[0][key]) for key, value in first[0].items())
    )


@pytest.mark.parametrize("kind", TINY)
def test_head_of_features_is_the_logits(kind):
    """The tap sees what the head turns into the logits, pooled as the model pools."""
    model = TINY[kind](**({"attention_probs_dropout_prob": 0.0} if kind == "bert" else {})).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    seen = Seen(weight=0.0)
    with attach(model, [seen]) as attachment:
        output = model(**batch_for(model))
        head = model.get_submodule(attachment.anatomy.head)
    assert seen.batch.features.dtype == torch.float32
    torch.testing.assert_close(head(seen.batch.features), output.logits)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "vit"])
def test_head_of_features_is_the_logits_under_lora(kind):
    targets = {"bert": ["query"], "gpt2": ["c_attn"], "llama": ["q_proj"], "vit": ["q_proj", "query"]}[kind]
    head = {"bert": "classifier", "vit": "classifier"}.get(kind, "score")
    options = {"fan_in_fan_out": True} if kind == "gpt2" else {}
    model = lora(TINY[kind](), targets, head, **options).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    seen = Seen(weight=0.0)
    attachment = attach(model, [seen])
    output = model(**batch_for(model))
    torch.testing.assert_close(model.get_submodule(attachment.anatomy.head)(seen.batch.features), output.logits)


@pytest.mark.parametrize("side", ["left", "right"])
def test_decoder_features_are_pooled_at_the_last_token_that_is_no_padding(side):
    model = TINY["gpt2"]().train()
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 0, 0]]) if side == "right" else torch.tensor([[5, 6, 7, 8], [0, 0, 5, 6]])
    states = {}
    model.score.register_forward_pre_hook(lambda _, args: states.update(all=args[0].detach()))
    seen = Seen()
    attach(model, [seen])
    model(input_ids=ids, attention_mask=(ids != 0).long(), labels=torch.tensor([0, 1]))
    last = [3, 1] if side == "right" else [3, 3]
    assert torch.equal(seen.batch.features, torch.stack([states["all"][0, last[0]], states["all"][1, last[1]]]))


def test_batch_holds_what_the_model_was_given():
    model, seen = tiny_bert().train(), Seen()
    attach(model, [seen]).progress = 0.25
    batch = batch_for(model)
    output = model(**batch)
    assert torch.equal(seen.batch.domain, batch["domain"])
    assert torch.equal(seen.batch.labels, batch["labels"])
    assert torch.equal(seen.batch.attention_mask, batch["attention_mask"])
    assert torch.equal(seen.batch.logits, output.logits)
    assert float(seen.batch.progress) == 0.25


def test_extra_columns_arrive_by_name_and_never_reach_the_model():
    class NeedsTeacher(Seen):
        columns = ("teacher_logits",)

    model, seen = tiny_bert().train(), NeedsTeacher()
    attach(model, [seen])
    teacher = torch.randn(4, 3)
    model(**batch_for(model), teacher_logits=teacher)
    assert torch.equal(seen.batch.teacher_logits, teacher)
    model.eval()(**batch_for(model), teacher_logits=teacher)


@pytest.mark.parametrize("make", [tiny_bert, tiny_vit, tiny_resnet])
def test_detached_model_is_as_never_attached(make):
    model = make().train()
    before = fingerprint(model)
    random = torch.random.get_rng_state()
    attachment = attach(model, [DomainAdversarial(hidden_size=4), L2SP()])
    assert torch.equal(random, torch.random.get_rng_state()), "attaching consumed random numbers"
    attachment.detach()
    assert same(before, fingerprint(model))
    attachment.detach()  # twice is harmless
    assert model.zero_grad() is None


def test_detached_peft_model_is_as_never_attached():
    model = lora(tiny_bert(), ["query"], "classifier")
    before = fingerprint(model)
    attach(model, [DomainAdversarial(hidden_size=4), L2SP()]).detach()
    assert same(before, fingerprint(model))


def test_attaching_twice_counts_the_terms_once():
    model = tiny_bert().train()
    objectives = [Seen()]
    first = attach(model, objectives)
    assert attach(model, objectives) is first
    model(**batch_for(model))
    assert list(first.terms) == ["task", "seen"]


def test_attaching_others_is_refused():
    model = tiny_bert()
    attach(model, [Seen()])
    with pytest.raises(ValueError, match="already has objectives attached .seen.*detach"):
        attach(model, [Seen()])


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, partial(torch.compile, backend="eager")], ids=["DataParallel", "compile"]
)
def test_wrapped_model_is_refused(wrap):
    with pytest.raises(TypeError, match="wrapped in .*bare model first"):
        attach(wrap(tiny_bert()), [Seen()])


def test_something_else_than_an_objective_is_refused():
    with pytest.raises(TypeError, match="is no `Objective`.*subclass"):
        attach(tiny_bert(), [nn.Linear(1, 1)])


def test_missing_column_is_named_with_what_is_there():
    model = tiny_bert().train()
    attach(model, [DomainAdversarial()])
    batch = batch_for(model)
    del batch["domain"]
    with pytest.raises(
        ValueError,
        match="DomainAdversarial needs column `domain`; the batch has attention_mask, input_ids, labels.*mix_domains",
    ):
        model(**batch)


@pytest.mark.parametrize("make", [tiny_bert, tiny_resnet])
def test_exported_model_has_no_foreign_key(make, tmp_path):
    from safetensors.torch import load_file

    model = make()
    keys = set(model.state_dict())
    attach(model, [DomainAdversarial(hidden_size=4), L2SP()])
    model.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == {k for k in keys if "position_ids" not in k}
    again, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]


def test_exported_adapter_has_no_foreign_key(tmp_path):
    from safetensors.torch import load_file

    model = lora(tiny_bert(), ["query"], "classifier")
    attach(model, [DomainAdversarial(hidden_size=4)])
    model.save_pretrained(tmp_path)
    assert not [key for key in load_file(tmp_path / "adapter_model.safetensors") if CHILD in key]


def test_training_without_labels_leaves_the_output_alone():
    model = tiny_bert().train()
    attach(model, [Seen()])
    batch = batch_for(model)
    del batch["labels"]
    assert model(**batch).loss is None


def test_tuple_outputs():
    model = tiny_bert().train()
    attachment = attach(model, [Seen(weight=2.0)])
    loss, logits = model(**batch_for(model), return_dict=False)[:2]
    assert loss.item() == pytest.approx((attachment.terms["task"] + 2 * attachment.terms["seen"]).item(), rel=1e-6)
    assert logits.shape == (4, 3)


def test_deep_copy_has_objectives_of_its_own():
    model = tiny_bert().train()
    attach(model, [DomainAdversarial(hidden_size=4)])
    copied = copy.deepcopy(model)
    copied(**batch_for(model)).loss.backward()
    assert all(p.grad is None for p in model.parameters())
    assert all(p.grad is not None for p in getattr(copied, CHILD).parameters())


def test_objectives_run_in_float32_inside_autocast():
    model = tiny_bert().train()
    attachment = attach(model, [DomainAdversarial(hidden_size=4)])
    dtypes = []
    discriminator = attachment.objectives["domain_adversarial"].discriminator
    discriminator.register_forward_hook(lambda _, __, output: dtypes.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(**batch_for(model)).loss.backward()
    assert dtypes == [torch.float32]


def test_means_since_the_last_drain():
    model = tiny_bert().train()
    attachment = attach(model, [Seen()])
    values = []
    for seed in range(3):
        model(**batch_for(model, seed=seed))
        values.append([attachment.terms["task"].item(), attachment.terms["seen"].item()])
    names, means = attachment.drain()
    assert names == ["loss_task", "loss_seen"]
    torch.testing.assert_close(means, torch.tensor(values).mean(0))
    assert attachment.drain()[1] is None


@pytest.mark.parametrize("problem", ["regression", "multi_label_classification"])
def test_unlabelled_rows_of_other_problems_are_left_out(problem):
    """Models of transformers take -100 as a value there."""
    width = 1 if problem == "regression" else 3
    model = tiny_bert(
        num_labels=width, problem_type=problem, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    batch = batch_for(model)
    labels = torch.rand(4) if width == 1 else torch.randint(0, 2, (4, 3)).float()
    half = {key: value[:2] for key, value in batch.items() if key != "domain"}
    alone = model.train()(**{**half, "labels": labels[:2]}).loss
    masked = labels.clone()
    masked[2:] = -100
    attachment = attach(model, [Seen()])
    model(**{**batch, "labels": masked})
    assert attachment.terms["task"].item() == pytest.approx(alone.item(), rel=1e-5)


def test_batch_names_a_column_it_lacks():
    with pytest.raises(AttributeError, match="no column `teacher_logits`; it has no extra columns.*Add"):
        _ = TransferBatch(features=torch.zeros(1, 2)).teacher_logits
