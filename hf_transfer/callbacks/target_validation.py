"""`TargetValidation`: scores of the model on an unlabelled target, at every evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from hf_transfer.validators.checks import NAMES, ORACLE_NAMES, check_model
from hf_transfer.validators.validation import Validation


if TYPE_CHECKING:
    from datasets import Dataset


logger = logging.get_logger(__name__)

_PREFIX = "eval_"
_MARK = "_runtime"  # every evaluation reports how long it took, under the prefix of its metrics

__all__ = ["TargetValidation"]


class TargetValidation(TrainerCallback):
    """
    Model selection without target labels: add the scores of the validators to the metrics of each evaluation.

    The metrics are `eval_<name>` for each validator, such as `eval_snd`, and `eval_oracle_accuracy` and
    `eval_oracle_macro_f1` if `oracle` is given. **Higher is better for all of them**, so that
    `metric_for_best_model="snd"` with `load_best_model_at_end=True` and early stopping take them as they are. A
    hyper-parameter search that is not told otherwise adds all metrics up, these included: give it a
    `compute_objective`, such as `lambda metrics: metrics["eval_snd"]`. See [`validate_without_labels`] for what each
    is and what it needs.

    One evaluation of several data sets (`eval_dataset={"source": ..., "target": ...}`) has the scores once, among the
    metrics of the first. An evaluation under a prefix that does not begin with `eval`, such as
    `trainer.evaluate(test, metric_key_prefix="test")`, gets none.

    The scores are there before any callback sees the metrics of the evaluation, `EarlyStoppingCallback` included,
    whatever the order of the callbacks. They are in `state.log_history` too. `TransferTrainer` moves this callback
    before the loggers; a stock `Trainer` puts those of `report_to` first, and they have written the other metrics by
    then: `report_to="none"` with `callbacks=[TargetValidation(...), TensorBoardCallback()]` shows the scores there.

    Args:
        source (`datasets.Dataset`, *optional*):
            Labelled rows of the source that were not trained on. Needed by `iwv`, `dev` and `reverse`.
        target (`datasets.Dataset`):
            Rows of the target. Columns of labels are taken off here and read by nobody.
        train_source (`datasets.Dataset`, *optional*):
            Rows of the source that the model is trained on; their labels are not read. Needed by `iwv` and `dev`.
        oracle (`datasets.Dataset`, *optional*):
            Rows of the target with labels, for reports: no validator sees them. All of them are read.
        validators (`Sequence[str]`, *optional*):
            Names out of `iwv`, `dev`, `entropy`, `information_maximization`, `snd`, `reverse`, `mixval`. By default
            all for which there is data.
        processor (`Any`, *optional*):
            The model's own, for raw columns; by default the `processing_class` of the Trainer.
        data_collator (`Callable`, *optional*):
            Makes a batch of a list of rows, in place of the padding here.
        max_length (`int`, *optional*):
            Longest text in tokens, for raw text.
        batch_size (`int`, *optional*, defaults to 32):
            Most rows per forward.
        max_rows (`int`, *optional*, defaults to 2000):
            Most rows of each data set but `oracle`, drawn once by `seed`; for token classification most tokens too.
        seed (`int`, *optional*, defaults to 0):
            Of the rows that are drawn and mixed. The global generators are left as they are.
        head (`str`, *optional*):
            Name of the head, where it cannot be told from the model.

    Raises:
        TypeError: at construction if a data set is no `datasets.Dataset`.
        ValueError: at construction if a validator is unknown or lacks its data, or `source` or `oracle` has no labels;
            when the Trainer is built if the model is no classifier of one label a row, `greater_is_better` is False
            for a score, or `metric_for_best_model` names one that is not computed.

    Relations:
        [`validate_without_labels`] scores one model; [`choose`] picks among several by each validator.

    Example:
        >>> from datasets import Dataset
        >>> rows = Dataset.from_dict({"input_ids": [[1, 2], [3, 4]], "labels": [0, 1]})
        >>> TargetValidation(target=rows, validators=["snd", "entropy"])
        TargetValidation(entropy, snd)
    """

    def __init__(
        self,
        *,
        target: Dataset,
        source: Dataset | None = None,
        train_source: Dataset | None = None,
        oracle: Dataset | None = None,
        validators: Sequence[str] | None = None,
        processor: Any = None,
        data_collator: Callable[[list[dict[str, Any]]], Any] | None = None,
        max_length: int | None = None,
        batch_size: int = 32,
        max_rows: int = 2000,
        seed: int = 0,
        head: str | None = None,
    ):
        self.validation = Validation(
            source=source,
            target=target,
            train_source=train_source,
            oracle=oracle,
            validators=validators,
            processor=processor,
            data_collator=data_collator,
            max_length=max_length,
            batch_size=batch_size,
            max_rows=max_rows,
            seed=seed,
            head=head,
        )
        self._step: int | None = None
        self._seen: set[str] = set()
        self._logged: dict[str, float] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.validation.names)})"

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse what cannot work before any data is read."""
        if kwargs["model"] is not None:
            check_model(kwargs["model"])
        metric = (args.metric_for_best_model or "").removeprefix(_PREFIX)
        if metric not in (*NAMES, *ORACLE_NAMES):
            return
        if metric not in self.validation.names:
            raise ValueError(
                f'metric_for_best_model="{metric}" is not among what {self!r} computes: the first evaluation would '
                f"end the run. Choose one of these, or give what `{metric}` needs."
            )
        if args.greater_is_better is False:
            raise ValueError(
                f'greater_is_better=False for metric_for_best_model="{metric}": every validator here is higher for a '
                "better model, and the worst one would be kept. Leave `greater_is_better` out."
            )
        if metric in ORACLE_NAMES:
            logger.warning_once(
                f"The best model is chosen by {metric}, that is by labels of the target: its score on them is no "
                "estimate of a run without such labels."
            )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Score when an evaluation is logged: before callbacks see its metrics, which are the dictionary logged."""
        prefix = _prefix(logs or {})
        if logs is not None and prefix is not None:
            self._logged = self._scores(prefix, state, kwargs)
            logs.update(self._logged)
            if state.log_history:  # the entry of this log, copied before callbacks were called
                state.log_history[-1].update(self._logged)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Score now if a Trainer of another library logs a copy of the metrics, or nothing."""
        prefix = _prefix(metrics or {})
        if metrics is not None and prefix is not None:
            metrics.update(self._scores(prefix, state, kwargs) if self._logged is None else self._logged)
        self._logged = None

    def _scores(self, prefix: str, state: TrainerState, kwargs: Mapping[str, Any]) -> dict[str, float]:
        """By the names of the metrics; empty for all but the first data set of an evaluation."""
        if state.global_step == self._step and prefix not in self._seen:
            self._seen.add(prefix)
            return {}
        self._step, self._seen = state.global_step, {prefix}
        scores = self.validation.scores(kwargs["model"], processor=kwargs.get("processing_class"))
        return {_PREFIX + name: value for name, value in scores.items()}


def _prefix(metrics: Mapping[str, float]) -> str | None:
    """Prefix of the metrics of an evaluation; None for other logs and for evaluations under another name."""
    marks = (name.removesuffix(_MARK) for name in metrics if name.endswith(_MARK))
    return next((name for name in marks if f"{name}_".startswith(_PREFIX)), None)
