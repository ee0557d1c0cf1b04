"""
Fine-tune an image, text or token classifier of transformers on little data.

    accelerate launch recipes/finetune.py
    accelerate launch recipes/finetune.py --model_name_or_path google/vit-base-patch16-224 --dataset_name beans \
        --freeze gradual --layer_decay 0.75 --head_lr 1e-3 --l2sp 0.01 --output_dir my-model

Without arguments it takes those of finetune.yaml: embedded data, no network. The folder it leaves opens with
`AutoModelFor...from_pretrained` and `pipeline()`; the scores are in its all_results.json.
"""

from dataclasses import dataclass, field

from transformers import EarlyStoppingCallback, TrainerCallback, set_seed

from hf_transfer import L2SP, FreezeBackbone, GradualUnfreezing, TransferTrainer, UnfreezingSchedule
from hf_transfer.data.augmentation import augmentation
from hf_transfer.data.preparation import collator_for, prepare
from hf_transfer.metrics import compute_metrics_for
from hf_transfer.recipe import parse, prepare_run, score
from hf_transfer.recipe_arguments import DataArguments, LoopArguments, ModelArguments


@dataclass
class FineTuningArguments:
    """How to fine-tune."""

    dataset_name: str = field(metadata={"help": "Hub id, folder or file of the data; embedded:digits for a try."})
    freeze: str = field(
        default="none",
        metadata={
            "help": "none trains everything, backbone the head only, gradual from the head down in --stages.",
            "choices": ["none", "backbone", "gradual"],
        },
    )
    stages: int = field(default=4, metadata={"help": "Stages of --freeze gradual."})
    schedule: str | None = field(
        default=None,
        metadata={
            "help": "Instead of --freeze: a YAML of phases, as `python -m hf_transfer schedule MODEL` writes it."
        },
    )
    l2sp: float = field(default=0.0, metadata={"help": "Weight of the pull to the pretrained weights (L2-SP)."})
    early_stopping_patience: int = field(
        default=0, metadata={"help": "Stop after this many evaluations without a better one; 0 never stops early."}
    )

    def callbacks(self) -> list[TrainerCallback]:
        """The freezing schedule and early stopping."""
        freezing = {
            "none": lambda: None,
            "backbone": FreezeBackbone,
            "gradual": lambda: GradualUnfreezing(stages=self.stages),
        }
        chosen = UnfreezingSchedule(self.schedule) if self.schedule else freezing[self.freeze]()
        stopping = EarlyStoppingCallback(self.early_stopping_patience) if self.early_stopping_patience else None
        return [callback for callback in (chosen, stopping) if callback is not None]


def main() -> None:
    """Load, train, score, save."""
    recipe, model_args, data_args, args = parse(
        __file__, FineTuningArguments, ModelArguments, DataArguments, LoopArguments
    )
    prepare_run(args)
    set_seed(args.seed)

    with args.main_process_first(desc="loading data"):
        data = data_args.load(recipe.dataset_name, args.seed)
        model, processor = model_args.load(data)
        augment = augmentation(data_args.augmentation, processor) if data.task == "image-classification" else None
        train = prepare(data.train, processor, max_length=data_args.max_length, augment=augment)
        splits = {"eval": data.eval, "test": data.test}
        splits = {
            name: prepare(split, processor, max_length=data_args.max_length)
            for name, split in splits.items()
            if split is not None
        }

    if data.eval is None:
        args.without_validation()
        if recipe.early_stopping_patience:
            raise ValueError(
                f"`--early_stopping_patience {recipe.early_stopping_patience}` with a data set that has no validation "
                "split: nothing tells when to stop. Name one with `--eval_split`, hold rows out with "
                "`--validation_fraction 0.1`, or pass 0."
            )
    trainer = TransferTrainer(
        model,
        args,
        train_dataset=train,
        eval_dataset=splits.get("eval"),
        processing_class=processor,
        data_collator=collator_for(processor, tokens=data.task == "token-classification"),
        compute_metrics=compute_metrics_for(data.task, data.label_names),
        objectives=[L2SP(weight=recipe.l2sp)] if recipe.l2sp else [],
        callbacks=recipe.callbacks(),
    )
    result = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.log_metrics("train", result.metrics)
    trainer.save_metrics("train", result.metrics)
    trainer.remove_callback(EarlyStoppingCallback)  # it would look for its metric in the final scores
    for name, split in splits.items():
        score(trainer, split, name)
    trainer.save_model()
    if args.push_to_hub:
        trainer.push_to_hub(tasks=data.task)


if __name__ == "__main__":
    main()
