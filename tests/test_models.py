from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from huggingface_hub import constants
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    ViTImageProcessorPil,
    Wav2Vec2FeatureExtractor,
)

from hf_transfer import models as library
from hf_transfer.data.input_columns import Task
from hf_transfer.data.loading import TransferData
from tests import models as tiny


# Typed as `nn.Module`; tests look at what only models of transformers have.
load_model: Any = library.load_model
new_model: Any = library.new_model
untrained_model: Any = library.untrained_model
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def data(task: Task, names: tuple[str, ...] = ("no", "yes")) -> TransferData:
    """What `load_model` looks at of a data set."""
    column, feature = {
        "image-classification": ("image", Image()),
        "audio-classification": ("audio", List(Value("float32"))),
        "token-classification": ("tokens", List(Value("string"))),
    }.get(task, ("text", Value("string")))
    empty = Dataset.from_dict({column: []}, features=Features({column: feature}))
    return TransferData(train=empty, eval=None, test=None, task=task, input_columns=(column,), label_names=names)


def tokenizer(pad: bool = True) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "good": 1, "bad": 2, "[PAD]": 3, "[EOS]": 4}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    options: Any = {"pad_token": "[PAD]"} if pad else {}
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", eos_token="[EOS]", **options)


def saved(folder: Path, model: Any, processor: Any) -> Path:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def vit(folder: Path) -> Path:
    return saved(folder, tiny.tiny_vit(), ViTImageProcessorPil(size={"height": 8, "width": 8}))


def bert(folder: Path) -> Path:
    return saved(folder, tiny.tiny_bert(), tokenizer())


# --- pretrained


def test_a_head_of_another_size_is_new_and_the_rest_is_kept(tmp_path):
    model, processor = load_model(bert(tmp_path), data("text-classification"))
    assert type(model).__name__ == "BertForSequenceClassification" and isinstance(processor, PreTrainedTokenizerFast)
    assert model.config.id2label == {0: "no", 1: "yes"} and model.config.label2id == {"no": 0, "yes": 1}
    again, _ = load_model(tmp_path, data("text-classification"))
    assert model.classifier.out_features == 2
    for name, value in model.state_dict().items():
        assert name.startswith("classifier") or torch.equal(value, again.state_dict()[name])


def test_a_head_of_the_right_size_is_kept(tmp_path):
    model: Any = tiny.tiny_bert()
    saved(tmp_path, model, tokenizer())
    loaded, _ = load_model(tmp_path, data("text-classification", ("a", "b", "c")))
    assert torch.equal(loaded.classifier.weight, model.classifier.weight)
    assert loaded.config.id2label == {0: "a", 1: "b", 2: "c"}


def test_every_task_gets_its_class(tmp_path):
    image, processor = load_model(vit(tmp_path / "vit"), data("image-classification"))
    assert type(image).__name__ == "ViTForImageClassification" and processor.size["height"] == 8
    folder = bert(tmp_path / "bert")
    token, _ = load_model(str(folder), data("token-classification"))
    assert type(token).__name__ == "BertForTokenClassification" and token.config.num_labels == 2
    real, _ = load_model(folder, data("regression", ()))
    assert real.config.num_labels == 1 and real.config.problem_type == "regression"


def test_a_decoder_gets_a_padding_token(tmp_path):
    model: Any = tiny.tiny_gpt2()
    model.config.pad_token_id = None
    saved(tmp_path, model, tokenizer(pad=False))
    loaded, words = load_model(tmp_path, data("text-classification"))
    assert words.pad_token == "[EOS]" and loaded.config.pad_token_id == 4
    batch = words(["good bad", "good"], padding=True, return_tensors="pt")
    with torch.no_grad():
        alone = loaded.eval()(input_ids=torch.tensor([[1]])).logits
        torch.testing.assert_close(loaded(**batch).logits[1:], alone)


