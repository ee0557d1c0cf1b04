"""What [`TransferTrainer`] needs for the frozen-prefix cache: its checks, its callback, and numbered training rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from torch import nn
from torch.utils.data import DataLoader
from transformers.utils.import_utils import is_datasets_available

from hf_transfer.arguments import TransferArguments
from hf_transfer.callbacks.frozen_prefix import CacheFrozenPrefix
from hf_transfer.frozen_prefix.checks import check, check_model, check_rows
from hf_transfer.frozen_prefix.rows import NumberedCollator, NumberedRows
from hf_transfer.frozen_prefix.session import FrozenPrefix, release
from hf_transfer.functional.task_loss import SAMPLE_WEIGHT
from hf_transfer.objective import Objective


if TYPE_CHECKING:
    from hf_transfer.trainer import TransferTrainer

__all__ = ["PrefixSupport"]


class PrefixSupport:
    """
    The ties between a trainer and the cache.

    Args:
        trainer (`TransferTrainer`): being built.
        args (`TransferArguments`): its arguments.
        callbacks (`Iterable`): its callbacks; the first freezing schedule counts.
        objectives (`Sequence[Objective]`): its objectives.

    Attributes:
        callback (`CacheFrozenPrefix`): to go behind the others.

    Raises:
        ValueError: if they cannot be trained with a cache.
    """

    def __init__(
        self,
        trainer: TransferTrainer,
        args: TransferArguments,
        callbacks: Iterable[Any],
        objectives: Sequence[Objective],
    ):
        self.trainer, self.args, self.objectives = trainer, args, objectives
        self.callback = CacheFrozenPrefix(check(args, callbacks, objectives), self._session)
        self._rows: NumberedRows | None = None
        self._collate: Callable[[list[Any]], Any] | None = None

    def check(self) -> None:
        """
        Look at the model and the data, now that the trainer has both.

        Raises:
            ValueError: if they cannot be trained with a cache.
        """
        model = cast(Any, self.trainer.model)
        check_model(self.args, model)
        if self.trainer.train_dataset is not None:
            check_rows(self.trainer.train_dataset, self._collator(self.trainer.train_dataset))

    def dataloader(
        self,
        build: Callable[..., DataLoader],
        dataset: Any,
        description: str,
        batch_size: int,
        sampler: Callable[[Any], Any] | None,
        key: str | None,
    ) -> DataLoader:
        """The Trainer's loader of training batches, with rows that carry their number once a run asks for it."""
        trainer: Any = self.trainer
        self._collate = self._collator(dataset)
        if _is_table(dataset):
            dataset = trainer._remove_unused_columns(dataset, description=description)
        self._rows = NumberedRows(dataset, _main_input(trainer.model))
        plain = trainer.data_collator
        trainer.data_collator = NumberedCollator(plain)
        try:
            # the sampler is asked for by the data set as it is: it may look at lengths or domains
            ask = None if sampler is None else lambda numbered: sampler(dataset)
            return build(self._rows, description, batch_size, ask, True, key)
        finally:
            trainer.data_collator = plain

    def release(self, model: nn.Module) -> None:
        """Undo what is left of a run that ended or crashed."""
        release(model)
        if self._rows is not None:
            self._rows.stop()

    def _collator(self, dataset: Any) -> Callable[[list[Any]], Any]:
        trainer: Any = self.trainer
        collate = trainer.data_collator
        return collate if _is_table(dataset) else trainer._get_collator_with_removed_columns(collate, "training")

    def _session(self, model: nn.Module) -> FrozenPrefix:
        assert self._rows is not None and self._collate is not None
        args = self.args
        return FrozenPrefix(
            model,
            self._rows,
            self._collate,
            max_gb=args.frozen_prefix_max_gb,
            cache_dir=args.frozen_prefix_cache_dir,
            batch_size=max(32, args.per_device_eval_batch_size, args.per_device_train_batch_size),
            num_workers=args.dataloader_num_workers,
            progress=not args.disable_tqdm,
            ignored={"domain", SAMPLE_WEIGHT, *self.trainer.objectives.columns()},
            keep_inputs=any(objective.reads_inputs for objective in self.objectives),
            read_states={name for objective in self.objectives for name in objective.hidden_states},
        )


def _is_table(dataset: Any) -> bool:
    if not is_datasets_available():
        return False
    import datasets

    return isinstance(dataset, datasets.Dataset)


def _main_input(model: Any) -> str:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model  # PEFT hides the class it wraps
    return getattr(base, "main_input_name", "input_ids")
