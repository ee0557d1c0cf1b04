"""Attaching and detaching: what changes in a model, and what does not."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from hf_transfer import L2SP, DomainAdversarial, Objective, TransferBatch, attach
from hf_transfer.attach import CHILD
from hf_transfer.objective import TaskTerm
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


class Doubled(Seen):
    """Every row twice, the second behind the first."""

    def transform(self, inputs):
        rows = len(inputs["labels"])
        return {key: torch.cat([x, x]) if len(x) == rows else x for key, x in inputs.items()}


@pytest.mark.parametrize("kind", ["bert", "token_bert", "vit", "resnet", "gpt2"])
def test_rows_an_objective_adds_reach_the_objectives_and_not_the_caller(kind):
    model = TINY[kind]().train()
    seen = Doubled()
    with attach(model, [seen, DomainAdversarial(hidden_size=4)]):
        output = model(**batch_for(model, 3))
    assert len(output.logits) == 3
    assert len(seen.batch.features) == len(seen.batch.logits) == len(seen.batch.labels) == 6
    assert torch.equal(seen.batch.domain, torch.tensor([0, 1, 0, 0, 1, 0]))


def test_inputs_without_a_name_are_given_theirs_where_an_objective_changes_them():
    model = tiny_bert().train()
    batch = batch_for(model, 3)
    with attach(model, [Doubled()]):
        assert len(model(batch["input_ids"], labels=batch["labels"]).logits) == 3
        with pytest.raises(TypeError, match="2 of them come without a name.*which is which.*keywords"):
            model(batch["input_ids"], batch["attention_mask"], labels=batch["labels"])


def test_inputs_are_not_changed_in_evaluation_or_without_labels():
    model = tiny_bert()
    batch = batch_for(model, 3)
    with attach(model, [Doubled()]):
        assert len(model.train()(input_ids=batch["input_ids"]).logits) == 3
        seen = model.eval()(**batch)
    assert len(seen.logits) == 3 and torch.equal(seen.loss, model(**{**batch, "domain": None}).loss)


class ReadsBlocks(Seen):
    def build(self, spec):
        self.hidden_states = spec.anatomy.blocks
        return self


@pytest.mark.parametrize("kind", ["bert", "vit", "resnet", "llama"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_hidden_states_are_the_outputs_of_the_blocks_with_their_graph(kind, checkpointing):
    model = TINY[kind]().train()
    if checkpointing and not model.supports_gradient_checkpointing:
        pytest.skip("transformers has no gradient checkpointing for it")
    if checkpointing:
        # renamed after transformers 5.20
        name = "activation_checkpointing_enable"
        getattr(model, name if hasattr(model, name) else "gradient_checkpointing_enable")()
    seen = ReadsBlocks(weight=0.0)
    with attach(model, [seen]) as attachment:
        outputs = model(**batch_for(model), output_hidden_states=True)
        names = attachment.anatomy.blocks
    states = seen.batch.hidden_states
    assert set(states) == set(names)
    assert any(
        state.shape == states[names[0]].shape and torch.equal(state, states[names[0]])
        for state in outputs.hidden_states
    )
    states[names[0]].sum().backward()
    parameter = next(model.get_submodule(names[0]).parameters())
    assert parameter.grad is not None and parameter.grad.any()


def test_hidden_states_are_forgotten_after_the_forward_and_hooks_after_detaching():
    model = tiny_bert().train()
    before = fingerprint(model)
    with attach(model, [ReadsBlocks()]) as attachment:
        model(**batch_for(model))
        assert attachment._states.take() == {}
        model.eval()(**batch_for(model))
        assert attachment._states.take() == {}
    assert same(before, fingerprint(model))


def test_hidden_states_of_a_module_that_is_not_there():
    class Wrong(Seen):
        hidden_states = ("bert.encoder.layer.99",)

    with pytest.raises(ValueError, match="no module `bert.encoder.layer.99`.*cannot be read.*Name one of its blocks"):
        attach(tiny_bert(), [Wrong()])


class Halved(TaskTerm):
    """Every row counts half."""

    def adjust(self, rows, batch):
        return replace(rows, weights=rows.weights / 2)


def test_task_terms_take_the_place_of_the_models_loss_one_after_the_other():
    model = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    batch = batch_for(model)
    with attach(model, []):
        bare = model(**batch).loss
    with attach(model, [Halved(), L2SP(), Halved()]) as attachment:
        total = model(**batch).loss
        assert str(attachment.objectives) == "loss = halved(halved(task)) + 0.01 * l2sp"
    assert list(attachment.terms) == ["task", "l2sp"]
    torch.testing.assert_close(total, bare / 4)


@pytest.mark.parametrize("options", [{"num_labels": 1}, {"problem_type": "regression"}])
def test_task_terms_refuse_a_regression(options):
    with pytest.raises(ValueError, match="Halved on a regression: .*the squared error has none.*`num_labels` of 2"):
        attach(tiny_bert(**options), [Halved()])


def test_a_task_term_must_define_adjust():
    model = tiny_bert().train()
    with attach(model, [TaskTerm()]), pytest.raises(NotImplementedError, match="must define `adjust"):
        model(**batch_for(model))


class Instead(Seen):
    """A term in place of the task loss."""

    replaces_task_loss = True


@pytest.mark.parametrize("kind", TINY)
@pytest.mark.parametrize("labelled", [True, False])
def test_a_term_can_stand_in_place_of_the_task_loss(kind, labelled):
    model = TINY[kind]().train()
    own, other = Instead(weight=2.0), Seen(weight=0.5)
    with attach(model, [own, other]) as attachment:
        head = model.get_submodule(attachment.anatomy.head)
        loss = model(**batch_for(model, labelled=labelled)).loss
        loss.backward()
        assert attachment.terms["task"] == 0 and str(attachment.objectives) == "loss = 2.0 * instead + 0.5 * seen"
    torch.testing.assert_close(loss, 2.5 * own.batch.features.mean())
    # there are gradients for every rank to reduce, and they are zero
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


def test_infinite_logits_of_a_head_that_does_not_count_leave_the_zero():
    model = tiny_bert().train()
    with attach(model, [Instead()]), torch.no_grad():
        model.classifier.bias.fill_(torch.inf)
        assert model(**batch_for(model)).loss.isfinite()


def test_objectives_are_told_when_a_step_begins():
    class Counting(Seen):
        steps = 0

        def begin_step(self):
            self.steps += 1

    counting, model = Counting(), tiny_bert().train()
    with attach(model, [counting]) as attachment:
        for step in range(3):
            attachment.progress = step / 3
            for _ in range(2):
                model(**batch_for(model))
    assert counting.steps == 3
