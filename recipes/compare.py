"""
Find the right way to transfer: run strategies side by side on little data, and tell which to take and whether
transfer helps at all.

    accelerate launch recipes/compare.py
    accelerate launch recipes/compare.py --modality text  # or audio
    accelerate launch recipes/compare.py --model_name_or_path google/vit-base-patch16-224 --dataset_name beans \\
        --samples_per_class 20 --seeds 3 --budget 30m --output_dir beans

Without a model and data it takes those of compare.yaml, compare_text.yaml or compare_audio.yaml: no network. It
compares the majority class and training from scratch with a probe on frozen features, full fine-tuning, gradual
unfreezing, L2-SP, LoRA and LP-FT; with `--teacher_name_or_path` also distillation, with `--target_dataset` two methods
of domain adaptation. Several models make it a table of models and strategies. All have the same rows, the same new
head and the same steps; learning rates are found by short trials unless `--learning_rate` is given.

It leaves report.html and report.md (table, intervals, costs, learning curve, confusion, mistakes, how to run each row
again), results.json, and the recommended model or adapter with its card. A comparison that was interrupted goes on
where it stopped; one that gets more strategies, models or seeds runs these alone. Several processes share the runs.
The choice is made on validation rows, or on folds of the training rows; test rows take no part in it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hf_transfer import compare
from hf_transfer.compare.arguments import CompareArguments, CompareLoopArguments, example_words
from hf_transfer.recipe import parse, prepare_run
from hf_transfer.recipe_arguments import DataArguments


def main() -> None:
    """Run what is missing, answer, report, save."""
    sys.argv[1:] = example_words(sys.argv[1:], Path(__file__).parent)
    recipe, data, args = parse(__file__, CompareArguments, DataArguments, CompareLoopArguments)
    prepare_run(args)
    compare(
        recipe.model_name_or_path or None,
        recipe.dataset_name,
        args=args,
        data_args=data,
        output_dir=args.output_dir,
        **recipe.options(),
    )


if __name__ == "__main__":
    main()
