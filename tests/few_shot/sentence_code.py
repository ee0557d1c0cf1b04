"""
A saved text classifier where this package is not: `launch("tests.few_shot.sentence_code", MODEL, CACHE)`.

Prints its logits for a row of four tokens, and what `pipeline()` says of a text.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, dynamic_module_utils, pipeline


def main(folder: str, cache: str) -> None:
    dynamic_module_utils.HF_MODULES_CACHE = cache  # read when it was imported
    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).eval()
    assert not any(name.startswith("hf_transfer.few_shot") for name in sys.modules)
    assert type(model).__module__.startswith("transformers_modules")
    logits = model(torch.tensor([[3, 4, 5, 6]])).logits
    classify: Any = pipeline("text-classification", model=folder, trust_remote_code=True, device="cpu")
    sys.stdout.write(json.dumps([logits.tolist(), classify("the apple")]))


if __name__ == "__main__":
    main(*sys.argv[1:])
