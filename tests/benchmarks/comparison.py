"""
What a comparison takes beside the same strategies one by one through the recipes, each a process of its own:

    python -m tests.benchmarks.comparison [--seeds 2] [--max_steps 60]

Halving, budget and learning curve are off, and the learning rate is given, so that both do the same steps on the same
number of rows; the recipes validate once, at the end. Prints seconds of both, their ratio (at most 0.60 wanted), and
the floor: the share of the recipes' time that the trainings alone take in the comparison, which no sharing of models,
features and processes could get below.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from transformers import AutoConfig

from hf_transfer.models import resolve_name


ROOT = Path(__file__).parents[2]
MODEL, DATA = "embedded:image", "embedded:digits/shifted"
RATE = "1e-3"
STRATEGIES = ("probe", "scratch", "full", "frozen_bn", "gradual", "l2sp", "lora", "lp_ft")


def shared(steps: int, seed: int) -> list[str]:
    """Options of the loop that all runs have."""
    loop = ["--max_steps", str(steps), "--learning_rate", RATE, "--per_device_train_batch_size", "20"]
    rows = ["--samples_per_class", "10", "--per_device_eval_batch_size", "64", "--seed", str(seed)]
    return [*loop, *rows, "--use_cpu", "--disable_tqdm", "true"]


def alone(strategy: str) -> list[str]:
    """The recipe that runs a strategy, and its options."""
    start = ["--model_name_or_path", MODEL]
    if strategy == "scratch":
        config = AutoConfig.from_pretrained(resolve_name(MODEL)).to_dict()
        own = {name: config[name] for name in ("embedding_size", "hidden_sizes", "depths", "layer_type")}
        start = ["--model_type", "resnet", "--config_overrides", json.dumps({**own, "image_size": 32})]
    recipe, options = {
        "probe": ("feature_extraction", []),
        "scratch": ("finetune", []),
        "full": ("finetune", []),
        "frozen_bn": ("finetune", ["--freeze_batch_norm", "true"]),
        "gradual": ("finetune", ["--freeze", "gradual", "--layer_decay", "0.75"]),
        "l2sp": ("finetune", ["--l2sp", "0.01"]),
        "lora": ("adapters", ["--adapter", "lora"]),
        "lp_ft": ("finetune", ["--probe_first"]),
    }[strategy]
    loop = [] if recipe == "feature_extraction" else ["--eval_strategy", "no", "--save_strategy", "no"]
    return [f"recipes/{recipe}.py", *start, "--dataset_name", DATA, *options, *loop]


def timed(words: list[str], home: Path) -> float:
    """Seconds of a process, with the caches of `home`."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *words]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stderr[-3000:]}")
    return time.perf_counter() - started


def main() -> None:
    """Both, the comparison first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--max_steps", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, seconds = Path(temporary), dict.fromkeys(STRATEGIES, 0.0)
        for home in ("home", "another"):  # neither finds features of the other
            timed(["-c", f"from hf_transfer.models import resolve_name; resolve_name({MODEL!r})"], folder / home)
        words = ["recipes/compare.py", "--model_name_or_path", MODEL, "--dataset_name", DATA, "--curve", "false"]
        words += ["--strategies", *STRATEGIES, "--seeds", str(options.seeds), "--halving", "false"]
        words += ["--output_dir", str(folder / "together"), *shared(options.max_steps, 42)]
        together = timed(words, folder / "home")
        results = json.loads((folder / "together" / "results.json").read_text())
        trained = sum(cell["costs"]["seconds"] for cell in results["cells"])
        for name in STRATEGIES:
            for seed in range(42, 42 + options.seeds):
                words = [
                    *alone(name),
                    *shared(options.max_steps, seed),
                    "--output_dir",
                    str(folder / name / str(seed)),
                ]
                seconds[name] += timed(words, folder / "another")
    one_by_one = sum(seconds.values())
    lines = [
        "| strategy | seconds alone |",
        "|---|---|",
        *(f"| {name} | {own:.1f} |" for name, own in seconds.items()),
    ]
    lines += [f"| all one by one | {one_by_one:.1f} |", f"| the comparison | {together:.1f} |", ""]
    lines.append(f"ratio {together / one_by_one:.2f} (at most 0.60 wanted); floor {trained / one_by_one:.2f}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
