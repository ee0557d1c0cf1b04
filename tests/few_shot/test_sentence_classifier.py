"""`sentence_classifier`: what it reads off a checkpoint, what it refuses, and the methods with its models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    BertModel,
    CLIPConfig,
    CLIPModel,
    T5Config,
    T5Model,
)

import hf_transfer
from hf_transfer import (
    MetaTrainer,
    MultiTask,
    Task,
    TransferArguments,
    add_adapter,
    attach,
    contrastive_fine_tune,
    export_task,
    extract_features,
    fit_head,
    head_from_class_names,
    sentence_classifier,
)
from hf_transfer.data.preparation import collator_for, prepare
from hf_transfer.few_shot.sentence_classifier import is_sentence_classifier
from hf_transfer.few_shot.sentence_encoder import SentenceEncoderForSequenceClassification
from tests.few_shot.models import NAMES, dual_encoder, texts, tokenizer
from tests.few_shot.sentence_models import batch, checkpoint, classifier, encoder
from tests.models import bert_config, lora, tiny_bert, tiny_vit


OLD = "sentence_transformers.models."
NEW = "sentence_transformers.base.modules.some."
MEAN = {"word_embedding_dimension": 16, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}


def modules(*further: str, prefix: str = OLD, transformer: str = "") -> list[tuple[str, str]]:
    kinds = [(f"{prefix}Transformer", transformer), (f"{prefix}Pooling", "1_Pooling")]
    return kinds + [(f"{prefix}{kind}", f"{number}_{kind}") for number, kind in enumerate(further, 2)]


def test_is_public():
    assert hf_transfer.sentence_classifier is sentence_classifier and "sentence_classifier" in hf_transfer.__all__


@pytest.mark.parametrize(
    ("listed", "settings", "pooling", "normalize"),
    [
        (None, None, "mean", False),
        (modules(), MEAN, "mean", False),
        (modules("Normalize"), MEAN, "mean", True),
        (
            modules("Dropout"),
            {**MEAN, "pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True},
            "cls",
            False,
        ),
        (modules(), {"pooling_mode_lasttoken": True, "include_prompt": True}, "last", False),
        (modules("Normalize", prefix=NEW), {"embedding_dimension": 16, "pooling_mode": "lasttoken"}, "last", True),
        (modules(prefix=NEW), {"pooling_mode": ["cls"]}, "cls", False),
        (modules(prefix=NEW), {"pooling_mode": "mean"}, "mean", False),
    ],
)
def test_pooling_and_length_are_those_of_the_files(tmp_path, listed, settings, pooling, normalize):
    own = checkpoint(tmp_path, listed, settings)
    model = sentence_classifier(tmp_path, label_names=NAMES)
    assert (model.config.pooling, model.config.normalize) == (pooling, normalize)
    assert model.config.id2label == dict(enumerate(NAMES)) and model.config.label2id["bird"] == 2
    weights = own.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.text_model.state_dict().items())
    left_out = set(weights) - set(model.text_model.state_dict())
    assert left_out == {"pooler.dense.weight", "pooler.dense.bias"} and not model.training


def test_the_encoder_may_lie_in_a_folder_of_its_own(tmp_path):
    own = checkpoint(tmp_path, modules(transformer="0_Transformer"), MEAN, inside="0_Transformer")
    model = sentence_classifier(str(tmp_path), num_labels=4)
    assert torch.equal(model.text_model.embeddings.word_embeddings.weight, own.embeddings.word_embeddings.weight)
    assert model.classifier.out_features == 4 and model.classifier.weight.abs().sum() > 0
    assert not model.classifier.bias.any()


def test_what_is_given_comes_before_what_the_files_say(tmp_path):
    checkpoint(tmp_path, modules("Normalize"), MEAN)
    model = sentence_classifier(tmp_path, pooling="last", normalize=False)
    assert (model.config.pooling, model.config.normalize) == ("last", False)
    assert sentence_classifier(tmp_path, pooling="cls").config.normalize
    opened = BertModel.from_pretrained(tmp_path)  # it knows where it came from
    assert sentence_classifier(opened).config.normalize


def test_from_the_cache_of_the_hub(tmp_path, monkeypatch):
    """A repository as the cache has it, without a network."""
    commit = "0" * 40
    repository = tmp_path / "models--user--encoder"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    checkpoint(repository / "snapshots" / commit, modules("Normalize"), {"pooling_mode": "cls"})
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    model = sentence_classifier("user/encoder")
    assert (model.config.pooling, model.config.normalize, model.name_or_path) == ("cls", True, "user/encoder")


def test_no_path_of_this_machine_is_saved(tmp_path):
    checkpoint(tmp_path / "encoder")
    model = sentence_classifier(tmp_path / "encoder")
    assert model.name_or_path == str(tmp_path / "encoder")
    model.save_pretrained(tmp_path / "saved")
    assert str(tmp_path) not in (tmp_path / "saved" / "config.json").read_text()
    assert (tmp_path / "saved" / "sentence_encoder.py").is_file()


@pytest.mark.parametrize("make", [tiny_bert, lambda: encoder()])
def test_a_model_in_memory_stays_as_it_is(make):
    own = make().eval()
    before = {name: value.clone() for name, value in own.state_dict().items()}
    model = sentence_classifier(own, num_labels=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert before.keys() == own.state_dict().keys()
    assert all(torch.equal(value, own.state_dict()[name]) for name, value in before.items())
    own(**batch())


def test_labels_of_a_classifier_are_kept_and_its_head_is_not():
    own = tiny_bert(problem_type="multi_label_classification").eval()
    own.config.id2label, own.config.label2id = {0: "a", 1: "b", 2: "c"}, {"a": 0, "b": 1, "c": 2}
    model = sentence_classifier(own)
    assert model.config.id2label[2] == "c" and model.config.problem_type == "multi_label_classification"
    assert not torch.equal(model.classifier.weight, own.classifier.weight)
    assert sentence_classifier(own, num_labels=1).config.problem_type is None


def test_type_and_attention_are_those_of_the_encoder():
    own = encoder().to(torch.bfloat16)
    own.set_attn_implementation("eager")
    model = sentence_classifier(own)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.config.dtype == torch.bfloat16
    assert model.text_model.config._attn_implementation == own.config._attn_implementation == "eager"


@pytest.mark.parametrize("opened", [False, True])
def test_one_that_was_made_here_keeps_its_head_where_it_fits(tmp_path, opened):
    first = classifier(pooling="cls")
    first.save_pretrained(tmp_path)
    start = AutoModelForSequenceClassification.from_pretrained(tmp_path) if opened else tmp_path
    again = sentence_classifier(start, label_names=NAMES)
    assert is_sentence_classifier(again) and again is not start and again.config.pooling == "cls"
    assert torch.equal(again.classifier.weight, first.classifier.weight) and again.config.id2label[0] == "fruit"
    other = sentence_classifier(start, num_labels=5, pooling="mean", normalize=True)
    assert other.classifier.out_features == 5 and other(**batch()).logits.shape == (3, 5)
    assert (other.config.pooling, other.config.normalize) == ("mean", True)
    assert torch.equal(other.text_model.embeddings.word_embeddings.weight, other.get_input_embeddings().weight)


@pytest.mark.parametrize(
    ("listed", "settings", "message"),
    [
        (modules(), {"pooling_mode_max_tokens": True}, r"pools its tokens by max_tokens: other features.*`pooling="),
        (modules(), {**MEAN, "pooling_mode_max_tokens": True}, "pools its tokens by mean_tokens and max_tokens"),
        (modules(), {"pooling_mode": "weightedmean"}, "pools its tokens by weightedmean"),
        (modules(), {}, "by nothing that is known"),
        (modules("Dense"), MEAN, "has a module `Dense`.*its weights would be left out.*`pooling="),
    ],
)
def test_what_cannot_be_pooled_so_is_refused_unless_one_says_how(tmp_path, listed, settings, message):
    checkpoint(tmp_path, listed, settings)
    with pytest.raises(ValueError, match=message):
        sentence_classifier(tmp_path)
    assert sentence_classifier(tmp_path, pooling="mean").config.pooling == "mean"


def t5() -> T5Model:
    return T5Model(T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (encoder, {"pooling": "none"}, '`pooling="none"` is none that makes one row.*Choose from mean, cls, last'),
        (encoder, {"pooling": "max"}, '`pooling="max"` is none'),
        (encoder, {"num_labels": 2, "label_names": NAMES}, "`num_labels=2` with 3 names.*Leave `num_labels` out"),
        (
            lambda: lora(tiny_bert(), ["query"]),
            {},
            "PeftModel is no model of transformers by itself.*merge_and_unload",
        ),
        (lambda: torch.nn.Linear(2, 2), {}, "Linear is no model of transformers"),
        (t5, {}, "T5Model` is no single encoder or decoder of texts.*such as BERT"),
        (tiny_vit, {}, "ViTForImageClassification` is no single encoder"),
        (lambda: dual_encoder(CLIPModel, CLIPConfig), {}, "CLIPModel` is no single encoder"),
    ],
)
def test_refuses(make, options, message):
    with pytest.raises(ValueError, match=message):
        sentence_classifier(make(), **options)


def test_a_type_that_transformers_does_not_have_is_refused(tmp_path):
    checkpoint(tmp_path)
    model: Any = AutoModel.from_pretrained(tmp_path)

    model.config.__class__ = type("ForeignConfig", (type(model.config),), {})
    with pytest.raises(
        ValueError, match="for which transformers has no class: what is saved would not load.*without `trust"
    ):
        sentence_classifier(model)


# -- the methods with it


def rows(data: Any, size: int = 8) -> Any:
    return DataLoader(cast(Any, prepare(data, tokenizer())), size, collate_fn=collator_for(tokenizer()))


def right(model: Any, data: Any) -> float:
    inputs = tokenizer()(data["text"][:], padding=True, return_tensors="pt")
    with torch.no_grad():
        return (model(**inputs).logits.argmax(-1) == torch.tensor(data["label"][:])).double().mean().item()


def pooled(model: Any, sentences: list[str]) -> torch.Tensor:
    """The mean of the tokens of each sentence alone, in float64."""
    with torch.no_grad():
        alone = [tokenizer()(own, return_tensors="pt") for own in sentences]
        return torch.stack([model.text_model(**own).last_hidden_state[0].double().mean(0) for own in alone])


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_features_of_the_head_and_fit_head(kind, tmp_path):
    model, data = classifier(kind), texts(6)
    features = extract_features(model, data, tokenizer(), cache_dir=str(tmp_path))
    expected = pooled(model, data["text"][:])
    np.testing.assert_allclose(np.asarray(features["features"]), expected.numpy(), rtol=1e-4, atol=1e-5)
    model.config.pooling = "cls"  # the cache tells them apart
    first = extract_features(model, data, tokenizer(), cache_dir=str(tmp_path))
    assert not np.allclose(np.asarray(first["features"]), np.asarray(features["features"]))
    model.config.pooling = "mean"
    probe = fit_head(model, rows(data))
    weight = probe.linear()[0]
    np.testing.assert_allclose(model.classifier.weight.detach().numpy(), weight, rtol=1e-4, atol=1e-5)
    assert right(model, data) > 0.9


def test_contrastive_fine_tuning(tmp_path):
    model = classifier(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    contrastive_fine_tune(model, tokenizer(), texts(8), pairs_per_row=4, learning_rate=1e-2)
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert type(again) is SentenceEncoderForSequenceClassification and again.config.id2label == dict(enumerate(NAMES))
    assert right(again, texts(20, seed=9)) > 0.85


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_head_of_class_names(kind):
    model = classifier(kind)
    head_from_class_names(model, tokenizer(), NAMES, temperature=0.25)
    prototypes = pooled(model, [f"This is about {name}." for name in NAMES])
    sentences = ["the apple", "a saw is very", "owl"]
    inputs = tokenizer()(sentences, padding=True, return_tensors="pt")
    expected = -torch.cdist(pooled(model, sentences), prototypes).square() / 0.25
    torch.testing.assert_close(model(**inputs).logits.double().softmax(-1), expected.softmax(-1), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_lora_trains_and_merges(kind):
    model = add_adapter(classifier(kind), "lora", r=2)
    plain = model(**batch()).logits
    model.train()
    model(**batch(), labels=torch.tensor([0, 2, 1])).loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert any("lora_B" in name for name in trained) and any("classifier" in name for name in trained)
    assert not any("embeddings" in name or "embed_tokens" in name for name in trained)
    merged: Any = cast(Any, model.eval()).merge_and_unload()
    assert is_sentence_classifier(merged)
    torch.testing.assert_close(merged(**batch()).logits, plain)


def test_several_tasks_and_one_of_them_as_a_model(tmp_path):
    model = classifier()
    attach(model, [MultiTask([Task("topic", label_names=("art", "law")), Task("tone", label_names=("a", "b", "c"))])])
    model.train()
    labels = {"labels_topic": torch.tensor([0, 1, -100]), "labels_tone": torch.tensor([-100, -100, 2])}
    model(**batch(), labels=torch.full((3,), -100), **labels).loss.backward()
    assert model.text_model.embeddings.word_embeddings.weight.grad is not None
    folder = export_task(model.eval(), "topic", tmp_path / "topic")
    opened = AutoModelForSequenceClassification.from_pretrained(folder)
    assert is_sentence_classifier(opened) and opened.config.id2label == {0: "art", 1: "law"}
    assert (Path(folder) / "sentence_encoder.py").is_file()
    assert "auto_map" in json.loads((Path(folder) / "config.json").read_text())


@pytest.mark.parametrize(("kind", "algorithm"), [("bert", "anil"), ("llama", "anil"), ("bert", "maml")])
def test_meta_learning(kind, algorithm, tmp_path):
    model = classifier(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    args = TransferArguments(
        str(tmp_path), max_steps=1, learning_rate=1e-2, report_to="none", save_strategy="no", use_cpu=True,
        dataloader_pin_memory=False, disable_tqdm=True,
    )  # fmt: skip
    trainer = MetaTrainer(
        model,
        args,
        algorithm=algorithm,
        parameters="all",
        n_way=3,
        k_shot=1,
        queries=2,
        inner_steps=1,
        episodes_per_step=2,
        train_dataset=prepare(texts(4), tokenizer()),
        data_collator=collator_for(tokenizer()),
    )
    trainer.train()
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert "classifier.weight" in moved and any(name.startswith("text_model.") for name in moved)
    trainer.save_model()
    assert is_sentence_classifier(AutoModelForSequenceClassification.from_pretrained(tmp_path))


def test_bert_s_own_classifier_differs_in_the_features_only():
    own = BertForSequenceClassification(bert_config()).eval()
    made = sentence_classifier(own)
    wanted = {name.removeprefix("bert.") for name in own.state_dict() if "pooler" not in name and "bert." in name}
    assert wanted == set(made.text_model.state_dict())
