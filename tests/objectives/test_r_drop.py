"""R-Drop: the doubled batch, the divergence of its halves, and what becomes of the task loss."""

from __future__ import annotations

import logging

import pytest
import torch
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments
from transformers.utils import logging as transformers_logging

from hf_transfer import DomainAdversarial, ModelSpec, TransferArguments, TransferBatch, TransferTrainer, attach
from hf_transfer.objectives.regularization.r_drop import RDrop
from tests.invariants.run import rows
from tests.models import batch_for, lora, tiny_bert, tiny_gpt2, tiny_llama, tiny_resnet, tiny_token_bert, tiny_vit


QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def built(**config) -> RDrop:
    model = tiny_bert(**config)
    return RDrop().build(ModelSpec(feature_dim=16, num_labels=model.config.num_labels, model=model))


def kl(p, q) -> torch.Tensor:
    return (p * (p / q).log()).sum(-1)


def halves(*shape) -> tuple[torch.Tensor, TransferBatch]:
    generator = torch.Generator().manual_seed(6)
    logits = torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)
    return logits, TransferBatch(features=torch.arange(shape[0]).unsqueeze(1).double(), logits=logits)


def test_value_against_both_divergences():
    logits, batch = halves(6, 3)
    p = logits.softmax(-1)
    expected = sum((kl(p[i], p[i + 3]) + kl(p[i + 3], p[i])) / 2 for i in range(3)) / 3
    assert built()(batch).item() == pytest.approx(expected.item(), rel=1e-10)


def test_gradient_goes_into_both_passes_and_brings_them_together():
    logits, batch = halves(6, 3)
    built()(batch).backward()
    assert all(half.abs().sum() > 0 for half in logits.grad.chunk(2))
    moved = TransferBatch(features=batch.features, logits=logits.detach() - 0.1 * logits.grad)
    assert built()(moved) < built()(batch)


def test_padding_does_not_count():
    logits, batch = halves(4, 5, 3)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).repeat(2, 1)
    masked = TransferBatch(features=batch.features, logits=logits, attention_mask=mask)
    p = logits.softmax(-1)
    tokens = [(n, t) for n in range(2) for t in range(5) if mask[n, t]]
    expected = sum((kl(p[n, t], p[n + 2, t]) + kl(p[n + 2, t], p[n, t])) / 2 for n, t in tokens) / len(tokens)
    assert built()(masked).item() == pytest.approx(expected.item(), rel=1e-10)


@pytest.mark.parametrize("known", ["by the labels", "by the configuration"])
def test_several_labels_a_row_are_bernoulli_variables(known):
    logits, batch = halves(4, 3)
    p = torch.stack([1 - logits.sigmoid(), logits.sigmoid()], -1)
    expected = ((kl(p[:2], p[2:]) + kl(p[2:], p[:2])) / 2).mean()
    if known == "by the labels":
        objective, labels = built(), torch.zeros(4, 3)
    else:
        objective, labels = built(problem_type="multi_label_classification"), None
    value = objective(TransferBatch(features=batch.features, logits=logits, labels=labels))
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("config", [{"num_labels": 1}, {"problem_type": "regression"}])
def test_a_regression_is_the_squared_difference(config):
    logits, batch = halves(4, config.get("num_labels", 3))
    value = built(**config)(TransferBatch(features=batch.features, logits=logits, labels=torch.zeros(4)))
    torch.testing.assert_close(value, (logits[:2] - logits[2:]).square().mean())


def test_what_belongs_to_rows_is_doubled_and_nothing_else():
    inputs = {
        "input_ids": torch.arange(6).reshape(3, 2),
        "labels": torch.tensor([0, 1, 2]),
        "domain": torch.tensor([0, 1, 0]),
        "position_ids": torch.arange(2).unsqueeze(0),
        "scale": torch.tensor(2.0),
        "output_attentions": False,
        "num_items_in_batch": torch.tensor(3),
    }
    doubled = RDrop().transform(inputs)
    for name in ("input_ids", "labels", "domain"):
        assert torch.equal(doubled[name], torch.cat([inputs[name], inputs[name]])), name
    for name in ("position_ids", "scale", "output_attentions"):
        assert doubled[name] is inputs[name], name
    assert doubled["num_items_in_batch"] == 6 and doubled["dropout_pass"].tolist() == [0, 0, 0, 1, 1, 1]
    assert len(inputs["input_ids"]) == 3 and inputs["num_items_in_batch"] == 3


@pytest.mark.parametrize("make", [tiny_bert, tiny_token_bert, tiny_gpt2, tiny_llama])
@pytest.mark.parametrize("wrapped", [False, True], ids=["full", "lora"])
def test_text_models(make, wrapped):
    options = {"attention_dropout": 0.1} if make is tiny_llama else {}
    model = make(**options)
    if wrapped:
        targets = {tiny_gpt2: ["c_attn"], tiny_llama: ["q_proj"]}.get(make, ["query"])
        head = "score" if make in (tiny_gpt2, tiny_llama) else "classifier"
        model = lora(model, targets, head, fan_in_fan_out=make is tiny_gpt2)
    model.train()
    attachment = attach(model, [RDrop()])
    inputs = batch_for(model)
    output = model(**inputs)
    output.loss.backward()
    assert attachment.terms["rdrop"] > 0 and len(output.logits) == 4
    torch.testing.assert_close(output.loss, attachment.terms["task"] + 0.5 * attachment.terms["rdrop"])


