"""What a user has at hand: data in files, small pretrained models in folders, and the recipes to run on them."""

from __future__ import annotations

import json
import logging
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast, ViTImageProcessorPil

from tests.models import tiny_bert, tiny_resnet, tiny_token_bert, tiny_vit


RECIPES = Path(__file__).parents[2] / "recipes"
QUIET = ("--use_cpu", "--disable_tqdm", "true", "--per_device_train_batch_size", "4")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = ["good", "bad", "fine", "poor", "book", "pan", "the", "very", "is", "anna", "bern"]

Run = Callable[..., dict[str, float]]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face home for all recipe runs: the embedded models are trained once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def own_caches(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[None]:
    """Caches of the user are not touched, and the handler that a recipe adds goes with the test's output streams."""
    monkeypatch.setattr(constants, "HF_HOME", str(home))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", home / "datasets")
    datasets.disable_progress_bars()
    logger = logging.getLogger("hf_transfer")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """`run("finetune", *words)` runs a recipe in this process, and returns its all_results.json."""

    def run(recipe: str, *words: object, out: str = "out") -> dict[str, float]:
        script, folder = RECIPES / f"{recipe}.py", tmp_path / out
        argv = [str(word) for word in (script, *words, *QUIET, "--output_dir", folder)]
        monkeypatch.setattr(sys, "argv", argv)
        state = torch.random.get_rng_state()
        try:
            runpy.run_path(str(script), run_name="__main__")
        finally:
            torch.random.set_rng_state(state)
        return json.loads((folder / "all_results.json").read_text())

    return run


@pytest.fixture(scope="session")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT for another number of classes, with its tokenizer."""
    return saved_text_model(tmp_path_factory.mktemp("text_model"), tiny_bert)


@pytest.fixture(scope="session")
def token_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT for tokens, with its tokenizer."""
    return saved_text_model(tmp_path_factory.mktemp("token_model"), tiny_token_bert)


def saved_text_model(folder: Path, make: Callable[..., Any]) -> Path:
    torch.manual_seed(0)
    # learns in a few steps: so narrow a model does not with dropout
    make(initializer_range=0.1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=words, model_max_length=16, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def image_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT of two blocks for 8x8 images, with its processor."""
    folder = tmp_path_factory.mktemp("image_model")
    torch.manual_seed(0)
    model: Any = tiny_vit()
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def convolutional_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ResNet, which has BatchNorm, for another number of classes, with its processor."""
    folder = tmp_path_factory.mktemp("convolutional_model")
    torch.manual_seed(0)
    model: Any = tiny_resnet()
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory, text_model: Path) -> Path:
    """The BERT without any head, with its tokenizer."""
    folder = tmp_path_factory.mktemp("base_model")
    AutoModel.from_pretrained(text_model).save_pretrained(folder)
    AutoTokenizer.from_pretrained(text_model).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of PNG files in folders of classes: dark cats and bright dogs."""
    return image_folder(tmp_path_factory.mktemp("images"))


def image_folder(folder: Path, splits: tuple[str, ...] = ("train", "validation", "test")) -> Path:
    random = np.random.default_rng(0)
    for split in splits:
        for name, low in (("cat", 0), ("dog", 180)):
            (folder / split / name).mkdir(parents=True)
            for row in range(6):
                pixels = random.integers(low, low + 75, (10, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{row}.png")
    return folder


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of CSV files with string labels."""
    folder = tmp_path_factory.mktemp("reviews")
    for split, rows in (("train", 12), ("validation", 4), ("test", 4)):
        write_reviews(folder / f"{split}.csv", "book", ["pos", "neg"] * (rows // 2))
    return folder


def write_reviews(file: Path, thing: str, labels: list[str] | None, *, rows: int = 0) -> None:
    """Alternately good and bad reviews of one thing, under whatever labels, or none."""
    texts = [f"the {thing} is very {'bad' if i % 2 else 'good'}" for i in range(len(labels) if labels else rows)]
    columns = {"text": texts} if labels is None else {"text": texts, "label": labels}
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(columns), *(",".join(row) for row in zip(*columns.values(), strict=True))]
    file.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def entities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of JSON Lines with one tag per word, in a column called otherwise."""
    folder = tmp_path_factory.mktemp("entities")
    row = {"tokens": ["anna", "is", "very", "fine"], "ner_tags": ["B-PER", "O", "O", "O"]}
    other = {"tokens": ["the", "bern"], "ner_tags": ["O", "B-LOC"]}
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in [row, other] * 4))
    return folder


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a training step runs."""

    def step(*args, **kwargs):
        pytest.fail("a training step ran before the error")

    monkeypatch.setattr("transformers.Trainer.training_step", step)
