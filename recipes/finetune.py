"""
Fine-tune an image, text or token classifier of transformers on little data.

    accelerate launch recipes/finetune.py
    accelerate launch recipes/finetune.py --model_name_or_path google/vit-base-patch16-224 --dataset_name beans \\
        --samples_per_class 20 --probe_first --l2sp 0.01 --seeds 5 --output_dir my-model

Without arguments it takes those of finetune.yaml: embedded data, no network. The folder it leaves opens with
`AutoModelFor...from_pretrained` and `pipeline()`; the scores are in its all_results.json. With --seeds there is such a
folder for each seed, and mean, standard deviation and 95% interval in the all_results.json above them. What is chosen
by validation (early stopping, WiSE-FT, a search, a greedy soup) holds out 20% of the training rows where the data has
no validation split.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hf_transfer.fine_tuning import FineTuning, find_settings
from hf_transfer.method_arguments import MethodArguments
from hf_transfer.recipe import parse, prepare_run, save_summary
from hf_transfer.recipe_arguments import DataArguments, LoopArguments, ModelArguments, RunArguments


@dataclass
class FineTuningArguments(RunArguments):
    """Which data, how often, and what is found first."""

    soup: str = field(
        default="none",
        metadata={
            "help": "With --seeds: average the models of all seeds (uniform), or of those that help on the validation "
            "rows by --metric_for_best_model (greedy). All seeds then share rows and start, and differ in order and "
            "dropout.",
            "choices": ["none", "uniform", "greedy"],
        },
    )
    search: int = field(
        default=0,
        metadata={
            "help": "First try this many settings with Optuna (rates, decay, epochs up to --num_train_epochs, stages, "
            "weights of the methods that are on) and take what validates best by --metric_for_best_model; leaves "
            "best.yaml. 0 is none."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.search < 0:
            raise ValueError(f"`--search {self.search}` is no number of settings to try. Give 0 for none, or more.")
        if self.soup != "none" and self.seeds < 2:
            raise ValueError(
                f"`--soup {self.soup}` with `--seeds {self.seeds}`: there is one model, and nothing to average. Give "
                "2 seeds or more."
            )


def main() -> None:
    """Load, train, score, save; as often as there are seeds."""
    recipe, methods, model_args, data_args, args = parse(
        __file__, FineTuningArguments, MethodArguments, ModelArguments, DataArguments, LoopArguments
    )
    prepare_run(args)
    recipe.check(args)
    if recipe.search:
        find_settings(recipe.dataset_name, methods, model_args, data_args, args, trials=recipe.search)
    scores: dict[int, dict[str, float]] = {}
    folders: list[str] = []
    soup: dict[str, float] = {}
    for seed, own in recipe.each_seed(args):
        run = FineTuning(
            recipe.dataset_name,
            methods,
            model_args,
            data_args,
            own,
            data_seed=args.seed if recipe.soup != "none" else None,
            validate=recipe.soup == "greedy" or recipe.search > 0,
        )
        folders.append(str(own.output_dir))
        scores[seed] = run.run(find_rate=recipe.lr_find)
        if recipe.soup != "none" and len(folders) == recipe.seeds:
            soup = run.soup(folders, recipe.soup, f"{args.output_dir}/soup")
    if recipe.seeds > 1:
        save_summary(scores, args, soup=soup)


if __name__ == "__main__":
    main()
