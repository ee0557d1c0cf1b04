"""`DomainHealth`: watches an adaptation and says when it goes wrong, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, default_data_collator
from transformers.training_args import ParallelMode
from transformers.utils import logging

from hf_transfer.attach import CHILD
from hf_transfer.callbacks.refusals import refuse_partitioned
from hf_transfer.diagnostics.health import (
    class_signs,
    discriminator_warnings,
    domain_signs,
    finite_warnings,
    prediction_warnings,
)
from hf_transfer.diagnostics.model_rows import ModelRows, anatomy_of, is_label, read_model
from hf_transfer.features.extraction.taps import pretrained
from hf_transfer.modes import undisturbed
from hf_transfer.objectives.domain_adaptation.domain_objective import DomainObjective


logger = logging.get_logger(__name__)

PREFIX = "eval_domain_"
"""What the names of the logged values begin with."""

__all__ = ["PREFIX", "DomainHealth"]


class DomainHealth(TrainerCallback):
    r"""
    Measure at each evaluation how far two domains are apart for the model, and warn when an adaptation goes wrong.

    Some rows of each domain, the same ones each time, go through the model in evaluation mode. Logged are
    `eval_domain_proxy_a_distance`, `eval_domain_mmd` and its `eval_domain_mmd_p_value` of what enters the head;
    `eval_domain_source_entropy` and `eval_domain_target_entropy` of the predictions, in nats;
    `eval_domain_source_largest_share` and `eval_domain_target_largest_share`, the share of the most predicted class,
    with `eval_domain_target_largest_class`; `eval_domain_source_accuracy` on labelled source rows. They also join the
    metrics of the evaluation, so that `metric_for_best_model` can name them; none of them reads a target label.

    Each of these warns once, with what to do: a domain discriminator at chance from the start, or right about every
    row late in the run (from the accuracies that `TransferTrainer` logs for its objective); target predictions of one
    class; target entropy that vanishes; logged numbers that are not finite; source accuracy below that of the first
    evaluation.

    Args:
        source (`Dataset`):
            Rows as the Trainer gets them, best held out from training. Labels, where there are any, give the accuracy.
        target (`Dataset`):
            Rows of the target. Labels are dropped before anything else.
        every (`"eval"` or `"epoch"`, *optional*, defaults to `"eval"`):
            When it measures.
        rows (`int`, *optional*, defaults to 256):
            Most rows of each domain.
        batch_size (`int`, *optional*):
            Rows per forward; by default the evaluation batch size of the Trainer.
        data_collator (`Callable`, *optional*):
            Makes a batch of rows; by default that of the evaluation (else training) data of the Trainer.
        permutations (`int`, *optional*, defaults to 199):
            Of the MMD test.
        logs (`int`, *optional*, defaults to 5):
            Over how many logs a discriminator is judged.
        head (`str`, *optional*):
            Name of the head, where it cannot be told from the model.
        seed (`int`, *optional*, defaults to 0):
            Of the rows, the splits and the permutations.

    Attributes:
        history (`list[dict[str, float]]`): the values of each measurement of this process, without the prefix.
        histogram (`np.ndarray`): `(C,)`, how often each class was predicted in the target at the last one.
        warnings (`dict[str, str]`): what it has warned of, by kind.
        log (`Callable`, *optional*): how to tell TensorBoard and others; `TransferTrainer` sets it, with a stock
            `Trainer` set it to `trainer.log`. Without it the values go to `state.log_history` and the metrics alone,
            as a callback does not know its Trainer.

    Cost:
        The forwards of twice `rows` rows, and 0.2 s for 2 x 256 features of width 768 on one core. Every rank does the
        same, so that no rank waits for another and sharded models work. Random numbers, modes of modules and gradients
        are left as they were.

    Degenerate batches:
        For regressions and several labels a row only the distances are logged.

    Raises:
        ValueError: at construction if an option is out of range, a data set is a stream or has fewer than 8 rows; when
            the Trainer is built if no unique head is found, or under DeepSpeed, FSDP1 or tensor parallelism; at the
            first measurement if the data collator changes the number of rows.
        ImportError: at the first measurement without scikit-learn.

    Relations:
        [`proxy_a_distance`], [`mmd_test`] and [`class_shift`] do the same and more on features of
        [`extract_features`].

    Example:
        >>> from datasets import Dataset
        >>> rows = Dataset.from_dict({"input_ids": [[1, 2]] * 8, "labels": [0, 1] * 4})
        >>> DomainHealth(rows, rows, rows=64)
        DomainHealth(every='eval', rows=64)
    """

    def __init__(
        self,
        source: Any,
        target: Any,
        *,
        every: Literal["eval", "epoch"] = "eval",
        rows: int = 256,
        batch_size: int | None = None,
        data_collator: Callable[[list[Any]], Any] | None = None,
        permutations: int = 199,
        logs: int = 5,
        head: str | None = None,
        seed: int = 0,
    ):
        if every not in ("eval", "epoch"):
            raise ValueError(
                f'every="{every}" is unknown: it says when the domains are compared. Choose "eval", at each '
                'evaluation of the Trainer, or "epoch".'
            )
        if rows < 8 or permutations < 1 or logs < 1 or (batch_size or 1) < 1:
            raise ValueError(
                f"rows={rows}, permutations={permutations}, logs={logs}, batch_size={batch_size}: there would be "
                "nothing to compare. Give at least 8 rows, and 1 of the others."
            )
        self.source, self.target = (_checked(name, data) for name, data in (("source", source), ("target", target)))
        if hasattr(self.target, "remove_columns"):
            self.target = self.target.remove_columns([name for name in self.target.column_names if is_label(name)])
        self.every, self.rows, self.batch_size = every, rows, batch_size
        self.data_collator, self.permutations, self.logs = data_collator, permutations, logs
        self.head, self.seed = head, seed
        self.history: list[dict[str, float]] = []
        self.histogram: np.ndarray | None = None
        self.warnings: dict[str, str] = {}
        self.log: Callable[[dict[str, float]], None] | None = None
        self._measured_at: tuple[int, set[str]] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(every={self.every!r}, rows={self.rows})"

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Refuse what cannot work before any data is read."""
        if model is not None:
            anatomy_of(model, self.head)
            # in one process on several devices the model itself is asked, not its copies
            if args.parallel_mode != ParallelMode.NOT_DISTRIBUTED:
                refuse_partitioned(args, model, type(self).__name__, fsdp2=True)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Measure, once where the Trainer evaluates on several data sets."""
        if self.every != "eval":
            return
        metrics = {} if metrics is None else metrics
        name = next((key for key in metrics if key.endswith(("_loss", "_runtime"))), "")
        step, seen = self._measured_at or (-1, set())
        if step == state.global_step and name not in seen:
            seen.add(name)
            return
        self._measured_at = (state.global_step, {name})
        metrics.update(self._measure(args, state, **kwargs))

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure, if it is to do so every epoch."""
        if self.every == "epoch":
            self._measure(args, state, **kwargs)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        """Look at what was logged: numbers that are not finite, and accuracies of discriminators."""
        self._warn(state, finite_warnings(logs or {}))
        discriminators = _discriminators(model)
        if discriminators and state.max_steps > 0:
            earlier = self._signs(state)
            found = discriminator_warnings(
                state.log_history,
                discriminators,
                max_steps=state.max_steps,
                step=state.global_step,
                logs=self.logs,
                distance=earlier[-1].get("proxy_a_distance") if earlier else None,
            )
            self._warn(state, found)

    def _measure(self, args: TrainingArguments, state: TrainerState, **kwargs: Any) -> dict[str, float]:
        model = kwargs["model"]
        source, target = self._read(args, model, kwargs)
        parts = {
            f"{name} {part}": getattr(rows, part)
            for name, rows in (("source", source), ("target", target))
            for part in ("features", "logits")
        }
        broken = {name: float("nan") for name, array in parts.items() if not np.isfinite(array).all()}
        if broken:
            self._warn(state, finite_warnings(broken))
            return {}
        signs = domain_signs(source, target, permutations=self.permutations, seed=self.seed)
        if _has_classes(model, source):
            predicted, self.histogram = class_signs(source, target)
            signs.update(predicted)
        self.history.append(signs)
        logged = {f"{PREFIX}{name}": value for name, value in signs.items()}
        if self.log is not None:
            self.log(dict(logged))
        else:
            state.log_history.append({**logged, "epoch": state.epoch, "step": state.global_step})
        found = prediction_warnings(
            self._signs(state),
            classes=source.logits.shape[1],
            rows=int((source.labels >= 0).sum()),
            progress=state.global_step / max(state.max_steps, 1),
        )
        self._warn(state, found)
        return logged

    def _read(
        self, args: TrainingArguments, model: nn.Module, kwargs: Mapping[str, Any]
    ) -> tuple[ModelRows, ModelRows]:
        collate = self.data_collator
        if collate is None:
            loader = kwargs.get("eval_dataloader") or kwargs.get("train_dataloader")
            collate = getattr(loader, "collate_fn", None) or default_data_collator
        with undisturbed(model, self.seed):
            found = [
                read_model(
                    model,
                    dataset,
                    np.sort(np.random.default_rng(self.seed).permutation(len(dataset))[: self.rows]).tolist(),
                    collate,
                    batch_size=self.batch_size or args.per_device_eval_batch_size,
                    labelled=labelled,
                    label_names=args.label_names or (),
                    head=self.head,
                )
                for dataset, labelled in ((self.source, True), (self.target, False))
            ]
        return found[0], found[1]

    def _signs(self, state: TrainerState) -> list[dict[str, float]]:
        """What was measured in this run, before a resume too."""
        logged = [log for log in state.log_history if f"{PREFIX}proxy_a_distance" in log]
        return [{name.removeprefix(PREFIX): log[name] for name in log if name.startswith(PREFIX)} for log in logged]

    def _warn(self, state: TrainerState, found: Mapping[str, str]) -> None:
        for kind, message in found.items():
            if kind not in self.warnings:
                self.warnings[kind] = message
                if state.is_world_process_zero:
                    logger.warning(f"DomainHealth: {message}")


def _checked(name: str, dataset: Any) -> Any:
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise ValueError(
            f"The {name} is a {type(dataset).__name__}, which has no rows to draw from: the same ones are looked at "
            "each time. Give a data set of rows, such as `Dataset.from_list(list(stream.take(256)))`."
        )
    if len(dataset) < 8:
        raise ValueError(
            f"The {name} has {len(dataset)} rows: no distance between domains can be told from fewer than 8, and it "
            "is rough below some hundred. Give more rows."
        )
    return dataset


def _discriminators(model: Any) -> dict[str, int]:
    """Number of domains by name of the attached objectives that have a discriminator of domains."""
    objectives = getattr(model, CHILD, None)
    return {
        name: objective.num_domains
        for name, objective in (objectives.by_name if objectives is not None else {}).items()
        if isinstance(objective, DomainObjective) and hasattr(objective, "discriminator")
    }


def _has_classes(model: nn.Module, rows: ModelRows) -> bool:
    problem = getattr(getattr(pretrained(model), "config", None), "problem_type", None)
    return rows.logits.shape[1] > 1 and problem not in ("regression", "multi_label_classification")
