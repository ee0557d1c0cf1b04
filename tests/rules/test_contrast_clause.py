"""Clause B: which tokens it has, what the model says of it, and that asking leaves no trace."""

from __future__ import annotations

import pytest
import torch

from hf_transfer import ContrastClause, DomainAdversarial, RuleConstraint, TransferBatch, attach
from tests.models import lora, tiny_bert, tiny_gpt2, tiny_llama, tiny_token_bert, tiny_vit
from tests.rules.tokenizers import TOKENIZERS, metaspace, whole_words, wordpiece


TEXTS = [
    "the film is good but long",
    "the film is long",
    "why but dull but so fine",
    "But slow",
    "good but",
    "butter is fine",
]
CLAUSES = ["long", None, "so fine", "slow", None, None]


def batch_of(tokenizer, model=None, texts=TEXTS, **options) -> TransferBatch:
    inputs = dict(tokenizer(texts, padding=True, return_tensors="pt", **options))
    return TransferBatch(features=torch.zeros(len(texts), 4), inputs=inputs, model=model)


def asked_alone(tokenizer, model, text: str) -> torch.Tensor:
    inputs = {name: x for name, x in tokenizer(text, return_tensors="pt").items() if name != "token_type_ids"}
    with torch.no_grad():
        return model.eval()(**inputs).logits[0]


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_is_what_the_tokenizer_gives_for_the_clause_alone(name, side):
    tokenizer = TOKENIZERS[name]()
    batch = batch_of(tokenizer, padding_side=side)
    inputs, applies = ContrastClause(tokenizer).clause(batch)
    assert applies.tolist() == [clause is not None for clause in CLAUSES]
    for row, clause in enumerate(CLAUSES):
        kept = inputs["input_ids"][row][inputs["attention_mask"][row].bool()].tolist()
        # within a text a word may have other pieces than at its start, as " fine" and "fine" in bytes
        expected = TEXTS[row] if clause is None else clause
        assert (
            tokenizer.decode(kept, skip_special_tokens=True).strip()
            == tokenizer.decode(tokenizer(expected)["input_ids"], skip_special_tokens=True).strip()
        )
        special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        assert [i for i in kept if i in special] == [i for i in tokenizer(expected)["input_ids"] if i in special]
        length = len(kept)
        assert inputs["attention_mask"][row].tolist() == [1] * length + [0] * (len(inputs["input_ids"][row]) - length)
    assert inputs["input_ids"].shape == batch.inputs["input_ids"].shape


def test_without_a_mask_and_with_token_types():
    tokenizer = wordpiece()
    batch = batch_of(tokenizer, texts=["good but long"], return_token_type_ids=True)
    del batch.inputs["attention_mask"]
    inputs, _ = ContrastClause(tokenizer).clause(batch)
    assert tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())[:3] == ["[CLS]", "long", "[SEP]"]
    assert inputs["token_type_ids"].shape == inputs["input_ids"].shape
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 0, 0]]


def test_another_conjunction():
    tokenizer = wordpiece()
    rule = ContrastClause(tokenizer, "however", confidence=0.5)
    assert (rule.name, rule.confidence) == ("after_however", 0.5)
    _, applies = rule.clause(batch_of(tokenizer, texts=["good , however slow", "good but slow"]))
    assert applies.tolist() == [True, False]


def test_unknown_words_are_no_special_tokens():
    tokenizer = whole_words()
    _, applies = ContrastClause(tokenizer).clause(batch_of(tokenizer, texts=["good but abracadabra"]))
    assert applies.tolist() == [True]


