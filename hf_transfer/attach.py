"""`attach`: objectives become part of a model, and `model(**batch).loss` the total."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from hf_transfer._forward import Outcome, check_not_ignored, refuse_without_classes, require_columns, task_loss_of
from hf_transfer._heads import output_width
from hf_transfer.anatomy import anatomy
from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.task_loss import SAMPLE_WEIGHT
from hf_transfer.language_models import next_token_labels, predicts_next_token
from hf_transfer.objective import Objective, Objectives
from hf_transfer.sample_weights import check_shape, check_values
from hf_transfer.series_models import series_model
from hf_transfer.tap import AttentionTaps, HeadTap, HiddenStateTaps


CHILD = "transfer_objectives"
"""Name of the child module that `attach` adds to a model."""

__all__ = ["CHILD", "Attachment", "attach"]


def attach(model: nn.Module, objectives: Iterable[Objective], *, head: str | None = None) -> Attachment:
    r"""
    Make objectives part of a model: they are evaluated in its forward and added to its loss while it trains.

    The objectives become one child module, `transfer_objectives`, so that optimizer, clipping, DDP, FSDP2 and compile
    see
    their parameters as the model's own. In `eval()` an attached model computes what the bare model does, bit for bit;
    `save_pretrained` leaves the objectives out. Attaching the same objectives twice changes nothing.

    Models of time series are told by their class: their target is `target_values` or `future_values`, in which NaN
    marks a missing value. A forecaster whose loss is the squared error learns from the observed ones alone; any other
    loss refuses missing values. Objectives that need classes ([`Objective.needs_classes`]) are refused for models of
    series that have none. A model that fills in its own masked input has no target; its objectives see no labels.

    A float column `sample_weight` `(B,)` of a training batch weighs the rows of the task loss, $\frac{1}{n} \sum_i w_i
    l_i$ over the $n$ labelled rows, also where the list of objectives is empty; the objectives do not see it. A stock
    `Trainer` hands it on with `remove_unused_columns=False` only.

    Args:
        model (`nn.Module`):
            Any classifier or forecaster of `transformers`, also under PEFT, not yet wrapped for devices.
        objectives (`Iterable[Objective]`):
            The terms to add.
        head (`str`, *optional*):
            Name of the head, where it cannot be told from the model.

    Returns:
        `Attachment`: `.terms`, `.progress` and `.detach()`; a context manager that detaches.

    Raises:
        TypeError: if the model is wrapped by DDP, FSDP1, DataParallel or `torch.compile`.
        ValueError: if other objectives are attached, no unique head is found, or an objective needs classes where
            there are none; in a training forward, if there is a loss without a target that the objectives know.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> model = BertForSequenceClassification(config)
        >>> class FeatureNorm(Objective):
        ...     def forward(self, batch): return batch.features.square().sum(-1).mean()
        >>> with attach(model, [FeatureNorm(weight=0.1)]) as attachment:
        ...     loss = model(input_ids=torch.ones(2, 3, dtype=torch.long), labels=torch.tensor([0, 1])).loss
        >>> sorted(attachment.terms)
        ['feature_norm', 'task']
    """
    objectives = list(objectives)
    if hasattr(model, "_orig_mod") or (isinstance(getattr(model, "module", None), nn.Module)):
        raise TypeError(
            f"The model is wrapped in {type(model).__name__}: its parameters are already registered for communication "
            "or compiled, and the objectives' own would be left out. Call `attach` on the bare model first."
        )
    present = getattr(model, CHILD, None)
    if present is not None:
        if list(present.values()) == objectives:
            return present.attachment
        raise ValueError(
            f"The model already has objectives attached ({', '.join(present)}): a second set would count its terms "
            "beside the first. Call `detach()` on the first attachment, then attach all objectives in one list."
        )
    return Attachment(model, Objectives(objectives), head=head)


def _full_precision(device_type: str) -> AbstractContextManager:
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


class Attachment:
    """
    The tie between a model and its objectives, as `attach` returns it.

    Attributes:
        objectives (`Objectives`): the attached objectives by name; prints as the total loss.
        terms (`dict[str, Tensor]`): the task loss and every unweighted term of the last training forward, detached.
        progress (`float`): share of the training that is done; set it at the start of each optimizer step of a loop of
            your own. It starts at 1.0, where every schedule has reached its end. `TransferTrainer` and
            `TrackProgress` set it for you.
    """

    def __init__(self, model: nn.Module, objectives: Objectives, *, head: str | None = None):
        self.model: Any = model
        self.anatomy = anatomy(model, head=head)
        self._next_token = predicts_next_token(model)
        self._series = series_model(model)
        refuse_without_classes(objectives.by_name.values(), self._series)
        self.objectives = self._build(objectives)
        self.terms: dict[str, Tensor] = {}
        self._columns = objectives.columns() | {"domain", SAMPLE_WEIGHT}
        self._weights_checked = False
        self._inputs: dict[str, Any] = {}
        self._given: tuple[Any, dict[str, Any]] = (None, {})  # labels and columns of the forward under way
        self._sums: Tensor | None = None
        self._count = 0
        # On the CPU whatever the model's device: a kernel takes a zero-dimensional CPU tensor as a plain number, and
        # `torch.compile` does not recompile when it changes.
        self._progress = torch.tensor(1.0)

        model.add_module(CHILD, objectives)
        objectives.attachment = self
        self._ignore_on_save()
        self._tap = HeadTap(model, self.anatomy.head)
        self._states = HiddenStateTaps(
            model, (name for objective in objectives.by_name.values() for name in objective.hidden_states)
        )
        self._attentions = AttentionTaps(
            model, (name for objective in objectives.by_name.values() for name in objective.attentions)
        )
        self._hooks = [
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.register_forward_hook(self._after, with_kwargs=True),
        ]

    def _build(self, objectives: Objectives) -> Objectives:
        weight = next(self.model.get_submodule(self.anatomy.head).parameters())
        spec = ModelSpec(
            feature_dim=self.anatomy.feature_dim,
            num_labels=output_width(self.model, self.anatomy.head),
            model=self.model,
            anatomy=self.anatomy,
        )
        # On the CPU, whose random numbers then go on as if nothing had been attached.
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            for objective in objectives.by_name.values():
                objective.build(spec)
        return objectives.to(weight.device).train(self.model.training)

    def _ignore_on_save(self) -> None:
        """Keep the objectives out of `save_pretrained`."""
        # Asked of `vars`: a PEFT model, which saves adapters only and needs no telling, shows its base model's
        # attributes. Not `isinstance(model, PreTrainedModel)`: importing that class takes seconds.
        if "_keys_to_ignore_on_save" in vars(self.model):
            self._ignored_before = self.model._keys_to_ignore_on_save
            keys = {f"{CHILD}.{key}" for key in self.objectives.state_dict()}
            self.model._keys_to_ignore_on_save = {*(self._ignored_before or ()), *keys}

    @property
    def progress(self) -> float:
        """Share of the training that is done, in [0, 1]."""
        return self._progress.item()

    @progress.setter
    def progress(self, value: float) -> None:
        self._progress.fill_(value)
        for objective in self.objectives.by_name.values():
            objective.begin_step()

    def _before(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        self._open(model.training and self._asked(args, kwargs))
        series = self._series if self._tap.open else None
        if series is not None:
            kwargs = series.with_labels(kwargs)
        if self._tap.open:
            args, kwargs = self._transformed(args, kwargs)
        columns = {name: kwargs[name] for name in self._columns if name in kwargs}
        kwargs = {name: value for name, value in kwargs.items() if name not in columns}
        self._given = None, columns
        if self._tap.open:
            self._given = kwargs.get("labels") if series is None else series.labels(kwargs), columns
            self._inputs = {name: value for name, value in kwargs.items() if name != "labels"}
            if args:
                self._inputs.setdefault(getattr(model, "main_input_name", "input_ids"), args[0])
            self._prepare()
        return args, kwargs if series is None else series.for_model(kwargs)

    def _asked(self, args: tuple, kwargs: dict[str, Any]) -> bool:
        """Whether the forward computes a loss that objectives can be added to."""
        return kwargs.get("labels") is not None if self._series is None else self._series.is_asked(kwargs)

    def _prepare(self) -> None:
        preparing = [objective for objective in self.objectives.by_name.values() if objective.prepares]
        if not preparing:
            return
        labels, columns = self._given
        rows: Tensor = self._inputs["past_values"] if labels is None else labels
        none = torch.empty(len(rows), 0, device=rows.device)
        upcoming = TransferBatch(features=none, model=self.model, columns=columns, inputs=self._inputs)
        for objective in preparing:
            objective.prepare(upcoming)

    def _open(self, reading: bool) -> None:
        self._tap.open = self._states.open = self._attentions.open = reading

    def _transformed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The inputs as the objectives change them."""
        rows = kwargs.get("labels")
        self._rows = len(kwargs.get("past_values", *args[:1]) if rows is None else rows)
        transforming = [objective for objective in self.objectives.by_name.values() if objective.transforms]
        if transforming and args:
            if len(args) > 1:
                raise TypeError(
                    f"{type(transforming[0]).__name__} changes the inputs, but {len(args)} of them come without a "
                    "name: it cannot tell which is which. Call the model with keywords, `model(**batch)`."
                )
            args, kwargs = (), {self.model.main_input_name: next(iter(args)), **kwargs}
        for objective in transforming:
            kwargs = objective.transform(kwargs)
        return args, kwargs

    def _after(self, model: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        if not self._tap.open:
            (_, columns), self._given = self._given, (None, {})
            if model.training:
                check_not_ignored(model, self.objectives, output, self._series, {**kwargs, **columns})
            return output
        self._open(False)
        outcome = Outcome(model, output, self._series)
        with _full_precision(outcome.loss.device.type):
            total = self._total(outcome)
        return outcome.changed(total, self._rows)

    def _total(self, outcome: Outcome) -> Tensor:
        inputs, self._inputs = self._inputs, {}
        (labels, columns), self._given = self._given, (None, {})
        logits, columns = outcome.logits, dict(columns)
        if self._next_token:
            labels = next_token_labels(labels)  # they then belong to the logits as they stand
        target = None if self._series is None else self._series.target
        require_columns(self.objectives, columns, inputs, target or "labels")
        sample_weight = self._sample_weight(columns, len(logits))
        batch = TransferBatch(
            features=self._tap.take(logits, inputs),
            logits=logits.float(),
            labels=labels,
            domain=columns.pop("domain", None),
            attention_mask=inputs.get("attention_mask"),
            progress=self._progress,
            model=self.model,
            columns=columns,
            inputs=inputs,
            hidden_states=self._states.take(),
            attentions=self._attentions.take(),
        )
        total = task_loss_of(self.objectives, outcome, batch, self._series, sample_weight)
        terms = {"task": total.detach()}
        for name, objective in self.objectives.terms.items():
            term = objective(batch)
            terms[name] = term.detach()
            total = total + objective.weight_at(self._progress) * term
        self.terms = terms
        self._add_up([*terms.values(), *self._diagnostics().values()])
        return total

    def _sample_weight(self, columns: dict[str, Any], rows: int) -> Tensor | None:
        """What each row counts in the task loss; taken out of the columns unless an objective asks for it."""
        if SAMPLE_WEIGHT not in columns:
            return None
        asked = SAMPLE_WEIGHT in self.objectives.columns()
        weight = columns[SAMPLE_WEIGHT] if asked else columns.pop(SAMPLE_WEIGHT)
        check_shape(weight, rows)
        # Once: reading values back waits for the device.
        if not self._weights_checked and not torch.compiler.is_compiling():
            check_values(weight)
            self._weights_checked = True
        return weight.float()

    def _diagnostics(self) -> dict[str, Tensor]:
        return {
            f"{name}_{key}": value
            for name, objective in self.objectives.by_name.items()
            for key, value in objective.diagnostics.items()
        }

    def _add_up(self, values: list[Tensor]) -> None:
        step = torch.stack([value.detach().float() for value in values])
        self._sums = step if self._sums is None else self._sums + step
        self._count += 1

    def drain(self) -> tuple[list[str], Tensor | None]:
        """
        Names and means of all terms and diagnostics since the last call, as one tensor on the model's device, and
        start anew. Reading it is the only synchronisation; call it when logging.
        """
        names = [*(f"loss_{name}" for name in self.terms), *self._diagnostics()]
        means = None if self._sums is None else self._sums / self._count
        self._sums, self._count = None, 0
        return names, means

    def detach(self) -> None:
        """Take the objectives off the model, which is then as it was before. Detaching twice is harmless."""
        if getattr(self.model, CHILD, None) is not self.objectives:
            return
        for hook in self._hooks:
            hook.remove()
        self._tap.remove()
        self._states.remove()
        self._attentions.remove()
        delattr(self.model, CHILD)
        if "_keys_to_ignore_on_save" in vars(self.model):
            self.model._keys_to_ignore_on_save = self._ignored_before
        del self.objectives.attachment

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *exception: object) -> None:
        self.detach()
