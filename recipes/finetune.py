"""
Fine-tune an image, text or token classifier of transformers on little data.

    accelerate launch recipes/finetune.py
    accelerate launch recipes/finetune.py --model_name_or_path google/vit-base-patch16-224 --dataset_name beans \
        --freeze gradual --layer_decay 0.75 --head_lr 1e-3 --l2sp 0.01 --output_dir my-model

Without arguments it takes those of finetune.yaml: embedded data, no network. The folder it leaves opens with
`AutoModelFor...from_pretrained` and `pipeline()`; the scores are in its all_results.json.
"""

from dataclasses import dataclass, field
from pathlib import Path

from transformers import EarlyStoppingCallback, TrainerCallback, set_seed

from hf_transfer import L2SP, FreezeBackbone, GradualUnfreezing, TransferTrainer, UnfreezingSchedule
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

    def __post_init__(self):
        if self.schedule is not None and self.freeze != "none":
            raise ValueError(
                f"`--schedule {self.schedule}` with `--freeze {self.freeze}`: two plans of what trains when, of which "
                "one would be ignored. Pass one of them."
            )
        if self.schedule is not None and not Path(self.schedule).is_file():
            raise FileNotFoundError(
                f"`--schedule {self.schedule}`: there is no such file, and nothing would be frozen. Write one with "
                "`python -m hf_transfer schedule MODEL --out schedule.yaml`."
            )

    def check(self, model_args: ModelArguments, args: LoopArguments) -> None:
        """Refuse what cannot work together."""
        if self.l2sp and model_args.model_type is not None:
            raise ValueError(
                f"`--l2sp {self.l2sp}` with `--model_type {model_args.model_type}`: it would hold the model to random "
                "weights. Pass a pretrained model with `--model_name_or_path`, or leave `--l2sp` out."
            )
        if self.early_stopping_patience and not args.load_best_model_at_end:
            raise ValueError(
                f"`--early_stopping_patience {self.early_stopping_patience}` without a validation whose best "
                "checkpoint is kept: nothing tells when to stop. Name a split with `--eval_split` or hold rows out "
                "with `--validation_fraction 0.1`, and leave `--eval_strategy` and `--save_strategy` the same; or "
                "pass 0."
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
        augment = data_args.augment(data, processor)
        train = prepare(data.train, processor, max_length=data_args.max_length, augment=augment)
        splits = {"eval": data.eval, "test": data.test}
        splits = {
            name: prepare(split, processor, max_length=data_args.max_length)
            for name, split in splits.items()
            if split is not None
        }

    if data.eval is None:
        args.without_validation()
    args.check_metric(data.task)
    recipe.check(model_args, args)
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