@pytest.mark.parametrize(
    ("make", "tokens"), [(tiny_bert, wordpiece), (tiny_gpt2, whole_words), (tiny_llama, whole_words)]
)
@pytest.mark.parametrize("adapted", [False, True])
def test_truth_is_the_models_own_judgement_of_the_clause(make, tokens, adapted):
    torch.manual_seed(0)
    tokenizer = tokens()
    model = make()
    if adapted:
        options = {"fan_in_fan_out": True} if make is tiny_gpt2 else {}
        model = lora(model, r".*(query|q_proj|c_attn)", lora_dropout=0.5, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.config.pad_token_id = tokenizer.pad_token_id
    truths = ContrastClause(tokenizer).class_truths(batch_of(tokenizer, model.train()), torch.rand(6, 3))
    assert model.training
    for row, clause in enumerate(CLAUSES):
        if clause is None:
            assert truths[row].tolist() == [1, 1, 1]
        else:
            expected = asked_alone(tokenizer, model, clause).softmax(-1)
            torch.testing.assert_close(truths[row], expected, rtol=1e-4, atol=1e-5)


def test_several_labels_a_row():
    tokenizer, model = wordpiece(), tiny_bert(problem_type="multi_label_classification")
    factors = ContrastClause(tokenizer).label_truths(batch_of(tokenizer, model), torch.rand(6, 3))
    expected = torch.sigmoid(asked_alone(tokenizer, model, CLAUSES[0]))
    assert [factor.labels for factor in factors] == [(0,), (1,), (2,)]
    for label, factor in enumerate(factors):
        torch.testing.assert_close(factor.truths[0], torch.stack([1 - expected[label], expected[label]]))
        assert factor.truths[1].tolist() == [1, 1]


def test_asking_leaves_no_trace():
    """The step is that of a model that was not asked: same loss but for the term, modes, random numbers, gradients."""
    tokenizer = wordpiece()
    texts = {**tokenizer(TEXTS, padding=True, return_tensors="pt"), "labels": torch.tensor([0, 1, 2, 0, 1, -100])}
    results = []
    for weight in (None, 0.0):
        torch.manual_seed(3)
        model = tiny_bert().train()
        model.bert.encoder.layer[0].eval()  # frozen by someone
        rules = [] if weight is None else [RuleConstraint([ContrastClause(tokenizer)], weight=weight)]
        attachment = attach(model, [DomainAdversarial(hidden_size=8), *rules])
        loss = model(**texts, domain=torch.arange(6) % 2).loss
        loss.backward()
        modes = {name: m.training for name, m in model.named_modules() if "transfer_objectives" not in name}
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        results.append((attachment.terms, modes, gradients, torch.rand(1)))
        if rules:
            assert attachment.terms["rule_constraint"] > 0
    (bare, modes, gradients, drawn), (asked, modes_after, gradients_after, drawn_after) = results
    assert all(torch.equal(bare[name], asked[name]) for name in bare)
    assert modes == modes_after and not modes["bert.encoder.layer.0"] and torch.equal(drawn, drawn_after)
    assert set(gradients) == set(gradients_after)
    assert all(torch.equal(gradients[name], gradients_after[name]) for name in gradients)


def test_no_gradient_goes_through_clause_b():
    tokenizer, model = wordpiece(), tiny_bert().train()
    truths = ContrastClause(tokenizer).class_truths(batch_of(tokenizer, model), torch.rand(6, 3))
    assert not truths.requires_grad


def test_training_brings_the_whole_to_the_judgement_of_its_last_clause():
    torch.manual_seed(0)
    tokenizer = wordpiece()
    model = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    torch.nn.init.normal_(model.classifier.weight, std=1.0)
    texts = ["the film is good but long and slow", "good but why so dull", "a long film is fine but slow"]
    batch = dict(tokenizer(texts, padding=True, return_tensors="pt"), labels=torch.full((3,), -100))
    with attach(model, [RuleConstraint([ContrastClause(tokenizer)])]) as attachment:
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        values = []
        for _ in range(15):
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
            values.append(attachment.terms["rule_constraint"].item())
    assert values[-1] < 0.5 * values[0]


# torch 2.13 reads `.grad` of what it carries over a graph break
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_runs_beside_compiled_code():
    tokenizer = wordpiece()
    model = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    attachment = attach(model, [RuleConstraint([ContrastClause(tokenizer)])])
    batch = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"), labels=torch.zeros(6, dtype=torch.long))
    torch._dynamo.reset()
    values = []
    for function in (model, torch.compile(model, backend="eager")):
        function(**batch).loss.backward()
        values.append(attachment.terms["rule_constraint"].item())
    assert values[1] == pytest.approx(values[0], rel=1e-5) and model.training


def test_a_token_classifier_is_refused():
    model = tiny_token_bert().train()
    attach(model, [RuleConstraint([ContrastClause(wordpiece())])])
    ids = torch.ones(2, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="Rule `after_but` on a token classifier.*Use it with a sequence classifier"):
        model(input_ids=ids, labels=ids)


def test_an_image_classifier_is_refused():
    model = tiny_vit().train()
    attach(model, [RuleConstraint([ContrastClause(metaspace())])])
    with pytest.raises(ValueError, match="Rule `after_but` reads words"):
        model(pixel_values=torch.zeros(1, 3, 8, 8), labels=torch.tensor([0]))


def test_an_unknown_conjunction():
    with pytest.raises(ValueError, match="no pieces for 'nonetheless'"):
        ContrastClause(wordpiece(), "nonetheless")
