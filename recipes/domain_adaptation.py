"""
Train on labelled sources and unlabelled targets by several methods, and choose between them without target labels.

    accelerate launch recipes/domain_adaptation.py
    accelerate launch recipes/domain_adaptation.py --model_name_or_path distilbert-base-uncased \\
        --source_dataset ./books ./dvds --target_dataset ./kitchen --methods dann,mcc,cdan+mcc,coral --seeds 3 \\
        --choose_by dev --output_dir adapted

Without arguments it takes those of domain_adaptation.yaml: embedded data, no network. It leaves comparison.md (source
and target score of every method, the difference to the source-only run, what each validator would choose and its
regret), all_results.json, methods.png, features.png, and the model of the run that `--choose_by` takes. Every finished
run is in results.json: a comparison that was interrupted goes on there, one that gets more methods or seeds too.

Labels of a target, where it has any, are used for the final scores only: not for training, nor to choose, unless
`target_oracle` or `oracle` is named. `--adapter lora` trains an adapter in every run, in place of the model.
`--loss mine.yaml` composes a loss of one's own, a method a line: `mcc: 0.5`, or with options
`cdan: {weight: 1.0, entropy_conditioning: true}`.
"""

from __future__ import annotations

from hf_transfer.adapter_arguments import AdapterOptions
from hf_transfer.domain_adaptation.arguments import AdaptationLoopArguments, DomainArguments
from hf_transfer.domain_adaptation.closing import close
from hf_transfer.domain_adaptation.comparison import Comparison
from hf_transfer.recipe import parse, prepare_run
from hf_transfer.recipe_arguments import DataArguments, ModelArguments


def main() -> None:
    """Train every method with every seed, compare, choose, save."""
    recipe, adapter, model, data, args = parse(
        __file__, DomainArguments, AdapterOptions, ModelArguments, DataArguments, AdaptationLoopArguments
    )
    prepare_run(args)
    comparison = Comparison(recipe, model, data, args, adapter=adapter)
    comparison.run()
    close(comparison)


if __name__ == "__main__":
    main()
