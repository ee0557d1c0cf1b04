"""Words that speak for a label: texts, tokens, several labels a row."""

from __future__ import annotations

import pytest
import torch

from hf_transfer import KeywordRule, ModelSpec, RuleConstraint, TransferBatch, attach
from tests.models import batch_for, tiny_bert, tiny_token_bert, tiny_vit
from tests.rules.tokenizers import TOKENIZERS, wordpiece


TEXTS = ["the film is good", "a dull film", "goods butter", "However , GOOD"]
SPEC = ModelSpec(feature_dim=4, num_labels=3)


def batch_of(tokenizer, texts=TEXTS) -> TransferBatch:
    return TransferBatch(
        features=torch.zeros(len(texts), 4), inputs=tokenizer(texts, padding=True, return_tensors="pt")
    )


@pytest.mark.parametrize("name", TOKENIZERS)
def test_texts_with_the_word_have_the_label(name):
    tokenizer = TOKENIZERS[name]()
    capitals = name not in ("whole words", "metaspace")  # which do not know them
    texts = TEXTS if capitals else TEXTS[:3]
    rule = KeywordRule(tokenizer, ["good"], 2).build(SPEC)
    truths = rule.class_truths(batch_of(tokenizer, texts), torch.rand(len(texts), 3))
    found = [0, 3] if capitals else [0]
    for row in range(len(texts)):
        assert truths[row].tolist() == ([0, 0, 1] if row in found else [1, 1, 1]), texts[row]


def test_tokens_of_the_word_have_the_label():
    tokenizer = wordpiece()
    batch = batch_of(tokenizer, ["a butter film", "good"])
    rule = KeywordRule(tokenizer, ["butter"], 1).build(SPEC)
    truths = rule.class_truths(batch, torch.rand(2, batch.inputs["input_ids"].shape[1], 3))
    of_word = (truths == torch.tensor([0.0, 1.0, 0.0])).all(-1)
    pieces = tokenizer.convert_ids_to_tokens(batch.inputs["input_ids"][0].tolist())
    assert [piece for piece, hit in zip(pieces, of_word[0], strict=True) if hit] == ["but", "##ter"]
    assert (truths[~of_word] == 1).all() and not of_word[1].any()


def test_padding_is_not_read():
    tokenizer = wordpiece()
    batch = batch_of(tokenizer, ["good"])
    batch.inputs["attention_mask"][:, 1] = 0
    assert (KeywordRule(tokenizer, ["good"], 0).build(SPEC).class_truths(batch, torch.rand(1, 3)) == 1).all()


def test_several_labels_a_row():
    tokenizer = wordpiece()
    rule = KeywordRule(tokenizer, ["good", "fine"], 1).build(SPEC)
    (factor,) = rule.label_truths(batch_of(tokenizer), torch.rand(4, 3))
    assert factor.labels == (1,) and factor.truths.tolist() == [[0, 1], [1, 1], [1, 1], [0, 1]]


def test_names_the_label_and_takes_its_name():
    names = {"label2id": {"bad": 0, "fine": 1, "so": 2}, "id2label": {0: "bad", 1: "fine", 2: "so"}}
    spec = ModelSpec(feature_dim=16, num_labels=3, model=tiny_bert(**names))
    rule = KeywordRule(wordpiece(), ["good"], "fine", confidence=0.7)
    assert (rule.name, rule.confidence) == ("keywords_fine", 0.7)
    assert rule.build(spec).class_truths(batch_of(wordpiece()), torch.rand(4, 3))[0].tolist() == [0, 1, 0]


def test_trains_a_text_model_and_a_token_model_towards_the_label():
    tokenizer = wordpiece()
    for make in (tiny_bert, tiny_token_bert):
        model = make(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
        rule = KeywordRule(tokenizer, ["good"], 2, confidence=1.0)
        with attach(model, [RuleConstraint([rule])]) as attachment:
            batch = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))
            shape = (4,) if make is tiny_bert else batch["input_ids"].shape
            optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
            values = []
            for _ in range(12):
                optimizer.zero_grad()
                model(**batch, labels=torch.full(shape, -100)).loss.backward()
                optimizer.step()
                values.append(attachment.terms["rule_constraint"].item())
        assert values[-1] < 0.3 * values[0]


def test_images_have_no_words():
    model = tiny_vit().train()
    attach(model, [RuleConstraint([KeywordRule(wordpiece(), ["good"], 0)])])
    with pytest.raises(ValueError, match="Rule `keywords_0` reads words.*pixel_values.*Use it with a text model"):
        model(**batch_for(model))
