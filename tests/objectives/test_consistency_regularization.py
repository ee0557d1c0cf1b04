"""FixMatch: the label comes from one view and teaches the other; what other rows and objectives see of it."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import default_data_collator

from hf_transfer import (
    DomainAdversarial,
    FixMatch,
    Mixup,
    RDrop,
    TransferArguments,
    TransferBatch,
    TransferTrainer,
    TwoViewsCollator,
    attach,
    mix_domains,
)
from tests.invariants.run import rows
from tests.models import batch_for, lora, tiny_bert, tiny_gpt2, tiny_llama, tiny_resnet, tiny_token_bert, tiny_vit


def views_of(model, rows=4, labelled=(0, 2)):
    """A batch with two labelled rows, and a strong view of the others with fewer different tokens or other pixels."""
    batch = batch_for(model, rows)
    row = torch.tensor([number for number in range(rows) if number not in labelled], dtype=torch.long)
    batch["labels"][row] = -100
    names = [name for name in batch if name not in ("labels", "domain")]
    views = {name: batch[name][row].clone() for name in names}
    changed = views.get("input_ids", views.get("pixel_values"))
    changed[:, 0] = changed[:, 1]
    return {**batch, "strong_view": {**views, "row": row}}


def logits_batch(seed=0):
    """Three rows and the strong views of the last two, in other order."""
    logits = 2 * torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    row = torch.tensor([-1, -1, -1, 2, 1])
    return TransferBatch(
        features=torch.zeros(5, 4), logits=logits.requires_grad_(), labels=torch.full((5,), -100),
        columns={"strong_view": row},
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.0, 0.7])
def test_value_against_the_formula(seed, threshold):
    batch, objective = logits_batch(seed), FixMatch(threshold=threshold)
    z = batch.logits.tolist()
    total = kept = 0
    for strong, weak in ((3, 2), (4, 1)):
        q = [math.exp(value) / sum(map(math.exp, z[weak])) for value in z[weak]]
        label = q.index(max(q))
        if max(q) >= threshold:
            kept += 1
            total -= math.log(math.exp(z[strong][label]) / sum(map(math.exp, z[strong])))
    assert objective(batch).item() == pytest.approx(total / 2, rel=1e-10, abs=1e-15)
    assert objective.diagnostics["share"].item() == kept / 2


def test_only_the_strong_view_learns():
    batch = logits_batch()
    FixMatch(threshold=0.0)(batch).backward()
    assert not batch.logits.grad[:3].any() and batch.logits.grad[3:].abs().sum(1).gt(0).all()
    moved = batch.logits.detach() - 0.1 * batch.logits.grad
    label = batch.logits[2].argmax()
    assert moved[3].softmax(-1)[label] > batch.logits.detach()[3].softmax(-1)[label]


def test_rows_behind_the_batch():
    inputs = {
        "input_ids": torch.arange(6).reshape(3, 2),
        "labels": torch.tensor([2, -100, -100]),
        "domain": torch.tensor([0, 1, 1]),
        "position_ids": torch.arange(2).unsqueeze(0),
        "output_attentions": False,
        "strong_view": {"input_ids": torch.tensor([[9, 9], [8, 8]]), "row": torch.tensor([2, 1])},
    }
    longer = FixMatch().transform(inputs)
    assert longer["input_ids"].tolist() == [[0, 1], [2, 3], [4, 5], [9, 9], [8, 8]]
    assert longer["labels"].tolist() == [2, -100, -100, -100, -100]
    assert longer["domain"].tolist() == [0, 1, 1, 1, 1]
    assert longer["strong_view"].tolist() == [-1, -1, -1, 2, 1]
    assert longer["position_ids"] is inputs["position_ids"] and longer["output_attentions"] is False
    assert len(inputs["labels"]) == 3 and isinstance(inputs["strong_view"], dict)


def test_strong_views_of_labelled_rows_have_no_label():
    view = {"input_ids": torch.zeros(2, 2, dtype=torch.long)}
    inputs = {"input_ids": torch.ones(2, 2, dtype=torch.long), "labels": torch.tensor([1, 0]), "strong_view": view}
    longer = FixMatch().transform(inputs)
    assert longer["labels"].tolist() == [1, 0, -100, -100] and longer["strong_view"].tolist() == [-1, -1, 0, 1]


@pytest.mark.parametrize("make", [tiny_bert, tiny_gpt2, tiny_llama, tiny_vit, tiny_resnet])
def test_every_kind_of_model(make):
    torch.manual_seed(0)
    model = make().train()
    attachment = attach(model, [FixMatch(threshold=0.0)])
    output = model(**views_of(model))
    output.loss.backward()
    assert attachment.terms["fix_match"] > 0 and len(output.logits) == 4
    torch.testing.assert_close(output.loss, attachment.terms["task"] + attachment.terms["fix_match"])


def test_under_lora():
    model = lora(tiny_bert(), ["query"], "classifier").train()
    attachment = attach(model, [FixMatch(threshold=0.0)])
    model(**views_of(model)).loss.backward()
    assert attachment.terms["fix_match"] > 0


def test_the_task_loss_does_not_see_the_views():
    model = tiny_vit().train()
    inputs = views_of(model)
    bare = model(**{k: v for k, v in inputs.items() if k not in ("domain", "strong_view")}).loss
    attachment = attach(model, [FixMatch()])
    model(**inputs)
    torch.testing.assert_close(attachment.terms["task"], bare.detach())


def test_no_unlabelled_row():
    model = tiny_bert().train()
    attachment = attach(model, [FixMatch()])
    model(**views_of(model, labelled=(0, 1, 2, 3))).loss.backward()
    assert attachment.terms["fix_match"].item() == 0


@pytest.mark.parametrize("first", [True, False])
def test_beside_an_alignment_every_view_has_the_domain_of_its_row(first):
    model = tiny_bert().train()
    seen = []

    class Probe(DomainAdversarial):
        def forward(self, batch):
            seen.append(batch.domain.tolist())
            return super().forward(batch)

    objectives = [FixMatch(threshold=0.0), Probe(hidden_size=8)]
    attachment = attach(model, objectives if first else objectives[::-1])
    model(**views_of(model)).loss.backward()
    assert seen == [[0, 1, 0, 1, 1, 1]] and attachment.terms["probe"] > 0


def test_before_rdrop_both_passes_have_views():
    model = tiny_bert().train()
    attachment = attach(model, [FixMatch(threshold=0.0), RDrop()])
    model(**views_of(model)).loss.backward()
    assert attachment.terms["fix_match"] > 0 and attachment.terms["rdrop"] > 0


def test_evaluation_with_the_same_collator():
    model = tiny_bert().eval()
    inputs = views_of(model)
    bare = model(**{k: v for k, v in inputs.items() if k not in ("domain", "strong_view")})
    attach(model, [FixMatch()])
    assert torch.equal(model(**inputs).logits, bare.logits)


@pytest.mark.parametrize("workers", [0, 2], ids=["process", "workers"])
def test_in_the_trainer_with_unused_columns_removed(tmp_path, workers):
    data = mix_domains(rows(8, 0, True, True), rows(8, 1, False, True)).add_column("note", ["x"] * 16)
    args = TransferArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, gradient_accumulation_steps=2,
        report_to="none", use_cpu=True, dataloader_pin_memory=False, disable_tqdm=True, logging_steps=1,
        save_strategy="no", dataloader_num_workers=workers,
    )  # fmt: skip
    collator = TwoViewsCollator(None, collator=default_data_collator, strong=_noise)
    trainer = TransferTrainer(
        tiny_vit(), args, objectives=[FixMatch(threshold=0.0)], train_dataset=data, eval_dataset=data,
        data_collator=collator,
    )  # fmt: skip
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["loss_fix_match"] > 0 and log["fix_match_share"] == 1
    assert math.isfinite(trainer.evaluate()["eval_loss"])


def _noise(inputs):
    return {name: value + torch.randn_like(value) for name, value in inputs.items()}


REFUSED = [
    (lambda i: i.pop("strong_view"), [FixMatch], "FixMatch finds no strong views.*nothing to be consistent.*TwoViews"),
    (
        lambda i: i["strong_view"].update(extra=torch.zeros(2, 1)),
        [FixMatch],
        "strong views have extra.*some of its rows",
    ),
    (
        lambda i: i["strong_view"].update(input_ids=torch.ones(2, 9, dtype=torch.long)),
        [FixMatch],
        r"`input_ids` has rows of shape \(9,\) and the batch of \(6,\).*together.*keep the shape",
    ),
    (lambda i: None, [RDrop, FixMatch], "FixMatch after RDrop.*List `FixMatch` before"),
]


@pytest.mark.parametrize(("spoil", "classes", "message"), REFUSED)
def test_refused_at_the_first_batch(spoil, classes, message):
    model = tiny_bert().train()
    attach(model, [kind() for kind in classes])
    inputs = views_of(model)
    spoil(inputs)
    with pytest.raises(ValueError, match=message):
        model(**inputs)


@pytest.mark.parametrize("classes", [[FixMatch, Mixup], [Mixup, FixMatch]])
def test_mixed_images_are_refused(classes):
    model = tiny_vit().train()
    attach(model, [kind() for kind in classes])
    with pytest.raises(ValueError, match="FixMatch beside Mixup or CutMix.*Take one"):
        model(**views_of(model))


def test_token_classifiers_are_refused():
    model = tiny_token_bert().train()
    attach(model, [FixMatch()])
    with pytest.raises(ValueError, match="FixMatch on a token classifier.*moves them away.*`PseudoLabels`"):
        model(**views_of(model))


def test_constructor_refuses():
    with pytest.raises(ValueError, match="`threshold=-1` is outside"):
        FixMatch(threshold=-1)
