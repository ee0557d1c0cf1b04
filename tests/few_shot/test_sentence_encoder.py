"""The text classifier on pooled tokens: what its head is given, and that it is a model as any other."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    DistilBertConfig,
    pipeline,
)

from hf_transfer import anatomy, attach
from hf_transfer.few_shot.sentence_encoder import SentenceEncoderConfig, SentenceEncoderForSequenceClassification
from hf_transfer.objectives import L2SP
from tests.few_shot.models import NAMES, tokenizer
from tests.few_shot.sentence_models import batch, classifier
from tests.launching import launch
from tests.models import bert_config


def head_inputs(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    hook = model.classifier.register_forward_pre_hook(lambda head, args: seen.append(args[0]))
    with torch.no_grad():
        model(**inputs)
    hook.remove()
    return seen[0]


def naive(vectors: list[list[float]], mask: list[int], pooling: str) -> list[float]:
    """One row, number by number in the order of the tokens."""
    real = [vector for vector, kept in zip(vectors, mask, strict=True) if kept]
    if pooling == "cls":
        return real[0]
    if pooling == "last":
        return real[-1]
    total = [0.0] * len(real[0])
    for vector in real:
        total = [before + number for before, number in zip(total, vector, strict=True)]
    return [number / len(real) for number in total]


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_the_head_is_given_the_pooled_tokens(kind, pooling, left, normalize):
    model = classifier(kind, pooling=pooling)
    model.config.normalize = normalize
    inputs = batch(left=left)
    with torch.no_grad():
        tokens = model.text_model(**inputs).last_hidden_state.double()
    expected = torch.tensor(
        [
            naive(row, kept, pooling)
            for row, kept in zip(tokens.tolist(), inputs["attention_mask"].tolist(), strict=True)
        ]
    ).double()
    if normalize:
        expected = expected / expected.square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(head_inputs(model, inputs).double(), expected, rtol=1e-5, atol=1e-6)


def test_padding_changes_nothing_and_no_mask_means_no_padding():
    model = classifier()
    inputs = batch()
    whole = model(**inputs).logits
    for row, count in enumerate((5, 2, 1)):
        alone = model(inputs["input_ids"][row : row + 1, :count]).logits
        torch.testing.assert_close(alone[0], whole[row], rtol=1e-4, atol=1e-6)


def test_what_is_no_number_at_padding_does_not_spread():
    from hf_transfer.few_shot.sentence_encoder import _pooled

    tokens = torch.tensor([[[1.0], [3.0], [float("nan")]], [[float("inf")], [2.0], [4.0]]])
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]])
    assert _pooled(tokens, mask, "mean").tolist() == [[2.0], [3.0]]
    assert _pooled(tokens, mask, "last").tolist() == [[3.0], [4.0]]
    assert _pooled(tokens[:, :, :], torch.zeros(2, 3), "mean").tolist() == [[0.0], [0.0]]


def test_half_precision_averages_in_single():
    model = classifier().to(torch.bfloat16)
    assert head_inputs(model, batch()).dtype == torch.bfloat16
    assert torch.isfinite(model(**batch()).logits).all()


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_saved_and_loaded_it_is_the_same(tmp_path, kind):
    model = classifier(kind, pooling="last")
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert type(again) is SentenceEncoderForSequenceClassification and again.config.pooling == "last"
    assert torch.equal(again(**batch()).logits, model(**batch()).logits)
    assert not any("pooler" in name for name, _ in again.named_parameters())


def named(kind: str = "bert") -> Any:
    model = classifier(kind)
    model.config.id2label = dict(enumerate(NAMES))
    model.config.label2id = {name: number for number, name in enumerate(NAMES)}
    return model


def test_loads_where_this_package_is_not(tmp_path):
    model = named()
    model.save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    done = launch("tests.few_shot.sentence_code", tmp_path / "model", tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    logits, said = json.loads(done.stdout)
    expected = model(torch.tensor([[3, 4, 5, 6]])).logits
    torch.testing.assert_close(torch.tensor(logits), expected.detach())
    chosen = model(**tokenizer()("the apple", return_tensors="pt")).logits.softmax(-1)[0]
    assert said[0]["label"] == NAMES[int(chosen.argmax())]
    assert said[0]["score"] == pytest.approx(chosen.max().item(), abs=1e-5)


@pytest.mark.parametrize("kind", ["bert", "llama"])  # of which only BERT reads token types
def test_in_a_pipeline(kind):
    model = named(kind)
    own = tokenizer()
    own.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    assert "token_type_ids" in own("apple")
    classify: Any = pipeline("text-classification", model=model, tokenizer=own, device="cpu")
    assert {found["label"] for found in classify("an apple", top_k=None)} == set(NAMES)


def test_has_a_head_blocks_and_embeddings():
    parts = anatomy(classifier())
    assert parts.head == "classifier" and parts.feature_dim == 16 and not parts.parts()["neck"]
    assert parts.blocks == tuple(f"text_model.encoder.layer.{number}" for number in range(3))
    assert parts.embeddings == ("text_model.embeddings",)
    llama = anatomy(classifier("llama"))
    assert llama.blocks == ("text_model.layers.0", "text_model.layers.1")
    assert llama.embeddings == ("text_model.embed_tokens",)


def test_trains_with_objectives_and_every_weight_has_a_gradient():
    model = classifier().train()
    attach(model, [L2SP()])
    model(**batch(), labels=torch.tensor([0, 2, 1])).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("problem", "labels", "loss"),
    [
        ("single_label_classification", torch.tensor([0, 2, 1]), torch.nn.functional.cross_entropy),
        ("multi_label_classification", torch.eye(3), torch.nn.functional.binary_cross_entropy_with_logits),
        ("regression", torch.randn(3, 3), torch.nn.functional.mse_loss),
    ],
)
def test_every_kind_of_problem(problem, labels, loss):
    model = classifier()
    model.config.problem_type = problem
    output = model(**batch(), labels=labels)
    torch.testing.assert_close(output.loss, loss(output.logits, labels))


def test_one_output_is_a_regression():
    model = classifier(num_labels=1)
    output = model(**batch(), labels=torch.tensor([0.5, 1.0, 2.0]))
    torch.testing.assert_close(output.loss, ((output.logits[:, 0] - torch.tensor([0.5, 1.0, 2.0])) ** 2).mean())


def test_hidden_states_attentions_and_tuples():
    model = classifier()
    model.set_attn_implementation("eager")
    output = model(**batch(), output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == 4 and len(output.attentions) == 3
    (logits,) = model(**batch(), return_dict=False)
    assert logits.shape == (3, 3) and model(**batch()).loss is None and model(**batch()).hidden_states is None
    model.config.output_hidden_states = True
    assert len(model(**batch()).hidden_states) == 4


def test_embedded_inputs_and_types_of_tokens():
    model = classifier()
    inputs = batch()
    embedded = model.get_input_embeddings()(inputs["input_ids"])
    plain = model(**inputs).logits
    torch.testing.assert_close(model(inputs_embeds=embedded, attention_mask=inputs["attention_mask"]).logits, plain)
    other = model(**inputs, token_type_ids=torch.ones_like(inputs["input_ids"])).logits
    assert not torch.allclose(other, plain)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_gradient_checkpointing_changes_no_gradient(kind):
    gradients = []
    for checkpointing in (False, True):
        dropouts = {} if kind == "llama" else {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        model = classifier(kind, **dropouts).train()
        if checkpointing:
            name = "activation_checkpointing_enable"
            getattr(model, name if hasattr(model, name) else "gradient_checkpointing_enable")()
            assert model.is_gradient_checkpointing
        model(**batch(), labels=torch.tensor([0, 2, 1])).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)


def test_attention_is_that_of_the_model(tmp_path):
    model = classifier()
    model.save_pretrained(tmp_path)
    logits = {}
    for chosen in ("sdpa", "eager"):
        own = AutoModelForSequenceClassification.from_pretrained(tmp_path, attn_implementation=chosen).eval()
        assert own.text_model.config._attn_implementation == chosen
        logits[chosen] = own(**batch()).logits
    torch.testing.assert_close(logits["sdpa"], logits["eager"], rtol=1e-4, atol=1e-6)


def test_a_config_by_itself():
    config = SentenceEncoderConfig({"model_type": "bert", "hidden_size": 24}, pooling="cls", num_labels=4)
    assert config.text_config.hidden_size == 24 and config.num_labels == 4 and config.get_text_config().vocab_size
    assert SentenceEncoderConfig().text_config.model_type == "bert" and not SentenceEncoderConfig().normalize
    assert type(AutoConfig.for_model("sentence_encoder")) is SentenceEncoderConfig
    with pytest.raises(ValueError, match='`pooling="max"` is none that makes one row.*Choose from mean, cls, last'):
        SentenceEncoderConfig(pooling="max")


def test_an_encoder_without_a_pooler_or_token_types_made_from_its_config():
    shape: Any = {"vocab_size": 50, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}
    made = SentenceEncoderForSequenceClassification(SentenceEncoderConfig(DistilBertConfig(**shape), num_labels=3))
    inputs = batch()
    out = made.eval()(**inputs, token_type_ids=torch.zeros_like(inputs["input_ids"]))
    assert out.logits.shape == (3, 3)


def test_it_is_another_feature_than_that_of_bert_s_own_classifier():
    own = BertForSequenceClassification(bert_config()).eval()
    from hf_transfer import sentence_classifier

    made = sentence_classifier(own)
    with torch.no_grad():
        pooled = own.bert(**batch()).pooler_output
    assert not torch.allclose(head_inputs(made, batch()), pooled)
