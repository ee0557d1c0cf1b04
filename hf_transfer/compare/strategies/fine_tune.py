"""Training by gradient, in all its forms: what it starts from, what is added to the loss, what is trained when."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

from transformers import PrinterCallback, ProgressCallback, TrainerCallback, set_seed

from hf_transfer.adapters import add_adapter
from hf_transfer.arguments import TransferArguments
from hf_transfer.compare.methods import nearest
from hf_transfer.compare.strategies.probing import told_probe
from hf_transfer.compare.strategies.strategy import Fitted, Strategy
from hf_transfer.data.mixing import mix_domains
from hf_transfer.model_card.facts import RunFacts
from hf_transfer.model_card.reading import read_run
from hf_transfer.trainer import TransferTrainer


if TYPE_CHECKING:
    from hf_transfer.compare.problem.setup import Setup
    from hf_transfer.objective import Objective

_RATE_OF = {"pretrained": "whole", "scratch": "scratch", "probe": "probed"}
STARTS = tuple(_RATE_OF)

# What makes strategies comparable: the same rows, steps, seed and folder; no choice among the weights of a run.
_SHARED = {
    *("output_dir", "seed", "data_seed", "max_steps", "num_train_epochs", "gradient_accumulation_steps"),
    *("per_device_train_batch_size", "per_device_eval_batch_size", "eval_strategy", "save_strategy"),
    *("load_best_model_at_end", "push_to_hub", "label_smoothing_factor"),
}

__all__ = ["STARTS", "FineTune"]


@dataclass(frozen=True, kw_only=True)
class FineTune(Strategy):
    """
    Train by gradient for as many steps as every other strategy, and take the last weights.

    Args:
        start (`str`, *optional*, defaults to `"pretrained"`): `pretrained` weights with a new head; `scratch`, random
            weights of the same architecture; `probe`, pretrained weights and the head that the shared probe gives.
        options (`Mapping[str, Any]`, *optional*): fields of `TransferArguments` to change, such as `layer_decay`.
        objectives (`Callable[[Setup], Sequence[Objective]]`, *optional*): makes the terms of the loss of a run.
        callbacks (`Callable[[Setup], Sequence[TrainerCallback]]`, *optional*): makes the callbacks of a run.
        adapter (`Mapping[str, Any]`, *optional*): train an adapter of PEFT and the head in place of the whole model;
            arguments of [`add_adapter`], such as `{"method": "lora", "r": 4}`.
        mixed (`bool`, *optional*, defaults to `False`): half of every batch are unlabelled rows of the target, so that
            objectives of domain adaptation see both domains. Each has `per_device_train_batch_size` rows.

    The learning rate is that of the group `rate`, by default `adapter`, `scratch`, `probed` or `whole` as the other
    options say.
    The head has `head_lr` where that is more, for it is new; a head from a probe has the rate of the rest, as in the
    LP-FT paper. [`Strategy.settings`] tells runs of other options or functions apart.

    Raises:
        ValueError: if an option is unknown or belongs to the comparison, or options contradict each other.

    Relations:
        Subclass [`Strategy`] for what is no training by gradient.

    Example:
        One's own objective as a strategy:

        >>> from hf_transfer import Objective
        >>> class FeatureNorm(Objective):
        ...     def forward(self, batch):
        ...         return batch.features.square().sum(-1).mean()
        >>> calm = FineTune(
        ...     name="calm",
        ...     about="Fine-tuning with a penalty on large features.",
        ...     objectives=lambda setup: [FeatureNorm(weight=1e-3)],
        ...     options={"weight_decay": 0.01},
        ... )
        >>> calm.rate
        'whole'
    """

    start: Literal["pretrained", "scratch", "probe"] = "pretrained"
    options: Mapping[str, Any] = field(default_factory=dict)
    objectives: Callable[[Setup], Sequence[Objective]] | None = None
    callbacks: Callable[[Setup], Sequence[TrainerCallback]] | None = None
    adapter: Mapping[str, Any] | None = None
    mixed: bool = False

    def __post_init__(self):
        if self.rate is None:
            rate = "adapter" if self.adapter is not None else _RATE_OF.get(self.start)
            object.__setattr__(self, "rate", rate)
        if self.mixed:
            object.__setattr__(self, "needs", self.needs | {"target"})
        super().__post_init__()
        if self.start not in STARTS:
            raise ValueError(
                f"`start={self.start!r}` of the strategy `{self.name}` is unknown: it says which weights training "
                f"begins with. Choose from {', '.join(STARTS)}."
            )
        if self.start == "scratch" and self.adapter is not None:
            raise ValueError(
                f"The strategy `{self.name}` trains an adapter on random weights: these are not saved beside it, and "
                'the model could not be had back. Use `start="pretrained"`, or leave the adapter out.'
            )
        known = {own.name for own in fields(TransferArguments) if own.init}
        for option in self.options:
            if option not in known:
                raise ValueError(
                    f"The strategy `{self.name}` sets `{option}`, which is no training argument: it would have no "
                    f"effect. {nearest(option, known) if len(option) > 2 else 'Look into `TransferArguments`.'}"
                )
            if option in _SHARED:
                raise ValueError(
                    f"The strategy `{self.name}` sets `{option}`, which all strategies of a comparison share: its "
                    "runs could not be compared with theirs. Leave it out, or set it for the whole comparison."
                )

    def fit(self, setup: Setup) -> Fitted:
        """Train; what it costs and says is up to the caller."""
        trainer, begun = self.trainer(setup)
        trainer.train()
        model: Any = trainer.model
        facts = read_run(trainer, self._facts(setup, begun))  # while the objectives are attached
        facts.model_name = facts.repo_id = None  # those of where the model will be saved
        trainer.facts = facts
        if trainer.attachment is not None:
            trainer.attachment.detach()
        return Fitted(
            model,
            trained_parameters=facts.trained_parameters or 0,
            steps=trainer.state.global_step,
            trainer=trainer,
            note=", ".join([*begun, _rates(trainer.args)]),
        )

    def trainer(self, setup: Setup) -> tuple[TransferTrainer, list[str]]:
        """
        The trainer of a run, ready to train, and what is to be told of its start.

        Args:
            setup (`Setup`): rows, models and arguments of the run.

        Raises:
            ValueError: if the run lacks what the strategy needs.
        """
        for need in sorted(self.needs - {"batch_norm"}):  # whether a model has it, the callback tells
            if getattr(setup, need, None) is None:
                raise ValueError(
                    f"The strategy `{self.name}` needs a {need}, and the comparison has none: it would train without "
                    f"what it is for. Pass a {need}, or leave the strategy out."
                )
        args = self._arguments(setup)
        set_seed(args.seed)
        model, begun = self._model(setup)
        rows: Any = setup.taught if "teacher" in self.needs else setup.train
        if self.mixed:
            target: Any = setup.target
            rows = mix_domains(rows, target)
            args.per_device_train_batch_size *= 2  # as many rows of the source as any other strategy
        trainer = TransferTrainer(
            model,
            args,
            train_dataset=rows,
            processing_class=setup.processor,
            data_collator=setup.collate,
            objectives=[] if self.objectives is None else list(self.objectives(setup)),
            callbacks=[
                *(() if self.callbacks is None else self.callbacks(setup)),
                *(getattr(setup, "callbacks", None) or ()),
            ],
        )
        for told in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(told)  # the comparison shows its own progress
        return trainer, begun

    def _arguments(self, setup: Setup) -> Any:
        args = copy.copy(setup.args)
        args.seed = setup.seed
        for option, value in self.options.items():
            current = getattr(args, option)
            setattr(args, option, type(current)(value) if isinstance(current, Enum) else value)
        if "head_lr" not in self.options:
            new = self.start != "probe" and args.head_lr is not None
            args.head_lr = max(args.head_lr or 0.0, args.learning_rate) if new else None
        return args

    def _model(self, setup: Setup) -> tuple[Any, list[str]]:
        begun: list[str] = []
        model: Any = setup.scratch() if self.start == "scratch" else setup.fresh()
        if self.start == "scratch":
            model.config._name_or_path = model.name_or_path = ""  # its card would name a base model
        if self.start == "probe":
            probe = setup.probe()
            probe.fold_into(model)
            begun = [f"head from a {told_probe(probe)}"]
        if self.adapter is not None:
            model = add_adapter(model, **self.adapter)
        return model, begun

    def _facts(self, setup: Setup, begun: Sequence[str]) -> RunFacts:
        data = setup.problem.data
        facts = RunFacts(task=data.task, inputs=list(data.input_columns), method=self.name)
        if setup.base.in_memory and self.start != "scratch":
            facts.base_model = setup.base.name
        facts.strategy = [self.about] if self.about else []
        facts.strategy += [f"Before training: {what}." for what in begun]
        return facts


def _rates(args: Any) -> str:
    """The learning rates of a run, for people."""
    head = f", head {args.head_lr:.2g}" if args.head_lr not in (None, args.learning_rate) else ""
    return f"learning rate {args.learning_rate:.2g}{head}"
