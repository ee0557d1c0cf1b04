"""A small adapter on an embedded base model, trained in seconds, for trying what works with adapters offline."""

from __future__ import annotations

import hashlib
import inspect
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from transformers.utils import logging

from hf_transfer.adapters.add import add_adapter
from hf_transfer.adapters.saving import save_adapter
from hf_transfer.models import EMBEDDED, load_model, resolve_name


logger = logging.get_logger(__name__)

_TRAINED_ON = {"text": "embedded:reviews/kitchen", "image": "embedded:digits/shifted", "audio": "embedded:tones"}

__all__ = ["embedded_adapter"]


def embedded_adapter(kind: str) -> Path:
    """
    Folder of a LoRA adapter for an embedded model; trained at the first call, found in the Hugging Face cache later.

    - `"text"`: kitchen reviews, positive or negative, on `embedded:text`, which knows book reviews. Accuracy 0.69.
    - `"image"`: digits in other writing conditions, on `embedded:image`, which knows the digits 0 to 4.
    - `"audio"`: eight kinds of sound, on `embedded:audio`, which knows four of them.

    Global random state is left alone. Processes that race each train their own, and the first to finish wins.

    Args:
        kind (`str`): `"text"`, `"image"` or `"audio"`.

    Raises:
        ValueError: if the kind is none of these.
    """
    if kind not in _TRAINED_ON:
        raise ValueError(
            f"There is no embedded adapter `{kind}`, so there is nothing to load. Pass `embedded:text`, "
            "`embedded:image` or `embedded:audio`, or the Hub id or folder of an adapter."
        )
    base = Path(resolve_name(EMBEDDED + kind))
    code = hashlib.sha256(inspect.getsource(sys.modules[__name__]).encode()).hexdigest()[:12]
    folder = Path(constants.HF_HOME) / "hf_transfer" / f"adapter_{kind}_{base.name.rpartition('_')[2]}_{code}"
    if folder.is_dir():
        return folder
    logger.info(f"Training the {kind} adapter into {folder}.")
    with tempfile.TemporaryDirectory(prefix="unfinished_adapter_", dir=folder.parent) as unfinished:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(0)
            model, processor = _train(kind)
        saved = save_adapter(model, Path(unfinished) / "adapter", processor=processor)
        try:
            shutil.move(saved, folder) if not folder.exists() else None
        except OSError:
            if not folder.is_dir():  # else another process was first
                raise
    return folder


def _train(kind: str) -> tuple[Any, Any]:
    """A few passes of AdamW over the embedded training rows, in batches of 32."""
    from torch.utils.data import DataLoader

    from hf_transfer.data.loading import load_splits
    from hf_transfer.data.preparation import collator_for, prepare

    data = load_splits(_TRAINED_ON[kind], max_samples=480)
    whole, processor = load_model(EMBEDDED + kind, data)
    model = add_adapter(whole, "lora", r=8, lora_alpha=16)
    rows: Any = prepare(data.train, processor)
    loader = DataLoader(rows, 32, shuffle=True, collate_fn=collator_for(processor))
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    model.train()
    for _ in range(6):
        for batch in loader:
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.eval(), processor
