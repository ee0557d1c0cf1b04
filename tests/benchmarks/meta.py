"""
What a MAML step on LoRA costs when the tasks run at once (`vmap`) and one after the other.

    python -m tests.benchmarks.meta [--image_size 224] [--order second first] [--device cuda]

A ViT of the size of ViT-Tiny (192 wide, 12 blocks, 3 heads), LoRA of rank 4 on its attention, 4 tasks of 5 classes
with 1 support and 1 query row each, 3 inner steps; forward, inner loop and meta-gradient. Both ways in turn in one
process, best of some; the meta-gradients are checked to be the same.
"""

from __future__ import annotations

import argparse
import resource
import time
from typing import Any

import torch
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification

from hf_transfer.adapters import add_adapter
from hf_transfer.meta.learner import EpisodeShape, Learner
from hf_transfer.meta.selection import select


TASKS, STEPS, REPEATS = 4, 3, 5
SHAPE = EpisodeShape(n_way=5, k_shot=1, queries=1)


def meta_gradient(learner: Learner, inputs: dict[str, Tensor], names: tuple[str, ...]) -> list[Tensor]:
    """The gradient of the mean query loss, as `MetaTrainer` computes it: all tasks at once, or one by one."""
    _, asked = learner.shape.labels(next(iter(inputs.values())).device)
    parameters = [learner.model.get_parameter(name) for name in names]
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    for start in range(0, TASKS, TASKS if learner.vectorize else 1):
        part = {name: value[start : start + (TASKS if learner.vectorize else 1)] for name, value in inputs.items()}
        logits, _ = learner.query_logits(part, 0.1)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), asked.repeat(len(logits))) * len(logits) / TASKS
        for total, gradient in zip(sums, torch.autograd.grad(loss, parameters), strict=True):
            total += gradient
    return sums


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image_size", type=int, default=96)
    parser.add_argument("--order", nargs="+", default=["second", "first"], choices=["second", "first"])
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(0)
    options_of_model: dict[str, Any] = {"num_labels": SHAPE.n_way}
    config = ViTConfig(
        hidden_size=192,
        num_hidden_layers=12,
        num_attention_heads=3,
        intermediate_size=768,
        image_size=options.image_size,
        patch_size=16,
        **options_of_model,
    )
    model = add_adapter(ViTForImageClassification(config), r=4, target_modules="attention").to(options.device).eval()
    names = select(model, "lora").trained
    size = (TASKS, SHAPE.size, 3, options.image_size, options.image_size)
    inputs = {"pixel_values": torch.randn(size, device=options.device)}
    for order in options.order:
        ways = {
            word: Learner(model, names, SHAPE, steps=STEPS, first_order=order == "first", vectorize=word == "vmap")
            for word in ("vmap", "loop")
        }
        best = dict.fromkeys(ways, float("inf"))
        found: dict[str, list[Tensor]] = {}
        for _ in range(REPEATS):
            for word, learner in ways.items():
                begin = time.perf_counter()
                found[word] = meta_gradient(learner, inputs, names)
                if options.device == "cuda":
                    torch.cuda.synchronize()
                best[word] = min(best[word], time.perf_counter() - begin)
        for one, other in zip(found["vmap"], found["loop"], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-5)
        print(
            f"{order} order, images of {options.image_size}: vmap {best['vmap']:.2f} s, loop {best['loop']:.2f} s, "
            f"loop / vmap {best['loop'] / best['vmap']:.2f}"
        )
    print(
        f"{torch.get_num_threads()} threads, peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MB"
    )


if __name__ == "__main__":
    main()