def test_an_embedded_model(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    monkeypatch.setattr("hf_transfer.data.source_models.source_model", lambda kind: vit(tmp_path / kind))
    model, _ = load_model("embedded:image", data("image-classification"))
    assert model.config.model_type == "vit"


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    bert(tmp_path / "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_model("~/mine", data("text-classification"))[0].config.model_type == "bert"


def test_a_folder_that_holds_an_adapter(tmp_path):
    base = bert(tmp_path / "base")
    model, words = load_model(base, data("text-classification"))
    adapter = tiny.lora(model, ["query"], "classifier", task_type="SEQ_CLS")
    saved(tmp_path / "adapter", adapter, words)
    assert not (tmp_path / "adapter" / "config.json").exists()
    loaded, _ = load_model(tmp_path / "adapter", data("text-classification"))
    assert any("lora" in name for name, _ in loaded.named_parameters())


@pytest.mark.parametrize(
    ("make", "task", "message"),
    [
        (bert, "image-classification", "is a model of type `bert`, which transformers has no image-classification"),
        (vit, "text-classification", "of type `vit`.*cannot read `text`. Choose a model for text-classification"),
        (vit, "token-classification", "no token-classification class for: it cannot read `tokens`"),
        (vit, "audio-classification", "no audio-classification class for: it cannot read `audio`"),
    ],
)
def test_a_model_of_another_kind_is_refused(tmp_path, make, task, message):
    with pytest.raises(ValueError, match=message):
        load_model(make(tmp_path), data(task))


def wav2vec2(folder: Path, **options: Any) -> Path:
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True, sampling_rate=8000, **options)
    return saved(folder, tiny.tiny_wav2vec2(), extractor)


def test_a_model_of_sound(tmp_path):
    model, extractor = load_model(wav2vec2(tmp_path), data("audio-classification"))
    assert type(model).__name__ == "Wav2Vec2ForSequenceClassification" and model.config.id2label == {0: "no", 1: "yes"}
    assert extractor.return_attention_mask and extractor.sampling_rate == 8000
    assert model(**extractor(np.ones(400), sampling_rate=8000, return_tensors="pt")).logits.shape == (1, 2)


def test_the_longest_recording_stays_with_the_extractor(tmp_path):
    cut = replace(data("audio-classification"), max_seconds=0.5)
    model, extractor = load_model(wav2vec2(tmp_path / "whole"), cut)
    assert extractor.max_seconds == 0.5
    assert load_model(saved(tmp_path / "cut", model, extractor), data("audio-classification"))[1].max_seconds == 0.5
    assert load_model(tmp_path / "cut", replace(cut, max_seconds=2.0))[1].max_seconds == 2.0
    assert untrained_model(tmp_path / "whole", cut)[1].max_seconds == 0.5
    assert new_model("wav2vec2", cut, {**TINY, "num_conv_pos_embedding_groups": 2})[1].max_seconds == 0.5


def test_regression_of_sound_is_refused(tmp_path):
    numbers = replace(data("audio-classification", ()), task="regression")
    message = "labels of the recordings are numbers.*their loss is that of classes. Make the labels classes, or train"
    for load in (lambda: load_model(tmp_path, numbers), lambda: new_model("wav2vec2", numbers)):
        with pytest.raises(ValueError, match=message):
            load()


def test_a_task_without_models_is_refused():
    with pytest.raises(
        ValueError, match="data set is for singing, for which no model is loaded here.*TransferTrainer"
    ):
        new_model("vit", replace(data("audio-classification"), task=cast(Any, "singing")))


@pytest.mark.parametrize("name", ["{}/nowhere", "./nowhere", "~/nowhere", "a/b/c"])
def test_a_path_that_does_not_exist_is_refused(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="nowhere|a/b/c` does not exist: there is no model to start from"):
        load_model(name.format(tmp_path), data("text-classification"))


def test_an_unknown_embedded_model_is_refused():
    with pytest.raises(ValueError, match='no source model of kind "video".*Pass "image", "text" or "audio"'):
        load_model("embedded:video", data("text-classification"))


# --- the processor alone


def test_the_processor_is_that_of_the_inputs(tmp_path):
    """Of a folder that holds both, a data set of images takes the one and a data set of text the other."""
    vit(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    images = library.load_processor(tmp_path, data("image-classification"))
    assert images.size["height"] == images.size["width"] == 8
    for task in ("text-classification", "token-classification", "regression"):
        assert library.load_processor(str(tmp_path), data(task))("bad good")["input_ids"] == [2, 1]


def test_the_processor_comes_from_the_named_revision(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda name, **options: seen.append((name, options)))
    library.load_processor(tmp_path, data("regression", ()), revision="v2", trust_remote_code=True)
    library.load_processor("user/name", data("regression", ()))
    assert seen == [
        (str(tmp_path), {"revision": "v2", "trust_remote_code": True}),
        ("user/name", {"revision": "main", "trust_remote_code": False}),
    ]
    with pytest.raises(FileNotFoundError, match="nowhere` does not exist"):
        library.load_processor(tmp_path / "nowhere", data("regression", ()))


# --- the config of a checkpoint, with random weights


def test_random_weights_in_the_size_of_a_checkpoint(tmp_path):
    model: Any = tiny.tiny_bert(hidden_dropout_prob=0.25)
    saved(tmp_path, model, tokenizer())
    (tmp_path / "model.safetensors").unlink()  # weights are not read
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(untrained_model(tmp_path, data("text-classification"))[0])
    first, same, other = (one.bert.encoder.layer[0].output.dense.weight for one in made)
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert not torch.equal(first, model.bert.encoder.layer[0].output.dense.weight)
    config = made[0].config
    assert (config.hidden_size, config.num_hidden_layers, config.hidden_dropout_prob) == (16, 3, 0.25)
    assert config.id2label == {0: "no", 1: "yes"} and made[0].classifier.out_features == 2


def test_changes_of_the_config_and_the_processor_of_the_checkpoint(tmp_path):
    overrides = {"num_hidden_layers": 1, "intermediate_size": 8}
    model, processor = untrained_model(bert(tmp_path / "bert"), data("token-classification"), overrides)
    assert type(model).__name__ == "BertForTokenClassification" and len(model.bert.encoder.layer) == 1
    assert model.bert.encoder.layer[0].intermediate.dense.out_features == 8 and model.config.hidden_size == 16
    assert processor("good")["input_ids"] == [1]
    real, _ = untrained_model(tmp_path / "bert", data("regression", ()))
    assert (
        real.config.num_labels == 1 and real.config.problem_type == "regression" and real.classifier.out_features == 1
    )
    image, processor = untrained_model(vit(tmp_path / "vit"), data("image-classification"), {"hidden_size": 8})
    pixels = processor([np.zeros((9, 9, 3), np.uint8)], return_tensors="pt")["pixel_values"]
    assert image(pixel_values=pixels).logits.shape == (1, 2) and image.config.hidden_size == 8


@pytest.mark.parametrize(
    ("stated", "size", "wanted"),
    [
        ({"size": {"height": 8, "width": 8}}, 12, (12, 12)),
        ({"size": {"shortest_edge": 9}, "crop_size": {"height": 8, "width": 8}, "do_center_crop": True}, 12, (12, 12)),
        ({"size": {"height": 8, "width": 8}}, [12, 4], (12, 4)),
    ],
)
def test_another_image_size_is_the_processors_too(tmp_path, stated, size, wanted):
    kind = CLIPImageProcessorPil if "crop_size" in stated else ViTImageProcessorPil
    saved(tmp_path, tiny.tiny_vit(), kind(**stated))
    model, processor = untrained_model(tmp_path, data("image-classification"), {"image_size": size})
    pixels = processor([np.zeros((20, 30, 3), np.uint8)], return_tensors="pt")["pixel_values"]
    assert tuple(pixels.shape[-2:]) == wanted and model(pixel_values=pixels).logits.shape == (1, 2)


def with_layer_types(folder: Path, kind: str) -> Path:
    size = {**TINY, "vocab_size": 5, "num_hidden_layers": 3, "max_position_embeddings": 16}
    tokens = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 3)
    if kind == "qwen2":
        model: Any = Qwen2ForSequenceClassification(Qwen2Config(**size, num_key_value_heads=2, pad_token_id=3))
    else:
        model = ModernBertForSequenceClassification(ModernBertConfig(**size, **tokens))
    return saved(folder, model, tokenizer())


@pytest.mark.parametrize("kind", ["qwen2", "modernbert"])
@pytest.mark.parametrize("blocks", [1, 4])
def test_another_number_of_blocks_where_the_config_lists_them(tmp_path, kind, blocks):
    folder = with_layer_types(tmp_path / "teacher", kind)
    model, words = untrained_model(folder, data("text-classification"), {"num_hidden_layers": blocks})
    assert len(model.config.layer_types) == blocks and len(model.model.layers) == blocks
    again, _ = load_model(saved(tmp_path / "student", model, words), data("text-classification"))
    batch = {"input_ids": torch.tensor([[1, 2, 1], [2, 1, 3]])}
    torch.testing.assert_close(again.eval()(**batch).logits, model.eval()(**batch).logits)


def test_a_list_of_blocks_that_is_given_is_kept(tmp_path):
    types = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
    model, _ = untrained_model(with_layer_types(tmp_path, "modernbert"), data("text-classification"), types)
    assert model.config.layer_types == types["layer_types"]


def test_another_number_of_stages(tmp_path):
    saved(tmp_path / "teacher", tiny.tiny_resnet(), ViTImageProcessorPil(size={"height": 16, "width": 16}))
    sizes = {"depths": [1], "hidden_sizes": [8]}
    model, processor = untrained_model(tmp_path / "teacher", data("image-classification"), sizes)
    again, _ = load_model(saved(tmp_path / "student", model, processor), data("image-classification"))
    assert again.config.stage_names == ["stem", "stage1"] and len(again.resnet.encoder.stages) == 1


def test_an_untrained_decoder_gets_a_padding_token(tmp_path):
    model: Any = tiny.tiny_gpt2()
    model.config.pad_token_id = None
    saved(tmp_path, model, tokenizer(pad=False))
    made, words = untrained_model(tmp_path, data("text-classification"), {"num_hidden_layers": 1})
    assert words.pad_token == "[EOS]" and made.config.pad_token_id == 4 and len(made.transformer.h) == 1
    assert made(**words(["good bad", "good"], padding=True, return_tensors="pt")).logits.shape == (2, 2)


@pytest.mark.parametrize(
    ("make", "task", "overrides", "message"),
    [
        (bert, "text-classification", {"width": 8}, "The config of `.*` has no width.*Its keys are .*hidden_size"),
        (bert, "image-classification", {}, "of type `bert`, which transformers has no image-classification class"),
        (
            vit,
            "token-classification",
            {"hidden_size": 8},
            "no token-classification class for: it cannot read `tokens`",
        ),
        (vit, "audio-classification", {}, "no audio-classification class for: it cannot read `audio`"),
    ],
)
def test_an_untrained_model_that_cannot_be_built_is_refused(tmp_path, make, task, overrides, message):
    with pytest.raises(ValueError, match=message):
        untrained_model(make(tmp_path), data(task), overrides)


def test_an_untrained_model_of_a_checkpoint_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere` does not exist: there is no model to start from"):
        untrained_model(tmp_path / "nowhere", data("text-classification"))
    (tmp_path / "empty").mkdir()
    with pytest.raises((OSError, ValueError), match="empty"):
        untrained_model(tmp_path / "empty", data("text-classification"))


# --- new


def test_a_new_image_model_and_its_processor():
    overrides = {**TINY, "image_size": 24, "patch_size": 8}
    model, processor = new_model("vit", data("image-classification"), overrides)
    assert model.config.hidden_size == 16 and model.config.id2label == {0: "no", 1: "yes"}
    image = np.zeros((50, 30, 3), np.uint8)
    pixels = processor([image], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 24, 24) and pixels.min() == pixels.max() == -1
    assert model(pixel_values=pixels).logits.shape == (1, 2)


def test_an_image_size_where_the_config_has_none():
    overrides = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "image_size": 32}
    model, processor = new_model("resnet", data("image-classification"), overrides)
    assert processor.size["height"] == processor.size["width"] == 32
    assert new_model("resnet", data("image-classification"), {**overrides, "image_size": 64})[1].size["width"] == 64
    assert model.config.stage_names == ["stem", "stage1", "stage2"]


def test_a_new_model_of_sound_and_its_extractor():
    overrides = {**TINY, "num_conv_pos_embedding_groups": 2, "feat_extract_norm": "layer", "sampling_rate": 8000}
    model, extractor = new_model("wav2vec2", data("audio-classification"), overrides)
    assert type(model).__name__ == "Wav2Vec2ForSequenceClassification" and model.config.label2id == {"no": 0, "yes": 1}
    assert extractor.sampling_rate == 8000 and extractor.return_attention_mask
    with pytest.raises(
        ValueError, match="The config of `wav2vec2` has no image_size: the change would have no effect"
    ):
        new_model("wav2vec2", data("audio-classification"), {"image_size": 32})


def test_spectrograms_follow_the_changes_of_the_config(tmp_path):
    size = {**TINY, "max_length": 32, "num_mel_bins": 16}
    model, extractor = new_model("audio-spectrogram-transformer", data("audio-classification"), size)
    saved(tmp_path, model, extractor)
    model, extractor = untrained_model(tmp_path, data("audio-classification"), {"max_length": 48})
    heard = extractor(np.ones(16000), sampling_rate=16000, return_tensors="pt")
    assert heard["input_values"].shape == (1, 48, 16) and model(**heard).logits.shape == (1, 2)


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert", "gpt2", "llama"])
def test_a_new_text_model_has_the_vocabulary_of_its_tokenizer(tmp_path, kind):
    """Sizes that follow from others follow; the default padding token lies outside of so small a vocabulary."""
    tokenizer().save_pretrained(tmp_path)
    overrides = {key: value for key, value in TINY.items() if kind != "gpt2" or key != "intermediate_size"}
    model, words = new_model(kind, data("text-classification"), overrides, tokenizer=str(tmp_path))
    assert model.config.vocab_size == len(words) == 5 and model.config.pad_token_id == words.pad_token_id == 3
    assert sum(parameter.numel() for parameter in model.parameters()) < 100_000
    batch = words(["good bad", "good"], padding=True, return_tensors="pt")
    assert model(**batch).logits.shape == (2, 2)


def test_a_new_model_for_tokens(tmp_path):
    tokenizer().save_pretrained(tmp_path)
    model, _ = new_model("bert", data("token-classification"), TINY, tokenizer=str(tmp_path))
    assert type(model).__name__ == "BertForTokenClassification"


def test_a_new_model_is_saved_and_opened_as_any_other(tmp_path):
    model, processor = new_model("vit", data("image-classification"), {**TINY, "image_size": 16, "patch_size": 8})
    saved(tmp_path, model, processor)
    assert json.loads((tmp_path / "config.json").read_text())["label2id"] == {"no": 0, "yes": 1}
    again, same = load_model(tmp_path, data("image-classification"))
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    assert same.size["height"] == 16


@pytest.mark.parametrize(
    ("kind", "task", "overrides", "message"),
    [
        ("resnetv9", "image-classification", {}, "`resnetv9` is no model type of transformers.*Pass one such as vit"),
        ("vit", "image-classification", {"width": 8}, "The config of `vit` has no width.*Its keys are architectures"),
        ("bert", "text-classification", {}, "A new `bert` for text has no tokenizer.*with `--tokenizer_name`"),
        ("bert", "image-classification", {}, "of type `bert`, which transformers has no image-classification class"),
        ("whisper", "text-classification", {}, "of type `whisper`, which transformers has no text-classification"),
    ],
)
def test_what_cannot_be_built_is_refused(kind, task, overrides, message):
    with pytest.raises(ValueError, match=message):
        new_model(kind, data(task), overrides)


def test_the_tasks_are_those_of_the_recipes():
    kinds = ("image", "text", "token", "audio")
    assert set(library.AUTO_MODELS) == {*(f"{kind}-classification" for kind in kinds), "regression"}
