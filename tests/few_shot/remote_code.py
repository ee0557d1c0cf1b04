"""
A saved image classifier where this package is not: `launch("tests.few_shot.remote_code", MODEL, CACHE)`.

Prints its logits for an image of ones.
"""

from __future__ import annotations

import json
import sys

import torch
from transformers import AutoModelForImageClassification, dynamic_module_utils


def main(folder: str, cache: str) -> None:
    dynamic_module_utils.HF_MODULES_CACHE = cache  # read when it was imported
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True).eval()
    assert not any(name.startswith("hf_transfer.few_shot") for name in sys.modules)
    assert type(model).__module__.startswith("transformers_modules")
    sys.stdout.write(json.dumps(model(torch.ones(1, 3, 8, 8)).logits.tolist()))


if __name__ == "__main__":
    main(*sys.argv[1:])
