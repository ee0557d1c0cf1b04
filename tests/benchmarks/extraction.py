"""
`extract_features` beside the other ways to get features of a frozen model, in one run:

    python -m tests.benchmarks.extraction
    python -m tests.benchmarks.extraction --text_model path/to/minilm --texts sst2/train.csv

Texts go through a BERT of MiniLM's size with mean pooling, against `SentenceTransformer.encode` (where installed) and
the `feature-extraction` pipeline; images through a MobileNetV1 against the `image-feature-extraction` pipeline.
Without arguments weights, sentences and photographs are made up. The sides take turns, ratios are those of the median
times. The floor is the time of the matrix products of the unpadded tokens at the matrix rate measured here; decoding
and processing of the images is reported apart. Peak memory is that of a process of its own, for N rows and for 10 N.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Image, load_dataset
from PIL import Image as PillowImage
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    MobileNetV1Config,
    MobileNetV1Model,
    PreTrainedTokenizerFast,
    ViTImageProcessorPil,
    logging,
    pipeline,
)

from hf_transfer.data.preparation import prepare
from hf_transfer.features import extract_features
from tests.benchmarks.trainer_overhead import matrix_rate, peak_mebibytes


BATCH, MAX_LENGTH, WORDS = 32, 128, 2000


def made_text_model(folder: Path) -> Path:
    """A BERT of MiniLM's size with random weights and a tokenizer of whole words."""
    torch.manual_seed(0)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: number for number, word in enumerate([*special, *(f"w{n}" for n in range(WORDS))])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=words,
        model_max_length=MAX_LENGTH,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def made_image_model(folder: Path) -> Path:
    torch.manual_seed(0)
    MobileNetV1Model(MobileNetV1Config(depth_multiplier=0.25)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 224, "width": 224}).save_pretrained(folder)
    return folder


def made_texts(rows: int, seed: int = 0) -> Dataset:
    """Sentences of 3 to 100 words, most of them short, as in reviews."""
    random = np.random.default_rng(seed)
    lengths = np.clip(random.lognormal(3.0, 0.6, rows), 3, 100).astype(int)
    return Dataset.from_dict(
        {"text": [" ".join(f"w{word}" for word in random.integers(0, WORDS, length)) for length in lengths]}
    )


