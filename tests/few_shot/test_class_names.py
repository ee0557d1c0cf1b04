"""A head made of class names: for text classifiers, and for models with two towers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import CLIPForImageClassification, CLIPModel, SiglipModel
from transformers.models.clip import CLIPConfig
from transformers.models.siglip import SiglipConfig

from hf_transfer import head_from_class_names
from tests.few_shot.models import NAMES, dual_encoder, tokenizer
from tests.models import lora, tiny_bert, tiny_llama, tiny_token_bert, tiny_vit


def seeded(make, **options):
    torch.manual_seed(0)
    return make(**options)


def features_of(model, sentences) -> torch.Tensor:
    """What BERT's head is given, by the model's own parts."""
    with torch.no_grad():
        return torch.stack([model.bert(**tokenizer()(s, return_tensors="pt")).pooler_output[0] for s in sentences])


@pytest.mark.parametrize("temperature", [None, 0.25])
def test_logits_are_squared_distances_to_the_sentences(temperature):
    model = seeded(tiny_bert).eval()
    prototypes = features_of(model, [f"This is about {name}." for name in NAMES]).double()
    returned = head_from_class_names(model, tokenizer(), NAMES, temperature=temperature)
    tau = temperature or ((prototypes - prototypes.mean(0)) ** 2).sum(1).mean().item()
    rows = features_of(model, ["the apple", "a saw is very", "owl"])
    logits = model.classifier(rows).double()
    naive = torch.tensor(
        [[-((row - p) ** 2).sum().item() / tau for p in prototypes] for row in rows.double()]
    ).double()
    # a random model hardly tells sentences apart: at its own temperature the rounding of float32 is seen enlarged
    torch.testing.assert_close(
        logits.softmax(-1), naive.softmax(-1), rtol=5e-3 if temperature is None else 1e-4, atol=0
    )
    assert returned is model and model.config.id2label == dict(enumerate(NAMES))


def test_cosines_need_no_bias_and_choose_the_same_class_as_a_loop():
    model = seeded(tiny_bert).eval()
    prototypes = features_of(model, [f"This is about {name}." for name in NAMES])
    head_from_class_names(model, tokenizer(), NAMES, similarity="cosine", temperature=0.5)
    rows = features_of(model, ["the apple", "a saw is very", "owl"])
    cosines = torch.tensor([[torch.cosine_similarity(row, p, 0).item() for p in prototypes] for row in rows])
    length = prototypes.norm(dim=1).mean()
    expected = cosines * rows.norm(dim=1, keepdim=True) / length / 0.5
    torch.testing.assert_close(model.classifier(rows).softmax(-1), expected.softmax(-1), rtol=1e-4, atol=1e-6)
    assert not model.classifier.bias.any()


def test_a_sentence_of_a_class_is_of_that_class():
    model = head_from_class_names(seeded(tiny_bert).eval(), tokenizer(), NAMES, template="very {}")
    batch = tokenizer()([f"very {name}" for name in NAMES], return_tensors="pt")
    assert model(**batch).logits.argmax(-1).tolist() == [0, 1, 2]


def test_several_templates_are_averaged():
    model = seeded(tiny_bert).eval()
    means = (features_of(model, NAMES) + features_of(model, [f"a photo of {name}" for name in NAMES])).double() / 2
    head_from_class_names(model, tokenizer(), NAMES, template=["{}", "a photo of {}"], temperature=1.0)
    expected = 2 * (means - means.mean(0))
    np.testing.assert_allclose(model.classifier.weight.detach().numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)


def test_names_of_the_config_and_underscores():
    model = seeded(tiny_bert).eval()
    model.config.id2label = {0: "the_owl", 1: "saw", 2: "fig"}
    model.config.label2id = {name: number for number, name in model.config.id2label.items()}
    prototypes = features_of(model, ["the owl", "saw", "fig"]).double()
    head_from_class_names(model, tokenizer(), template="{}", temperature=2.0)
    expected = prototypes - prototypes.mean(0)
    np.testing.assert_allclose(model.classifier.weight.detach().numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)
    assert model.config.id2label[0] == "the_owl"


def test_under_lora_the_saved_copy_of_the_head_is_written():
    model = lora(seeded(tiny_bert), ["query"], "classifier")
    head_from_class_names(model, tokenizer(), NAMES)
    copies = model.get_base_model().classifier
    assert not torch.equal(copies.modules_to_save["default"].weight, copies.original_module.weight)


def test_decoders_by_cosines_only():
    model = seeded(tiny_llama).eval()
    with pytest.raises(ValueError, match='has no bias, and distances need one.*similarity="cosine"'):
        head_from_class_names(model, tokenizer(), NAMES)
    before = model.score.weight.clone()
    head_from_class_names(model, tokenizer(), NAMES, similarity="cosine")
    assert not torch.equal(model.score.weight, before)


@pytest.mark.parametrize(("kind", "config"), [(CLIPModel, CLIPConfig), (SiglipModel, SiglipConfig)])
def test_two_towers_give_the_zero_shot_logits(kind, config):
    model = seeded(lambda: dual_encoder(kind, config))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    made = head_from_class_names(model, tokenizer(), NAMES)
    pixels = torch.randn(3, 3, 8, 8)
    padding = "max_length" if kind is SiglipModel else True
    tokens = tokenizer()([f"a photo of a {name}." for name in NAMES], padding=padding, return_tensors="pt")
    if kind is SiglipModel:
        tokens = {"input_ids": tokens["input_ids"]}
    else:
        tokens.pop("token_type_ids", None)
    with torch.no_grad():
        wanted = model(**tokens, pixel_values=pixels).logits_per_image
        torch.testing.assert_close(made(pixel_values=pixels).logits, wanted, rtol=1e-4, atol=1e-5)
    assert made.config.id2label == dict(enumerate(NAMES))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (tiny_bert, {"label_names": ["a"]}, "1 names were given: a head.*two classes or more"),
        (tiny_bert, {"label_names": ["a", "b", "a"]}, "`a` is the name of two classes"),
        (tiny_bert, {"label_names": None}, "no names for its classes, and none were given.*label_names="),
        (tiny_bert, {"label_names": ["a", "b"]}, "The head of the model has 3 outputs, the probe 2"),
        (tiny_bert, {"template": "about"}, "template 'about' has no `{}`.*This is about {}."),
        (tiny_bert, {"template": []}, "has no `{}`"),
        (tiny_bert, {"similarity": "dot"}, '`similarity="dot"` is unknown.*euclidean or cosine'),
        (tiny_bert, {"temperature": 0.0}, "`temperature=0.0`: distances are divided by it"),
        (tiny_token_bert, {}, "BertForTokenClassification has features of tokens.*AutoModelForSequenceClassification"),
        (tiny_vit, {}, "ViTForImageClassification with .*cannot be given class names.*`CLIPModel`"),
    ],
)
def test_refuses(make, options, message):
    with pytest.raises(ValueError, match=message):
        head_from_class_names(seeded(make), tokenizer(), **{"label_names": NAMES, **options})


def test_classifier_of_clip_averages_patches_and_is_refused():
    clip = dual_encoder(CLIPModel, CLIPConfig)
    model = CLIPForImageClassification(clip.config)
    with pytest.raises(ValueError, match="average patches before the projection.*Pass the model with both towers"):
        head_from_class_names(model, tokenizer(), NAMES)
