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

from transformers.utils import logging

from hf_transfer.fine_tuning import FineTuning, find_settings
from hf_transfer.method_arguments import MethodArguments
from hf_transfer.recipe import parse, prepare_run, save_summary
from hf_transfer.recipe_arguments import DataArguments, LoopArguments, ModelArguments


logger = logging.get_logger("hf_transfer.recipes.finetune")


@dataclass
class FineTuningArguments:
    """Which data, and how often."""

    _argument_group_name = "the recipe"  # a heading of --help

    dataset_name: str = field(metadata={"help": "Hub id, folder or file of the data; embedded:digits for a try."})
    seeds: int = field(
        default=1,
        metadata={"help": "Repeat with this many seeds from --seed on, each with rows and a head of its own."},
    )
    soup: str = field(
        default="none",
        metadata={
            "help": "With --seeds: average the models of all seeds (uniform), or of those that help on the validation "
            "rows by --metric_for_best_model (greedy). All seeds then share rows and start, and differ in order and "
            "dropout.",
            "choices": ["none", "uniform", "greedy"],
        },
    )
    lr_find: bool = field(
        default=False,
        metadata={
            "help": "Set --learning_rate by a range test, and the other rates in proportion; leaves lr_find.png and "
            "lr_find.yaml."
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
        if self.seeds < 1:
            raise ValueError(f"`--seeds {self.seeds}` trains nothing. Give 1 or more.")
        if self.search < 0:
            raise ValueError(f"`--search {self.search}` is no number of settings to try. Give 0 for none, or more.")
        if self.soup != "none" and self.seeds < 2:
            raise ValueError(
                f"`--soup {self.soup}` with `--seeds {self.seeds}`: there is one model, and nothing to average. Give "
                "2 seeds or more."
            )

    def check(self, args: LoopArguments) -> None:
        """Refuse what several runs cannot share."""
        for option in ("push_to_hub", "resume_from_checkpoint"):
            if self.seeds > 1 and getattr(args, option):
                raise ValueError(
                    f"`--{option}` with `--seeds {self.seeds}`: there is a model for each seed, and it is not said "
                    "which is meant. Run the one seed alone, with `--seed` and its folder as `--output_dir`."
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
    for seed in range(args.seed, args.seed + recipe.seeds):
        own = args if recipe.seeds == 1 else args.at_seed(seed)
        if recipe.seeds > 1:
            logger.info(f"Seed {seed}, {len(folders) + 1} of {recipe.seeds}, in {own.output_dir}")
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
