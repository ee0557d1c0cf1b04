"""
Learn from very few labels, by several methods side by side.

    accelerate launch recipes/few_shot.py
    accelerate launch recipes/few_shot.py --model_name_or_path sentence-transformers/all-MiniLM-L6-v2 --pooling mean \\
        --dataset_name banking77 --base_classes 40 --k_shot 1 5 --methods nearest_mean,tim,protonet,anil,reptile,mtl
    accelerate launch recipes/few_shot.py --mode classes --samples_per_class 8 --seeds 5 \\
        --model_name_or_path sentence-transformers/all-MiniLM-L6-v2 --pooling mean --dataset_name banking77 \\
        --methods probe,fine_tuning,contrastive,class_names

Without arguments it takes those of few_shot.yaml: embedded data, no network.

`--mode episodes` asks how well new classes are told apart: in small problems of `--n_way` classes with `--k_shot`
labels each, the same ones for all methods. Some classify features of the pretrained model; others are first trained on
base classes, some of the data (`--base_classes`) or those of another data set (`--base_dataset_name`).

`--mode classes` learns all classes of the data from `--samples_per_class` rows each, with every seed from other rows:
class means or a regression on frozen features, fine-tuning, contrastive fine-tuning on pairs, class names as head.

`--pooling mean` is for sentence encoders: the model then averages its tokens, as they were trained to, where the
classifiers of transformers read the first. All methods and the kept model do so; it opens with `trust_remote_code`.

It leaves comparison.md (accuracy with its 95% interval, the paired difference to the nearest mean, seconds),
all_results.json, the models of all trained runs in folders of their own, and the best model as an ordinary one, which
opens with `AutoModelFor...from_pretrained` and `pipeline()`. Every finished run is in results.json: a comparison that
was interrupted goes on there.
"""

from __future__ import annotations

from hf_transfer.adapter_arguments import AdapterOptions
from hf_transfer.few_shot.arguments import FewShotArguments, FewShotFeatureArguments, FewShotLoopArguments
from hf_transfer.few_shot.closing import close_episodes, close_few_labels
from hf_transfer.few_shot.comparison import EpisodeComparison
from hf_transfer.few_shot.few_labels import FewLabelComparison
from hf_transfer.few_shot.methods import EPISODES
from hf_transfer.recipe import parse, prepare_run
from hf_transfer.recipe_arguments import DataArguments, ModelArguments


def main() -> None:
    """Run every method, compare, save."""
    recipe, features, model, adapter, data, args = parse(
        __file__,
        FewShotArguments,
        FewShotFeatureArguments,
        ModelArguments,
        AdapterOptions,
        DataArguments,
        FewShotLoopArguments,
    )
    prepare_run(args)
    if recipe.mode == EPISODES:
        episodes = EpisodeComparison(recipe, features, model, data, args, adapter=adapter)
        episodes.run()
        close_episodes(episodes)
    else:
        few = FewLabelComparison(recipe, features, model, data, args, adapter=adapter)
        few.run()
        close_few_labels(few)


if __name__ == "__main__":
    main()
