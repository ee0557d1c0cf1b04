"""
Extract features of a frozen model and leave them as Parquet files, one for each split.

    accelerate launch recipes/extract_features.py
    accelerate launch recipes/extract_features.py --model_name_or_path sentence-transformers/all-MiniLM-L6-v2 \\
        --dataset_name sst2 --taps head block.3 --feature_dtype float16 --output_dir my-features

Without arguments it takes those of extract_features.yaml: embedded data, no network. `datasets.load_dataset(folder)`
opens the result: a column for each tap, `labels` with their names, and `id`, the row of the example in its split. On
several ranks each computes its part. With --push_to_hub they become a data set on the Hub.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hf_transfer.feature_arguments import FeatureArguments
from hf_transfer.feature_files import write_features
from hf_transfer.recipe import parse, prepare_run
from hf_transfer.recipe_arguments import DataArguments, LoopArguments, ModelArguments


@dataclass
class ExtractionArguments:
    """Which data, and what is read."""

    _argument_group_name = "the recipe"  # a heading of --help

    dataset_name: str = field(metadata={"help": "Hub id, folder or file of the data; embedded:digits for a try."})
    taps: list[str] = field(
        default_factory=lambda: ["head"],
        metadata={"help": "What to read: head (what enters the head), block.3, block.-1, or blocks for all of them."},
    )


def main() -> None:
    """Load, extract, write, push."""
    recipe, features, model, data, args = parse(
        __file__, ExtractionArguments, FeatureArguments, ModelArguments, DataArguments, LoopArguments
    )
    prepare_run(args, repo_type="dataset")
    write_features(recipe.dataset_name, recipe.taps, features, model, data, args)


if __name__ == "__main__":
    main()
