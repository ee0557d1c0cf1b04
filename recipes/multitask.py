"""
Train one model for several tasks, compare each with a model of its own, and save an ordinary model for every task.

    accelerate launch recipes/multitask.py
    accelerate launch recipes/multitask.py --model_name_or_path bert-base-uncased \\
        --task_datasets sentiment=sst2 intent=banking77 --weighting uncertainty --surgery pcgrad --seeds 3

Without arguments it takes those of multitask.yaml: embedded data, no network. Each task has a data set of its own
(`--task_datasets name=data ...`), or one data set has a label column for each (`--dataset_name`, `--label_columns`).
Classes, real values and tags of words can be mixed.

The folder of each task below --output_dir opens with `AutoModelFor...from_pretrained` and `pipeline()`. comparison.md
says of every task whether the others help or hurt it, with the relative change against the same task learned alone and
its interval; the same is in all_results.json. `--adapter lora` trains an adapter, which is merged into these models.
"""

from __future__ import annotations

from hf_transfer.adapter_arguments import AdapterOptions
from hf_transfer.multitask.arguments import MultitaskArguments, MultitaskLoopArguments
from hf_transfer.multitask.closing import run_all
from hf_transfer.multitask.running import Multitasking
from hf_transfer.recipe import parse, prepare_run
from hf_transfer.recipe_arguments import DataArguments, ModelArguments


def main() -> None:
    """Train the tasks together and alone, compare, export."""
    recipe, adapter, model_args, data_args, args = parse(
        __file__, MultitaskArguments, AdapterOptions, ModelArguments, DataArguments, MultitaskLoopArguments
    )
    prepare_run(args)
    run_all(Multitasking(recipe, model_args, data_args, args, adapter=adapter))


if __name__ == "__main__":
    main()
