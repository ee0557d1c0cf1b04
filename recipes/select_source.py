"""
Choose the pretrained model to start from, before any fine-tuning.

    accelerate launch recipes/select_source.py
    accelerate launch recipes/select_source.py --dataset_name beans --model_name_or_path microsoft/resnet-18 \\
        google/mobilenet_v2_0.35_96 facebook/deit-tiny-patch16-224 --controls random

Without arguments it takes those of select_source.yaml: embedded data, no network.

Every candidate reads the same labelled rows once. A linear probe and k-NN on held-out rows are compared row by row,
and where they cannot be told apart it says so and names the smallest; beside them stand LogME, LEEP, NLEEP, NCE,
H-score, TransRate, GBC, PARC, SFDA and ETran, the number of parameters, what fine-tuning would cost, and whether the
features are any better than the inputs as they are. `--source_dataset` adds how far source data is from the target.

It leaves ranking.md, ranking.png, all_results.json, results.json, where finished candidates are kept, and in `model`
the recommended one with a probe as its head, which opens with `AutoModelFor...from_pretrained` and `pipeline()`.
"""

from __future__ import annotations

from hf_transfer.feature_arguments import FeatureArguments
from hf_transfer.recipe import parse, prepare_run
from hf_transfer.recipe_arguments import DataArguments, LoopArguments
from hf_transfer.selection.arguments import SelectSourceArguments
from hf_transfer.selection.running import SourceSelection


def main() -> None:
    """Rank, recommend, keep the best."""
    recipe, features, data, args = parse(
        __file__, SelectSourceArguments, FeatureArguments, DataArguments, LoopArguments
    )
    prepare_run(args)
    SourceSelection(recipe, features, data, args).run()


if __name__ == "__main__":
    main()
