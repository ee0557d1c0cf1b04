"""`pretrain`: a PatchTST or PatchTSMixer trained on one or several source series, for transfer to others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from transformers import EarlyStoppingCallback, TrainerCallback

from hf_transfer.arguments import TransferArguments
from hf_transfer.files import whole_file
from hf_transfer.random_state import random_numbers_put_back
from hf_transfer.time_series.configuration import Kind, Size
from hf_transfer.time_series.models import new_forecaster, pretraining_model
from hf_transfer.time_series.series import Series
from hf_transfer.time_series.sources import Source, SourceMix, SourceWindows, sources_of


Mode = Literal["masked", "supervised"]
MODES: tuple[Mode, ...] = ("masked", "supervised")
FACTS_NAME = "pretraining.json"
"""File beside the model that says on what and how it was pretrained."""

__all__ = ["FACTS_NAME", "MODES", "Mode", "pretrain", "pretraining_arguments"]


def pretrain(
    series: Series | Sequence[Series],
    args: TransferArguments,
    *,
    kind: Kind = "patchtst",
    mode: Mode = "masked",
    context_length: int = 336,
    prediction_length: int = 96,
    mask_ratio: float = 0.4,
    size: Size = "small",
    overrides: Mapping[str, Any] | None = None,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    lengths: tuple[int, int, int] | None = None,
    stride: int = 1,
    mix: SourceMix = "proportional",
    patience: int | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    resume_from_checkpoint: str | bool | None = None,
) -> Path:
    """
    Pretrain a model on source series, to be transferred by [`load_forecaster`].

    The series may differ in their channels: the model takes one channel at a time, and every window of every channel
    is a row. Each series is split by time and scaled by its own training rows. In mode `"masked"` the model learns to
    fill in patches that are hidden from it (self-supervised); in mode `"supervised"` to forecast. The weights with
    the lowest loss on the evaluation parts are kept where `args` says `load_best_model_at_end`.

    Args:
        series ([`Series`] or `Sequence[Series]`):
            What to train on, in their own units.
        args ([`TransferArguments`]):
            Options of the loop; the model goes to its `output_dir`. [`pretraining_arguments`] makes some.
        kind (`str`, *optional*, defaults to `"patchtst"`):
            `"patchtst"` or `"patchtsmixer"`.
        mode (`str`, *optional*, defaults to `"masked"`):
            `"masked"` or `"supervised"`.
        context_length (`int`, *optional*, defaults to 336):
            Rows that the model sees.
        prediction_length (`int`, *optional*, defaults to 96):
            Rows to forecast in mode `"supervised"`.
        mask_ratio (`float`, *optional*, defaults to 0.4):
            Share of hidden patches, in (0, 1).
        size, overrides (*optional*):
            As for [`new_forecaster`]. Models that mix channels, or have weights for each, take several series only
            where all have as many channels.
        fractions, lengths (*optional*):
            Parts of each series, as for [`split_by_time`]. The last part is not looked at: where source and target
            cover the same time, the weights know nothing of the days on which the target is tested.
        stride (`int`, *optional*, defaults to 1):
            Rows from one training window to the next.
        mix (`str`, *optional*, defaults to `"proportional"`):
            Shares of the series in a batch: by their numbers of windows, or `"sqrt"` of these.
        patience (`int`, *optional*):
            Stop after this many evaluations in a row without a lower loss.
        callbacks (`Sequence[TrainerCallback]`, *optional*):
            Further callbacks.
        resume_from_checkpoint (`str` or `bool`, *optional*):
            As for `Trainer.train`.

    Returns:
        `Path`: the folder, an ordinary one of `transformers`, with `pretraining.json` beside.

    Raises:
        ValueError: if kind, mode or mix is unknown, there is no series, or one is too short; if series with different
            numbers of channels meet a model that mixes them; and as [`pretraining_model`] does.

    Paper: Nie et al., "A Time Series is Worth 64 Words: Long-term Forecasting with Transformers", ICLR 2023, https://huggingface.co/papers/2211.14730
    """
    if mode not in MODES:
        raise ValueError(f"mode={mode!r} is none of {', '.join(MODES)}: there is no such task. Give mode='masked'.")
    given = [series] if isinstance(series, Series) else list(series)
    channels = _channels(given, overrides)
    masked = mode == "masked"
    sources = sources_of(
        given,
        context_length=context_length,
        prediction_length=1 if masked else prediction_length,
        split={"fractions": fractions, "lengths": lengths},
        one_channel=channels == 1,
        masked=masked,
        stride=stride,
    )
    shape: dict[str, Any] = {"channels": channels, "context_length": context_length}
    options: dict[str, Any] = {"size": size, "overrides": overrides, **shape}

    def build() -> Any:
        if masked:
            return pretraining_model(kind, mask_ratio=mask_ratio, **options)
        return new_forecaster(kind, prediction_length=prediction_length, **options)

    trainer = _trainer(
        build, args, sources, masked=masked, mix=mix, callbacks=[*callbacks, *_stopping(patience, args)]
    )
    trainer.train(resume_from_checkpoint=resume_from_checkpoint)
    metrics = trainer.evaluate()
    trainer.save_metrics("eval", metrics)
    trainer.save_model()
    trainer.save_state()
    folder = Path(str(args.output_dir))
    if trainer.is_world_process_zero():
        task = {"mask_ratio": mask_ratio} if masked else {"prediction_length": prediction_length}
        facts = {"kind": kind, "mode": mode, "size": size, "mix": mix, **shape, **task}
        facts |= {"eval_loss": metrics["eval_loss"], "steps": trainer.state.global_step}
        facts["sources"] = [source.facts() for source in sources]
        with whole_file(folder / FACTS_NAME) as unfinished:
            unfinished.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return folder


def pretraining_arguments(output_dir: str | Path, **options: Any) -> TransferArguments:
    """
    Options of the loop that suit [`pretrain`]: 10 epochs at a rate of 1e-3 in batches of 256 windows of a channel,
    the best of them by the evaluation loss.

    Args:
        output_dir (`str` or path): where the model goes.
        options: fields of [`TransferArguments`] to set otherwise.

    Example:
        >>> pretraining_arguments("unused", num_train_epochs=2).metric_for_best_model
        'loss'
    """
    own: dict[str, Any] = {
        "num_train_epochs": 10,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "per_device_train_batch_size": 256,
        "per_device_eval_batch_size": 512,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
        "greater_is_better": False,
        "report_to": "none",
    }
    return TransferArguments(str(output_dir), **(own | options))


def _trainer(
    build: Any, args: TransferArguments, sources: list[Source], *, masked: bool, mix: SourceMix, callbacks: list
) -> Any:
    from hf_transfer.time_series.masked import MaskedTrainer, SupervisedTrainer

    with random_numbers_put_back(args.seed):
        model = build()
    data: dict[str, Any] = {
        "train_dataset": SourceWindows([source.train for source in sources], mix),
        "eval_dataset": SourceWindows([source.eval for source in sources]),
        "callbacks": callbacks,
    }
    return (MaskedTrainer if masked else SupervisedTrainer)(model, args, **data)


def _stopping(patience: int | None, args: TransferArguments) -> list[TrainerCallback]:
    if patience is None:
        return []
    if not args.load_best_model_at_end:
        raise ValueError(
            f"patience={patience} without `load_best_model_at_end`: the run would end with weights that are worse "
            "than ones it had. Set it, with `metric_for_best_model='loss'`, or leave `patience` out."
        )
    return [EarlyStoppingCallback(early_stopping_patience=patience)]


def _channels(series: list[Series], overrides: Mapping[str, Any] | None) -> int:
    """Channels of the model: one where channels do not see each other, else those that all series have."""
    given = overrides or {}
    mixing = [
        f"{name}={value!r}"
        for name, value in (("mode", "mix_channel"), ("channel_attention", True), ("share_embedding", False))
        if given.get(name) == value and name in given
    ]
    if not mixing:
        return 1
    counts = sorted({len(one.channels) for one in series})
    if len(counts) > 1:
        raise ValueError(
            f"{mixing[0]} with series of {', '.join(map(str, counts))} channels: the model takes a fixed number of "
            "channels together. Leave it out, and the model takes one channel at a time; or select as many channels "
            "of each series."
        )
    return counts[0] if counts else 1
