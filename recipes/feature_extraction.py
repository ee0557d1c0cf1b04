"""
Extract features of a frozen model once, fit a probe on them and write it into the model's own head.

    accelerate launch recipes/feature_extraction.py
    accelerate launch recipes/feature_extraction.py --model_name_or_path google/vit-base-patch16-224 \\
        --dataset_name beans --probes logistic ridge knn --layers --output_dir my-model

Without arguments it takes those of feature_extraction.yaml: embedded data, no network. The folder it leaves is an
ordinary classifier for `AutoModelFor...from_pretrained` and `pipeline()`; the scores of every probe are in its
all_results.json. Features are kept in a cache: a second run on the same model and data does not run the model at all.
`python -m hf_transfer cache list` shows what is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers.utils import logging

from hf_transfer.feature_arguments import FeatureArguments
from hf_transfer.probing import ProbeArguments, Probing
from hf_transfer.recipe import parse, prepare_run, save_summary
from hf_transfer.recipe_arguments import DataArguments, LoopArguments, ModelArguments


logger = logging.get_logger("hf_transfer.recipes.feature_extraction")


@dataclass
class FeatureExtractionArguments:
    """Which data, and how often."""

    _argument_group_name = "the recipe"  # a heading of --help

    dataset_name: str = field(metadata={"help": "Hub id, folder or file of the data; embedded:digits for a try."})
    seeds: int = field(
        default=1,
        metadata={"help": "Repeat with this many seeds from --seed on, each with rows of its own."},
    )

    def __post_init__(self):
        if self.seeds < 1:
            raise ValueError(f"`--seeds {self.seeds}` fits nothing. Give 1 or more.")


def main() -> None:
    """Extract, fit, fold, score, save; as often as there are seeds."""
    recipe, probe, features, model, data, args = parse(
        __file__,
        FeatureExtractionArguments,
        ProbeArguments,
        FeatureArguments,
        ModelArguments,
        DataArguments,
        LoopArguments,
    )
    if recipe.seeds > 1 and args.push_to_hub:
        raise ValueError(
            f"`--push_to_hub` with `--seeds {recipe.seeds}`: there is a model for each seed, and it is not said which "
            "is meant. Run the one seed alone, with `--seed`."
        )
    prepare_run(args)
    scores = {}
    for seed in range(args.seed, args.seed + recipe.seeds):
        own = args if recipe.seeds == 1 else args.at_seed(seed)
        results = Probing(recipe.dataset_name, probe, features, model, data, own).run()
        scores[seed] = {name: value for name, value in results.items() if name.startswith(("eval_", "test_"))}
    if recipe.seeds > 1:
        save_summary(scores, args)


if __name__ == "__main__":
    main()