def made_images(rows: int, seed: int = 0) -> Dataset:
    """JPEG files of 320x240 pixels."""
    random = np.random.default_rng(seed)
    files = []
    for _ in range(rows):
        coarse = PillowImage.fromarray(random.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((320, 240), PillowImage.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        files.append({"bytes": buffer.getvalue(), "path": None})
    return Dataset.from_dict({"image": files}).cast_column("image", Image())


def text_sides(folder: Path, texts: Dataset) -> dict[str, Callable[[], Any]]:
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    rows: list[str] = texts["text"][:]
    pipe = pipeline("feature-extraction", model=model, tokenizer=tokenizer, device="cpu")
    # without padding and truncation the pipeline fails on a batch of texts
    options = {"truncation": True, "padding": True, "max_length": MAX_LENGTH}
    sides: dict[str, Callable[[], Any]] = {
        "extract_features": lambda: cold(
            model, texts, tokenizer, pooling="mean", batch_size=BATCH, max_length=MAX_LENGTH
        ),
        "pipeline, defaults": lambda: [pipe(row, tokenize_kwargs={"truncation": True}) for row in rows],
        f"pipeline, batches of {BATCH}": lambda: pipe(rows, batch_size=BATCH, tokenize_kwargs=options),
    }
    if importlib.util.find_spec("sentence_transformers") is not None:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

        body = Transformer(str(folder), max_seq_length=MAX_LENGTH)
        encoder = SentenceTransformer(modules=[body, Pooling(384, "mean")], device="cpu")
        sides["sentence-transformers encode"] = lambda: encoder.encode(rows, batch_size=BATCH)
    return sides


def image_sides(folder: Path, images: Dataset) -> dict[str, Callable[[], Any]]:
    model, processor = AutoModel.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
    pipe = pipeline("image-feature-extraction", model=model, image_processor=processor, device="cpu", pool=True)
    ready = prepare(images, processor)
    return {
        "extract_features": lambda: cold(model, images, processor, batch_size=BATCH),
        "pipeline, defaults": lambda: [pipe(row) for row in images["image"]],
        f"pipeline, batches of {BATCH}": lambda: pipe(list(images["image"]), batch_size=BATCH),
        "decoding and processing alone": lambda: [
            ready[start : start + BATCH] for start in range(0, len(ready), BATCH)
        ],
    }


def cold(*args: Any, **options: Any) -> Dataset:
    """An extraction that finds no cache."""
    with tempfile.TemporaryDirectory() as cache:
        return extract_features(*args, **options, cache_dir=cache, progress=False)


def operations(model: Any, **inputs: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(**inputs)
    return counter.get_total_flops()


def text_operations(folder: Path, texts: Dataset) -> int:
    """Of the matrix products of all tokens, none of them padding."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer(texts["text"][:], truncation=True, max_length=MAX_LENGTH)["input_ids"]
    by_length = {
        length: operations(model, input_ids=torch.ones(1, length, dtype=torch.long))
        for length in {len(row) for row in encoded}
    }
    return sum(by_length[len(row)] for row in encoded)


def image_operations(folder: Path, rows: int) -> int:
    model = AutoModel.from_pretrained(folder).eval()
    return rows * operations(model, pixel_values=torch.zeros(1, 3, 224, 224))


def peak_of(kind: str, folder: str, rows: int) -> float:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_here, (kind, folder, rows))


def _peak_here(kind: str, folder: str, rows: int) -> float:
    auto: Any = AutoTokenizer if kind == "text" else AutoImageProcessor
    with tempfile.TemporaryDirectory() as data:
        # from disk and memory-mapped, as a large data set would be
        made = made_texts if kind == "text" else made_images
        made(min(rows, 1000)).save_to_disk(f"{data}/part")
        part = Dataset.load_from_disk(f"{data}/part")
        rows_of_it = part.select([row % len(part) for row in range(rows)])
        cold(AutoModel.from_pretrained(folder), rows_of_it, auto.from_pretrained(folder), batch_size=BATCH)
    return peak_mebibytes()


def compare(sides: dict[str, Callable[[], Any]], rows: int, rounds: int) -> dict[str, float]:
    """Median seconds of each side, and a Markdown table of them."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    write = sys.stdout.write
    write("| way | examples/s | `extract_features` is faster by |\n|---|---|---|\n")
    for name, seconds in medians.items():
        write(f"| {name} | {rows / seconds:.0f} | {seconds / medians['extract_features']:.2f} |\n")
    return medians


def tell_floor(floor: float, medians: dict[str, float]) -> None:
    share = floor / medians["extract_features"]
    sys.stdout.write(f"\nfloor (matrix products alone): {floor:.2f} s, {share:.0%} of the time\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text_model", type=Path, help="folder of a text encoder (default: made up, MiniLM's size)")
    parser.add_argument("--texts", help="CSV file with a column `text` (default: made up)")
    parser.add_argument("--image_model", type=Path, help="folder of an image model at 224 pixels (default: made up)")
    parser.add_argument("--images", help="folder of images (default: made up)")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, default=1000, help="N of the memory comparison; 0 leaves it out")
    options = parser.parse_args()
    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as made:
        text_model = options.text_model or made_text_model(Path(made, "text"))
        image_model = options.image_model or made_image_model(Path(made, "image"))
        texts = load_dataset("csv", data_files=options.texts, split="train") if options.texts else None
        texts = made_texts(options.rows) if texts is None else texts.select(range(min(options.rows, len(texts))))
        images = load_dataset("imagefolder", data_dir=options.images, split="train") if options.images else None
        images = made_images(options.rows) if images is None else images.shuffle(seed=0).select(range(options.rows))
        write = sys.stdout.write
        rate = max(matrix_rate() for _ in range(5))  # the best: whatever else runs here makes it lower
        write(f"threads: {torch.get_num_threads()}, matrix rate: {rate / 1e9:.0f} GFLOP/s\n")
        write(f"\n{len(texts)} texts\n\n")
        medians = compare(text_sides(text_model, texts.select_columns(["text"])), len(texts), options.rounds)
        tell_floor(text_operations(text_model, texts) / rate, medians)
        write(f"\n{len(images)} images\n\n")
        medians = compare(image_sides(image_model, images.select_columns(["image"])), len(images), options.rounds)
        tell_floor(image_operations(image_model, len(images)) / rate, medians)
        for kind, folder in (("text", text_model), ("image", image_model)) if options.memory else ():
            few, many = (peak_of(kind, str(folder), rows) for rows in (options.memory, 10 * options.memory))
            write(f"\npeak memory, {kind}: {few:.0f} MiB for {options.memory} rows, {many / few:.3f} times for 10x\n")


if __name__ == "__main__":
    main()
