"""Fine-tuning of an adapter: its table before, and how what was saved is verified and merged after."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers.utils import logging

from hf_transfer.adapter_arguments import AdapterArguments
from hf_transfer.adapters.base_checkpoint import stated_name
from hf_transfer.adapters.loading import load_adapter
from hf_transfer.adapters.merging import TOLERANCES, logits_of, merge_adapter
from hf_transfer.adapters.summary import adapter_summary
from hf_transfer.distillation.measuring import size_on_disk
from hf_transfer.fine_tuning import FineTuning
from hf_transfer.hub import push_result
from hf_transfer.method_arguments import MethodArguments
from hf_transfer.metrics import MAIN_METRIC, compute_metrics_for
from hf_transfer.model_card.recipes import write_run_card
from hf_transfer.models import load_model
from hf_transfer.recipe import score
from hf_transfer.recipe_arguments import DataArguments, LoopArguments, ModelArguments
from hf_transfer.source import inputs_of
from hf_transfer.trainer import TransferTrainer
from hf_transfer.weights.low_rank import check_adapters
from hf_transfer.weights.snapshots import movable


logger = logging.get_logger(__name__)

ROWS = 256
"""Rows whose logits are compared, of the test split where there is one."""
MERGED = "merged"
"""Folder of the merged model, below that of the adapter."""

__all__ = ["MERGED", "ROWS", "AdapterTuning"]


class AdapterTuning(FineTuning):
    """
    Fine-tuning of an adapter: trained and saved as [`FineTuning`] does it, then loaded back from its folder, and from
    the Hub, and verified; merged if that is asked for.

    Args:
        dataset (`str`): Hub id, folder, file or embedded data set.
        adapter (`AdapterArguments`): which adapter, and what becomes of it.
        methods (`MethodArguments`): how to transfer.
        model_args (`ModelArguments`): which model.
        data_args (`DataArguments`): which rows, and how they are prepared.
        args (`LoopArguments`): the loop.

    Raises:
        ValueError: if options contradict each other, the data or the adapter, before anything is trained; at the end,
            if what was saved does not give the logits of what was trained.
    """

    def __init__(
        self,
        dataset: str,
        adapter: AdapterArguments,
        methods: MethodArguments,
        model_args: ModelArguments,
        data_args: DataArguments,
        args: LoopArguments,
    ):
        if (Path(str(args.output_dir)) / "config.json").is_file():
            raise ValueError(
                f"`--output_dir {args.output_dir}` holds a whole model (config.json): with an adapter beside it "
                "nobody could tell which of them the folder is. Name another folder."
            )
        super().__init__(dataset, methods, model_args, data_args, args, adapter=adapter)
        self.adapter = adapter
        if methods.wise_ft:
            check_adapters(self.model, doing="interpolation")  # and not after the training
        logger.info(f"What trains:\n{adapter_summary(cast(Any, self.model))}")

    def _finish(self, trainer: TransferTrainer) -> dict[str, float]:
        scores = super()._finish(trainer)
        folder = str(self.args.output_dir)
        trainer.accelerator.wait_for_everyone()  # the main process writes the folder
        loaded, found = self._loaded_back(folder)
        facts = self._costs(folder) | {"reload_difference": found}
        if self.adapter.merge:
            merged, facts["merge_difference"] = self._merge(loaded)
            scores |= merged
            trainer.save_metrics("merged", merged)
        trainer.save_metrics("adapter", facts)
        self._tell(scores, facts, trainer)
        return scores

    def _push(self, trainer: TransferTrainer) -> None:
        super()._push(trainer)
        if trainer.is_world_process_zero():
            name = stated_name(cast(Any, self.model).get_base_model().name_or_path)[0]
            local = {"base_model": name} if Path(name).exists() else {}  # a push names no folder of this machine
            if local:
                logger.warning(
                    f"The base model is the folder {name}, which nobody else has: who loads {trainer.hub_model_id} "
                    "must have it and name it, load_adapter(..., base_model=...). Push the base too, or merge."
                )
            self._loaded_back(str(trainer.hub_model_id), token=self.args.hub_token, **local)

    def _loaded_back(self, name: str, **options: Any) -> tuple[Any, float]:
        """The adapter from a folder or the Hub, and how far its logits are from those of the model in training."""
        loaded = load_adapter(name, trust_remote_code=self.model_args.trust_remote_code, **options)
        return loaded.model, self._verified(loaded.model, f"The adapter loaded back from {name}")

    def _verified(self, other: Any, what: str) -> float:
        device: Any = self.args.device
        other.to(device)
        differences, largest, rows = [0.0], 1.0, 0
        for batch in self._compared():
            inputs = inputs_of(self.model, batch, device)
            expected, found = (logits_of(model, inputs).double() for model in (self.model, other))
            differences.append(_difference(expected, found))
            largest, rows = max(largest, float(expected.nan_to_num().abs().max())), rows + len(expected)
        worst, allowed = max(differences), TOLERANCES.get(_dtype(other), 1e-4) * largest
        if not worst <= allowed:
            raise ValueError(
                f"{what} gives logits that differ by up to {worst:.2g} from those of the model that was trained, on "
                f"{rows} rows, where rounding explains {allowed:.2g}: it is not the model that was scored. The last "
                f"checkpoint in {self.args.output_dir} holds what was trained; please report the model and the "
                "options."
            )
        logger.info(f"{what} gives the same logits on {rows} rows (largest difference {worst:.2g}).")
        return worst

    def _compared(self) -> Iterable[Mapping[str, Any]]:
        """Batches of the first rows of the test split, or of what there is of others."""
        splits = self.inputs.splits
        rows: Any = splits.get("test", splits.get("eval", self.inputs.plain))
        rows = rows.select(range(min(ROWS, len(rows))))
        return DataLoader(rows, self.args.per_device_eval_batch_size, collate_fn=self.inputs.collate)

    def _merge(self, loaded: Any) -> tuple[dict[str, float], float]:
        """Merge the adapter, save the model, open it again, compare and score it."""
        folder = Path(str(self.args.output_dir)) / MERGED
        batch = inputs_of(loaded, next(iter(self._compared())), cast(Any, self.args.device))
        made = merge_adapter(loaded, batch=batch)
        keeping = self._merged_trainer(made, folder, push=self.adapter.push_merged)
        keeping.save_model(_internal_call=True)  # without a push
        keeping.accelerator.wait_for_everyone()
        opened, _ = load_model(folder, self.data, trust_remote_code=self.model_args.trust_remote_code)
        found = self._verified(opened, f"The merged model in {folder}")
        trainer = self._merged_trainer(opened, folder, push=False)
        scores: dict[str, float] = {}
        for name, split in self.inputs.splits.items():
            scores |= score(trainer, split, name)
        keeping.facts = self._facts(scores)
        keeping.facts.strategy = [*keeping.facts.strategy, "The adapter is merged into the weights of the model."]
        write_run_card(keeping)
        push_result(keeping, tasks=self.data.task)
        return {f"{MERGED}_{name}": value for name, value in scores.items()}, found

    def _merged_trainer(self, model: nn.Module, folder: Path, *, push: bool) -> TransferTrainer:
        """It saves, scores and pushes, but trains nothing."""
        args = copy.copy(self.args)
        args.output_dir, args.push_to_hub = str(folder), push
        args.hub_token = self.args.hub_token  # a copy forgets it
        args.hub_model_id = f"{self.args.hub_model_id or Path(str(self.args.output_dir)).name}-{MERGED}"
        args.without_validation()
        return TransferTrainer(
            model,
            args,
            processing_class=self.processor,
            data_collator=self.inputs.collate,
            compute_metrics=compute_metrics_for(self.data.task, self.data.label_names),
        )

    def _costs(self, folder: str) -> dict[str, float]:
        """What the adapter takes beside the model."""
        from peft import get_peft_model_state_dict

        model: Any = self.model
        adapter = get_peft_model_state_dict(model, save_embedding_layers=False)
        whole = {(value.data_ptr(), value.shape): value for value in model.state_dict().values()}  # tied ones once
        own, every = list(adapter.values()), list(whole.values())
        return {
            "trainable_parameters": sum(p.numel() for p in movable(model).values() if isinstance(p, nn.Parameter)),
            "model_parameters": _numbers(every) - _numbers(own),
            "adapter_bytes": size_on_disk(folder) or 0,
            "model_bytes": _bytes(every) - _bytes(own),
        }

    def _tell(self, scores: Mapping[str, float], facts: Mapping[str, float], trainer: TransferTrainer) -> None:
        trained, whole = facts["trainable_parameters"], facts["model_parameters"]
        metric = MAIN_METRIC[self.data.task]
        said = [f"{name} {scores[name]:.4f}" for name in (f"{split}_{metric}" for split in self.inputs.splits)]
        said += [
            f"{name} {scores[name]:.4f}"
            for name in scores
            if name in {f"{MERGED}_{s}_{metric}" for s in ("eval", "test")}
        ]
        seconds = sum(log.get("train_runtime", 0.0) for log in trainer.state.log_history)
        logger.info(
            f"{trained:,} parameters trained beside a model of {whole:,} ({trained / whole:.1%}) in {seconds:.1f} s; "
            f"on disk {_size(facts['adapter_bytes'])} for the adapter, {_size(facts['model_bytes'])} for the whole "
            f"model. {', '.join(said)}"
        )


def _difference(first: Tensor, second: Tensor) -> float:
    """The largest, where what is undefined in both is the same."""
    apart = (first - second).abs()
    return float(torch.where(first.isnan() & second.isnan(), 0.0, apart).max())


def _dtype(model: nn.Module) -> torch.dtype:
    return next(parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())


def _numbers(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _size(count: float) -> str:
    """
    Bytes as people read them.

    Example:
        >>> _size(61_234), _size(90_900_000)
        ('61 kB', '90.9 MB')
    """
    return f"{count / 1e3:.0f} kB" if count < 1e6 else f"{count / 1e6:.1f} MB"
