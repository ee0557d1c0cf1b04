"""
Small source models, trained on the embedded data in seconds and kept in the Hugging Face cache.

They stand in for a pretrained checkpoint where there is no network: an image classifier for the digits 0 to 4, a text
classifier for book reviews, and a classifier of four kinds of sound. All folders open with the `Auto` classes and
`pipeline()` like any other checkpoint.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from huggingface_hub import constants
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ResNetForImageClassification,
)
from transformers.utils import logging

from hf_transfer.data import embedded, synthetic_reviews, synthetic_tones
from hf_transfer.data.sound import SoundTransform


logger = logging.get_logger(__name__)

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
FRAMES = 48  # of 10 ms; the longest of the made-up sounds fill them
MAX_LENGTH = 64  # tokens; the longest synthetic review has 62


def source_model(kind: Literal["image", "text", "audio"]) -> Path:
    """
    Folder of a small source model; trained at the first call (seconds on one core), found in the cache afterwards.

    - `"image"`: `ResNetForImageClassification` (80 thousand parameters, 32x32 pixels) with its image processor,
      trained on the digits 0 to 4, for transfer to the digits 5 to 9. Test accuracy 0.99.
    - `"text"`: `BertForSequenceClassification` (2 blocks of width 64) with its tokenizer, trained on the book reviews;
      the vocabulary covers both review domains, as that of a pretrained encoder would. Test accuracy 0.91, on kitchen
      reviews 0.64.
    - `"audio"`: `ASTForAudioClassification` (2 blocks of width 64) with its feature extractor, which looks at half a
      second, trained on the first four kinds of the clean tones. Test accuracy 0.83:
      a start that helps, and no more.

    The folder lies in `HF_HOME` under `hf_transfer`; its name carries a fingerprint of the code that made data and
    model, so an upgrade trains anew. It appears under that name only when complete: processes that race each train
    their own, and the first to finish wins. Global random state is left alone.

    Args:
        kind (`"image"`, `"text"` or `"audio"`):
            Which model.

    Raises:
        ImportError: if soundfile is not installed, for `"audio"`.
        ValueError: if the kind is none of these.
    """
    makers: dict[str, Callable[[Path], None]] = {
        "image": _make_image_model,
        "text": _make_text_model,
        "audio": _make_audio_model,
    }
    if kind not in makers:
        raise ValueError(
            f'There is no source model of kind "{kind}", so none can be trained. Pass "image", "text" or "audio".'
        )
    folder = Path(constants.HF_HOME) / "hf_transfer" / f"source_{kind}_{_fingerprint()}"
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f"unfinished_{kind}_", dir=folder.parent))
    try:
        logger.info(f"Training the {kind} source model into {folder}.")
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(0)
            makers[kind](unfinished)
        os.chmod(unfinished, 0o755)  # mkdtemp makes it private, but the cache may be shared
        os.rename(unfinished, folder)
    except OSError:
        if not folder.exists():
            raise
        # another process was first: a folder cannot be renamed onto one that is not empty
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _fingerprint() -> str:
    code = "".join(inspect.getsource(module) for module in (embedded, synthetic_reviews, synthetic_tones))
    makers = (_make_image_model, _make_text_model, _make_audio_model, _train, _tokenizer)
    code += "".join(inspect.getsource(function) for function in makers)
    return hashlib.sha256(code.encode()).hexdigest()[:12]


def _make_image_model(folder: Path) -> None:
    train = embedded.digits(range(5))["train"]
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": embedded.SIZE, "width": embedded.SIZE},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    # as a file and not through a class: with and without torchvision its class has another name
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    pixels = np.stack([np.asarray(image) for image in train["image"][:]]).transpose(0, 3, 1, 2)
    config = ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32, 64],
        depths=[1, 1, 1],
        layer_type="basic",
        **_label_names(train),
    )
    model = ResNetForImageClassification(config)
    inputs = {"pixel_values": torch.tensor(pixels, dtype=torch.float32) / 127.5 - 1}
    _train(model, inputs, train["label"][:], epochs=10, learning_rate=5e-3)
    model.save_pretrained(folder)


def _make_text_model(folder: Path) -> None:
    train = embedded.reviews("books")["train"]
    tokenizer = _tokenizer([*train["text"][:], *embedded.reviews("kitchen")["train"]["text"][:]])
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=MAX_LENGTH,
        pad_token_id=SPECIAL_TOKENS.index("[PAD]"),
        **_label_names(train),
    )
    model = BertForSequenceClassification(config)
    inputs = tokenizer(train["text"][:], padding=True, truncation=True, return_tensors="pt")
    _train(model, dict(inputs), train["label"][:], epochs=4, learning_rate=3e-3)
    model.save_pretrained(folder)


def _make_audio_model(folder: Path) -> None:
    train = embedded.tones(synthetic_tones.KINDS[:4])["train"]
    extractor = ASTFeatureExtractor(num_mel_bins=32, max_length=FRAMES)
    extractor.save_pretrained(folder)
    heard = SoundTransform(extractor)({"audio": train["audio"][:]})["input_values"]
    config = ASTConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        patch_size=8,
        frequency_stride=8,
        time_stride=8,
        max_length=FRAMES,
        num_mel_bins=32,
        **_label_names(train),
    )
    model = ASTForAudioClassification(config)
    _train(model, {"input_values": torch.stack(heard)}, train["label"][:], epochs=20, learning_rate=3e-3)
    model.save_pretrained(folder)


def _tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer with BERT's special tokens."""
    words = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer()
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=SPECIAL_TOKENS, show_progress=False))
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, SPECIAL_TOKENS.index(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        model_max_length=MAX_LENGTH,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{f"{token.strip('[]').lower()}_token": token for token in SPECIAL_TOKENS},
    )


def _label_names(train: Dataset) -> dict[str, Any]:
    names = train.features["label"].names
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


def _train(
    model: PreTrainedModel, inputs: dict[str, torch.Tensor], labels: list[int], *, epochs: int, learning_rate: float
) -> None:
    """Supervised training with AdamW and a one-cycle schedule, batches of 32."""
    targets = torch.tensor(labels)
    steps = epochs * -(-len(targets) // 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(targets)).split(32):
            loss = model(**{name: values[rows] for name, values in inputs.items()}, labels=targets[rows]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
