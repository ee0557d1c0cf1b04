"""
Train on a labelled source and an unlabelled target with a domain-adversarial head, beside a source-only run.

    accelerate launch recipes/domain_adaptation.py
    accelerate launch recipes/domain_adaptation.py --model_name_or_path distilbert-base-uncased \\
        --source_dataset ./books --target_dataset ./kitchen --output_dir adapted

Without arguments it takes those of domain_adaptation.yaml: embedded data, no network. Labels of the target, where it
has any, are used for the final scores only: not for training, nor to choose among epochs.
"""

import dataclasses
import math
from dataclasses import dataclass, field

from transformers import set_seed

from hf_transfer import DomainAdversarial, TransferTrainer, mix_domains
from hf_transfer.data.preparation import collator_for, prepare
from hf_transfer.metrics import MAIN_METRIC, compute_metrics_for
from hf_transfer.recipe import parse, prepare_run, score
from hf_transfer.recipe_arguments import DataArguments, LoopArguments, ModelArguments


@dataclass
class DomainArguments:
    """Which domains, and how hard to bring them together."""

    source_dataset: str = field(metadata={"help": "Hub id, folder or file of the labelled domain."})
    target_dataset: str = field(metadata={"help": "Hub id, folder or file of the domain to adapt to."})
    adversarial_weight: float = field(
        default=1.0, metadata={"help": "Weight of the term; 0 is the control: mixed batches, no adversary."}
    )
    source_only: bool = field(default=True, metadata={"help": "Train on the source alone first, to compare with."})


@dataclass(repr=False)
class AdversarialLoopArguments(LoopArguments):
    """`LoopArguments` with the momentum that a game of two players bears, and one learning rate for both."""

    adam_beta1: float = field(
        default=0.5, metadata={"help": "Momentum of AdamW; at its usual 0.9 backbone and discriminator overshoot."}
    )
    head_lr: float | None = field(
        default=None, metadata={"help": "Learning rate of head and discriminator; by default --learning_rate."}
    )


def main() -> None:
    """Load both domains, train without and with the target, score both ways, save the adapted model."""
    recipe, model_args, data_args, args = parse(
        __file__, DomainArguments, ModelArguments, DataArguments, AdversarialLoopArguments
    )
    prepare_run(args)
    args.without_validation()  # labels of the target must not choose the epoch

    with args.main_process_first(desc="loading data"):
        source = data_args.load(recipe.source_dataset, args.seed)
        target = data_args.load(recipe.target_dataset, args.seed, samples_per_class=None, require_labels=False)
        _, processor = model_args.load(source)
        augment = data_args.augment(source, processor)
        options = {"max_length": data_args.max_length}
        source_train = prepare(source.train, processor, augment=augment, **options)
        target_train = prepare(target.train, processor, augment=augment, **options)
        mixed = mix_domains(source_train, target_train)  # now: domains that do not fit must not cost a training first
        tests = {"source": source.test or source.eval, "target": target.test or target.eval}
        tests = {
            name: prepare(split, processor, **options)
            for name, split in tests.items()
            if split is not None and "label" in split.column_names
        }

    def train(prefix, dataset, objectives, args):
        set_seed(args.seed)  # both runs start from the same weights
        model, _ = model_args.load(source)
        trainer = TransferTrainer(
            model,
            args,
            train_dataset=dataset,
            processing_class=processor,
            data_collator=collator_for(processor, tokens=source.task == "token-classification"),
            compute_metrics=compute_metrics_for(source.task, source.label_names),
            objectives=objectives,
        )
        result = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint if objectives else None)
        trainer.save_metrics(f"{prefix}train", result.metrics)
        scores = {}
        for name, split in tests.items():
            metrics = score(trainer, split, f"{prefix}{name}")
            scores |= {key: value for key, value in metrics.items() if key.endswith(MAIN_METRIC[source.task])}
        return trainer, scores

    # Both runs take the same number of steps, each on the same number of source rows; the adapted one adds as many
    # target rows to every batch.
    rows = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    if args.max_steps <= 0:
        args.max_steps = math.ceil(args.num_train_epochs * max(len(source_train), len(target_train)) / rows)
    alone = {}
    if recipe.source_only:
        alone_args = dataclasses.replace(args, save_strategy="no", push_to_hub=False)
        alone = train("source_only_", source_train, [], alone_args)[1]
    args.per_device_train_batch_size *= 2
    adversary = DomainAdversarial(weight=recipe.adversarial_weight)
    trainer, adapted = train("", mixed, [adversary], args)
    trainer.log_metrics("accuracy on source and target", {**alone, **adapted})
    trainer.save_model()
    if args.push_to_hub:
        trainer.push_to_hub(tasks=source.task)


if __name__ == "__main__":
    main()
