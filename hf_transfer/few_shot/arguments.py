"""The options of `recipes/few_shot.py`: which classes, which methods, how many labels, how often."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset
from torch import nn
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from hf_transfer.adapter_arguments import NONE, AdapterOptions
from hf_transfer.data.loading import TransferData
from hf_transfer.feature_arguments import FeatureArguments
from hf_transfer.few_shot.methods import (
    CLASSES,
    EPISODES,
    FEW_LABELS,
    META,
    ON_FEATURES,
    TRAINED,
    check_methods,
)
from hf_transfer.few_shot.sentence_classifier import is_sentence_classifier, sentence_classifier
from hf_transfer.option_checks import RESUME_HELP, check_least, check_positive
from hf_transfer.recipe_arguments import DataArguments, LoopArguments, ModelArguments


SAMPLES_PER_CLASS = 8
"""Labelled rows of a class in mode `classes` where no number is given."""

__all__ = ["FewShotArguments", "FewShotFeatureArguments", "FewShotLoopArguments"]


@dataclass
class FewShotArguments:
    """Which classes are told apart from how few labels, and by which methods."""

    _argument_group_name = "the recipe"  # a heading of --help

    dataset_name: str = field(metadata={"help": "Hub id, folder or file of the data; embedded:digits/5-9 for a try."})
    mode: str = field(
        default=EPISODES,
        metadata={
            "help": "episodes: small problems of n classes that the model was not trained on, with k labels each. "
            "classes: all classes of the data at once, with --samples_per_class labels each.",
            "choices": [EPISODES, CLASSES],
        },
    )
    methods: list[str] = field(
        default_factory=list,
        metadata={
            "help": f"For episodes, on features: {', '.join(ON_FEATURES)} (by default all of these); trained on base "
            f"classes: {', '.join(TRAINED)}. For classes: {', '.join(FEW_LABELS)} (by default the first three). "
            "nearest_mean is always among them."
        },
    )
    base_classes: int | None = field(
        default=None,
        metadata={
            "help": "Train on this many classes of the data, drawn by --seed, and test on the others, the novel ones."
        },
    )
    base_dataset_name: str | None = field(
        default=None, metadata={"help": "Train on the classes of this data set in place of some of --dataset_name."}
    )
    n_way: int = field(default=5, metadata={"help": "Classes of an episode."})
    k_shot: list[int] = field(
        default_factory=lambda: [1],
        metadata={"help": "Labelled rows of a class in an episode; several numbers are all tested."},
    )
    queries: int = field(default=15, metadata={"help": "Rows of a class to classify in an episode."})
    episodes: int = field(default=600, metadata={"help": "Episodes that every method is tested on, the same for all."})
    train_n_way: int | None = field(
        default=None, metadata={"help": "Classes of an episode in training of protonet; by default --n_way."}
    )
    train_k_shot: int | None = field(
        default=None, metadata={"help": "Labelled rows of a class in training; by default the largest --k_shot."}
    )
    train_queries: int = field(default=5, metadata={"help": "Rows of a class to classify in an episode in training."})
    episodes_per_step: int = field(
        default=4, metadata={"help": "Episodes of a training step, over all devices and micro-batches."}
    )
    distance: str = field(
        default="squared_euclidean",
        metadata={"help": "Distance of protonet, in training and test.", "choices": ["squared_euclidean", "cosine"]},
    )
    temperature: float | None = field(
        default=None,
        metadata={
            "help": "By which protonet divides distances; by default a tenth of the mean squared distance of the base "
            "features, 0.1 for cosine."
        },
    )
    inner_steps: int = field(default=5, metadata={"help": "Gradient steps of the meta-learners on a support set."})
    inner_lr: float | None = field(
        default=None,
        metadata={
            "help": "Learning rate of these steps; by default what is stable for a head on its features, 0.1 for an "
            "adapter, 0.01 for all weights."
        },
    )
    meta_parameters: str | None = field(
        default=None,
        metadata={
            "help": "What the meta-learners learn: head, lora, scale_shift or all; by default scale_shift for mtl, "
            "lora with --adapter lora, else all."
        },
    )
    template: str | None = field(
        default=None,
        metadata={
            "help": "For class_names: the text that a class name stands in; by default `This is about {}.`, for "
            "images `a photo of a {}.`."
        },
    )
    pairs_per_row: int = field(
        default=10, metadata={"help": "For contrastive: pairs of an epoch for each labelled row."}
    )
    contrastive_epochs: float = field(
        default=1.0, metadata={"help": "For contrastive: passes over that many pairs; the head is fitted after."}
    )
    seeds: int = field(
        default=1,
        metadata={
            "help": "Repeat with this many seeds from --seed on: the training of what trains for episodes, all with "
            "other rows for classes."
        },
    )
    resume: bool = field(default=True, metadata={"help": RESUME_HELP})

    def __post_init__(self):
        default = list(ON_FEATURES) if self.mode == EPISODES else list(FEW_LABELS)[:3]
        self.methods = check_methods(self.methods or default, self.mode)
        self.k_shot = sorted(set(self.k_shot)) or [1]
        counts = {
            "n_way": (self.n_way, 2),
            "k_shot": (self.k_shot[0], 1),
            "queries": (self.queries, 1),
            "episodes": (self.episodes, 1),
            "train_n_way": (self.train_n_way, 2),
            "train_k_shot": (self.train_k_shot, 1),
            "train_queries": (self.train_queries, 1),
            "episodes_per_step": (self.episodes_per_step, 1),
            "inner_steps": (self.inner_steps, 1),
            "pairs_per_row": (self.pairs_per_row, 1),
            "seeds": (self.seeds, 1),
        }
        check_least(counts, cost="to tell apart, to learn from or to score")
        check_positive({name: getattr(self, name) for name in ("temperature", "inner_lr", "contrastive_epochs")})
        self._check_base()

    def _check_base(self) -> None:
        trained = [name for name in self.methods if name in TRAINED]
        if self.mode == CLASSES:
            named = [name for name in ("base_classes", "base_dataset_name") if getattr(self, name) is not None]
            if named:
                raise ValueError(
                    f"`--{named[0]}` with `--mode {CLASSES}`: all classes are learned there, none is held back, and "
                    f"the option would be ignored. Leave it out, or pass `--mode {EPISODES}`."
                )
            return
        if self.base_classes is not None and self.base_dataset_name is not None:
            raise ValueError(
                f"`--base_classes {self.base_classes}` with `--base_dataset_name {self.base_dataset_name}`: both say "
                "which classes to train on. Pass one of them."
            )
        if trained and self.base_classes is None and self.base_dataset_name is None:
            raise ValueError(
                f"`--methods {' '.join(trained)}` without base classes: what is trained on the classes that it is "
                "tested on says nothing of new ones. Pass `--base_classes` (how many of the data), or "
                "`--base_dataset_name`."
            )

    @property
    def trained(self) -> list[str]:
        """The methods that train on base classes."""
        return [name for name in self.methods if self.mode == EPISODES and name in TRAINED]

    @property
    def on_features(self) -> list[str]:
        """The methods that classify episodes on features of the pretrained model."""
        return [name for name in self.methods if self.mode == EPISODES and name in ON_FEATURES]

    def ways(self, method: str) -> int:
        """Classes of a training episode of a method; a meta-learner's head has as many as it is tested with."""
        return self.n_way if method in META else self.train_n_way or self.n_way

    @property
    def shots(self) -> int:
        """Labelled rows of a class in a training episode."""
        return self.train_k_shot or self.k_shot[-1]

    def episode_rows(self, method: str) -> int:
        """Rows of a training episode."""
        return self.ways(method) * (self.shots + self.train_queries)

    def check(self, data_args: DataArguments, args: LoopArguments) -> None:
        """Refuse what several runs or episodes cannot do; set what mode `classes` must have."""
        if args.resume_from_checkpoint:
            raise ValueError(
                "`--resume_from_checkpoint` with several runs: it is not said which is meant. Leave it out: finished "
                "runs are taken from results.json, and the others start anew."
            )
        if self.mode == CLASSES:
            data_args.samples_per_class = data_args.samples_per_class or SAMPLES_PER_CLASS
        elif data_args.samples_per_class is not None:
            raise ValueError(
                f"`--samples_per_class {data_args.samples_per_class}` with `--mode {EPISODES}`: every episode draws "
                f"its own `--k_shot` rows of a class. Leave it out, or pass `--mode {CLASSES}`."
            )


