"""Settings of every test: offline, one thread, a fixed seed."""

from __future__ import annotations

import gc
import os


# Before any Hugging Face library is imported, here or in a process a test starts.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
    CUDA_VISIBLE_DEVICES="",
)

import pytest  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402


torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def pytest_collection_finish() -> None:
    # The Trainer collects garbage at every start: what is imported by now need not be walked again.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