def test_images():
    model = tiny_vit(hidden_dropout_prob=0.1).train()
    attachment = attach(model, [RDrop()])
    output = model(**batch_for(model))
    output.loss.backward()
    assert attachment.terms["rdrop"] > 0 and output.logits.shape == (4, 3)


def test_task_loss_is_the_mean_over_both_passes():
    model = tiny_bert().train()
    attachment = attach(model, [RDrop(), probe := Probe()])
    inputs = batch_for(model)
    model(**inputs)
    first, second = probe.logits.chunk(2)
    losses = [F.cross_entropy(half, inputs["labels"]) for half in (first, second)]
    assert losses[0] != losses[1]
    torch.testing.assert_close(attachment.terms["task"], sum(losses) / 2)


class Probe(DomainAdversarial):
    """Keeps the logits it is shown."""

    def __init__(self):
        super().__init__(hidden_size=8)

    def forward(self, batch):
        self.logits, self.domain = batch.logits.detach(), batch.domain
        return super().forward(batch)


@pytest.mark.parametrize("first", [True, False])
def test_with_domains_every_row_keeps_its_own(first):
    model = tiny_bert().train()
    objectives = [RDrop(), probe := Probe()]
    attachment = attach(model, objectives if first else objectives[::-1])
    model(**batch_for(model)).loss.backward()
    assert probe.domain.tolist() == [0, 1, 0, 1] * 2
    assert attachment.terms["probe"] > 0 and attachment.terms["rdrop"] > 0


def test_needs_no_label():
    model = tiny_bert().train()
    attachment = attach(model, [RDrop()])
    model(**batch_for(model, labelled=False)).loss.backward()
    assert attachment.terms["task"].item() == 0 and attachment.terms["rdrop"] > 0


@pytest.mark.parametrize("rows", [1, 2])
def test_few_rows(rows):
    model = tiny_bert().train()
    attachment = attach(model, [RDrop()])
    output = model(**batch_for(model, rows))
    output.loss.backward()
    assert attachment.terms["rdrop"] > 0 and len(output.logits) == rows


def test_without_dropout_it_is_zero_and_warned_of_once(caplog):
    transformers_logging.warning_once.cache_clear()
    model = tiny_bert(**QUIET).train()
    attachment = attach(model, [RDrop()])
    with caplog.at_level(logging.WARNING, logger="hf_transfer"):
        for _ in range(3):
            model(**batch_for(model)).loss.backward()
            assert attachment.terms["rdrop"].item() == 0
    assert len(caplog.messages) == 1 and "no dropout" in caplog.messages[0] and "hidden_dropout_prob" in caplog.text


def test_a_head_of_zeros_is_not_taken_for_a_model_without_dropout(caplog):
    transformers_logging.warning_once.cache_clear()
    model = tiny_bert().train()
    torch.nn.init.zeros_(model.classifier.weight)
    attachment = attach(model, [RDrop()])
    with caplog.at_level(logging.WARNING, logger="hf_transfer"):
        model(**batch_for(model))
    assert attachment.terms["rdrop"].item() == 0 and not caplog.messages


def test_batch_norm_sees_each_row_twice_and_nothing_else():
    torch.manual_seed(0)
    model = tiny_resnet().train()
    inputs = batch_for(model)
    del inputs["domain"]
    bare = model(**inputs)
    attach(model, [RDrop()])
    torch.testing.assert_close(model(**inputs).loss, bare.loss, rtol=1e-4, atol=1e-5)


def test_evaluation_is_bit_identical():
    model = tiny_bert().eval()
    inputs = batch_for(model)
    del inputs["domain"]
    bare = model(**inputs)
    attach(model, [RDrop()])
    inside = model(**inputs)
    assert torch.equal(bare.loss, inside.loss) and torch.equal(bare.logits, inside.logits)


def test_in_the_stock_trainer_the_task_loss_keeps_its_scale(tmp_path):
    """It hands the number of rows to the model, which divides the sum over twice as many by it."""

    def loss_of(objectives):
        torch.manual_seed(0)
        model = tiny_bert(**QUIET)
        attach(model, objectives)
        args = TrainingArguments(
            str(tmp_path), max_steps=1, logging_steps=1, report_to="none", use_cpu=True, save_strategy="no",
            dataloader_pin_memory=False, disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(model, args, train_dataset=rows(8, 0, True, False))
        trainer.train()
        return trainer.state.log_history[0]["loss"]

    assert loss_of([RDrop()]) == pytest.approx(loss_of([]), rel=1e-4)


def test_accumulated_and_resumed_runs(tmp_path):
    def trainer(folder, **options):
        torch.manual_seed(0)
        args = TransferArguments(
            output_dir=str(folder), max_steps=4, save_steps=2, save_strategy="steps", learning_rate=1e-2,
            report_to="none", use_cpu=True, dataloader_pin_memory=False, disable_tqdm=True, bf16=True, **options,
        )  # fmt: skip
        return TransferTrainer(tiny_bert(), args, objectives=[RDrop()], train_dataset=rows(16, 0, True, False))

    options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    straight, resumed = trainer(tmp_path, **options), trainer(tmp_path, **options)
    straight.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for (key, first), second in zip(straight.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(first, second), key


def test_rows_that_were_not_doubled_are_refused():
    with pytest.raises(ValueError, match="RDrop got 3 rows.*Attach it to the model with `attach`"):
        built()(halves(3, 2)[1])