@dataclass
class FewShotFeatureArguments(FeatureArguments):
    """`FeatureArguments` whose pooling is that of the model, where it reads texts."""

    pooling: str | None = field(
        default=None,
        metadata={
            "help": "For texts: mean, cls (first token) or last makes the head of the model read tokens pooled so, in "
            "all methods and in the kept model; mean suits sentence encoders. For images the same of features in "
            "episodes, of which no model is kept. By default as the model does."
        },
    )

    def pools_in_model(self, data: TransferData) -> bool:
        """Whether the model itself pools as `--pooling` says."""
        return self.pooling is not None and data.input_columns != ("image",)

    def load(self, model_args: ModelArguments, data: TransferData) -> tuple[nn.Module, Any]:
        """The model that all start from, with a head for the classes of `data`, and its processor."""
        model, processor = model_args.load(data)
        if self.pools_in_model(data):
            model = sentence_classifier(model, pooling=self.pooling, revision=model_args.model_revision)
        return model, processor

    def check_adapter(self, adapter: AdapterOptions, meta_parameters: str | None, data: TransferData) -> None:
        """Refuse adapters of a model that is no checkpoint: they could not be put on it again."""
        chosen = "--adapter" if adapter.adapter != NONE else "--meta_parameters" if meta_parameters == "lora" else None
        if chosen and self.pools_in_model(data):
            raise ValueError(
                f"`{chosen}` with `--pooling {self.pooling}`: an adapter names the checkpoint that it belongs to, and "
                "the model that pools so is none. Train without the adapter, or save the model first, "
                f'`sentence_classifier(..., pooling="{self.pooling}").save_pretrained(folder)`, and pass the folder '
                "as `--model_name_or_path` with `--trust_remote_code`, without `--pooling`."
            )

    def extract(self, model: Any, split: Dataset, *args: Any, **options: Any) -> Dataset:
        """The features of a split; arguments as for `FeatureArguments`."""
        own = FeatureArguments(**{**vars(self), "pooling": None if is_sentence_classifier(model) else self.pooling})
        return own.extract(model if own.pooling is None else model.base_model, split, *args, **options)


@dataclass(repr=False)
class FewShotLoopArguments(LoopArguments):
    """`LoopArguments` that train to the end: with so few labels there are no rows to choose an epoch by."""

    eval_strategy: str = field(
        default="no", metadata={"help": "Leave this at no: few labels leave no rows to choose an epoch by."}
    )
    save_strategy: str = field(default="no", metadata={"help": "When to save a checkpoint: no, steps or epoch."})

    def __post_init__(self):
        if self.eval_strategy not in ("no", IntervalStrategy.NO):
            raise ValueError(
                f"`--eval_strategy {self.eval_strategy}`: a validation split larger than the few labels would choose "
                "the epoch, and the comparison would be of another problem. Leave it out: all methods train to the "
                "end."
            )
        super().__post_init__()
        if self.save_strategy == SaveStrategy.BEST:
            raise ValueError(
                "`--save_strategy best` without any validation: nothing says what is best. Give no, steps or epoch."
            )
