"""
Train an adapter of PEFT, such as LoRA, for an image, text or token classifier of transformers.

    accelerate launch recipes/adapters.py
    accelerate launch recipes/adapters.py --model_name_or_path google/vit-base-patch16-224 --dataset_name beans \\
        --adapter lora --rank 16 --seeds 3 --merge --output_dir my-adapter

Without arguments it takes those of adapters.yaml: embedded data, no network. The table of what trains is shown before
training. The folder it leaves holds the adapter alone, with the processor and what it takes to open it again:
`load_adapter(folder)` gives model and processor for `pipeline()`. It is loaded back at the end, from the folder and
with --push_to_hub from the Hub too, and has to give the logits of the model that was trained. --merge leaves an
ordinary model in the folder `merged`, verified alike. Scores, sizes and differences are in its all_results.json.
With --seeds there is such a folder for each seed, and mean, standard deviation and 95% interval in the
all_results.json above them.

Everything of recipes/finetune.py that changes the loss, the schedule or the weights in training goes with adapters.
"""

from __future__ import annotations

from hf_transfer.adapter_arguments import AdapterArguments, AdapterLoopArguments
from hf_transfer.adapter_tuning import AdapterTuning
from hf_transfer.method_arguments import MethodArguments
from hf_transfer.recipe import parse, prepare_run, save_summary
from hf_transfer.recipe_arguments import DataArguments, ModelArguments, RunArguments


def main() -> None:
    """Load, train, score, save, verify; as often as there are seeds."""
    recipe, adapter, methods, model_args, data_args, args = parse(
        __file__,
        *(RunArguments, AdapterArguments, MethodArguments, ModelArguments, DataArguments, AdapterLoopArguments),
    )
    prepare_run(args)
    recipe.check(args)
    scores: dict[int, dict[str, float]] = {}
    for seed, own in recipe.each_seed(args):
        run = AdapterTuning(recipe.dataset_name, adapter, methods, model_args, data_args, own)
        scores[seed] = run.run(find_rate=recipe.lr_find)
    if recipe.seeds > 1:
        save_summary(scores, args)


if __name__ == "__main__":
    main()
