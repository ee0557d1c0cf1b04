"""`ExponentialMovingAverage`: evaluate and keep an average of the weights over the run."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from hf_transfer.callbacks.averaged_weights import AveragedWeights, read_metadata
from hf_transfer.callbacks.refusals import refuse_partitioned, saved_state
from hf_transfer.checkpoint import load_renamed_weights
from hf_transfer.functional.weight_average import decay_at


logger = logging.get_logger(__name__)

RAW_WEIGHTS_NAME = "raw_weights.safetensors"
"""File of a checkpoint that holds the weights the optimizer goes on from, beside the average in the model's own."""


class ExponentialMovingAverage(TrainerCallback, ExportableState):
    r"""
    Exponential moving average of the weights (EMA, Polyak averaging): train on, but evaluate and keep the average.

    After each optimizer step $t$, with weights $w_t$,

    $$ \bar w_t = d_t\,\bar w_{t-1} + (1 - d_t)\,w_t, \qquad \bar w_0 = w_0, \qquad
       d_t = \min\Bigl(d, \frac{1 + t}{10 + t}\Bigr) $$

    From the end of an optimizer step to the beginning of the next the model *is* the average: evaluations,
    checkpoints, the best model and the final one hold it. The optimizer goes on from the raw weights, which each
    checkpoint keeps beside it in `raw_weights.safetensors`, so that a resumed run continues bit for bit.

    Averaged are the parameters that train (adapters alone under LoRA), from the first step on in which they do, and
    the running statistics of batch normalisation. The average takes the memory of one more copy of these on their
    device, two if they are in half precision, since it is kept in float32.

    Args:
        decay (`float`, *optional*, defaults to 0.999):
            $d$ in [0, 1) (dimensionless); the paper's value. The average spans about $1 / (1 - d)$ steps.
        warmup (`bool`, *optional*, defaults to `True`):
            Let $d_t$ rise from 0.18 to $d$ as above: without it, a run shorter than a few times $1 / (1 - d)$ steps
            ends close to where it started.

    Deviations from the paper:
        The warm-up (the paper changes the decay once, from 0.99 to 0.999); the average is the result of the run, not a
        teacher.

    Raises:
        ValueError: at construction if `decay` is not in [0, 1); when the Trainer is built under FSDP, DeepSpeed,
            `nn.DataParallel`, tensor parallelism or `enable_jit_checkpoint`; when training begins on a resume from a
            checkpoint without raw weights.

    Relations:
        A learning rate that ends at zero averages too: with a cosine schedule the gain is small, with a constant rate
        large. Trials of a hyper-parameter search cannot be resumed with it. What other callbacks see in `on_step_end`
        is the average if they come after this one.

    Example:
        >>> ExponentialMovingAverage(0.99)
        ExponentialMovingAverage(decay=0.99, warmup=True)

    Paper: Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017, https://huggingface.co/papers/1703.01780
    """

    def __init__(self, decay: float = 0.999, *, warmup: bool = True):
        if not 0 <= decay < 1:
            raise ValueError(
                f"`decay={decay}` is outside [0, 1): at 1 the average stays at the start for ever. Give the share of "
                "the average that each step keeps, such as 0.999."
            )
        self.decay, self.warmup = decay, warmup
        self.run: str | None = None
        """Name of the run, by which its files are told from those of another."""
        self.folder: str | None = None
        """Where the run saves."""
        self._weights: AveragedWeights | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(decay={self.decay}, warmup={self.warmup})"

    def state(self) -> dict[str, Any]:
        """What the Trainer writes into `trainer_state.json`."""
        return {
            "args": {"decay": self.decay, "warmup": self.warmup},
            "attributes": {"run": self.run, "folder": self.folder},
        }

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse what cannot work before any data is read."""
        if kwargs["model"] is not None:
            self._check(args, kwargs["model"])

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the average, or continue that of a checkpoint."""
        model = kwargs["model"]
        self._check(args, model)
        self._weights = None
        weights = AveragedWeights(model)
        if state.global_step:
            folder = self._checkpoint(args, state)
            load_renamed_weights(model, folder)
            weights.load(folder / RAW_WEIGHTS_NAME)
        else:
            self.run = uuid.uuid4().hex
        self.folder = str(Path(str(args.output_dir)).absolute())
        self._weights = weights

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Train from the raw weights."""
        if self._weights is not None:
            self._weights.show_raw()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take in what trains now: schedules have had their turn, the optimizer not."""
        if self._weights is not None:
            self._weights.join()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Average, and show the average until the next step."""
        if self._weights is not None:
            self._weights.update(decay_at(state.global_step, decay=self.decay, warmup=self.warmup))
            self._weights.show_average()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the raw weights beside the average."""
        if self._weights is None or args.save_only_model or state.is_hyper_param_search or not args.should_save:
            return
        folder = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        if folder.is_dir() and self._weights.shows_average:
            self._weights.save(folder / RAW_WEIGHTS_NAME, {"run": str(self.run), "step": str(state.global_step)})
        else:
            logger.warning_once(f"{folder} is not where the checkpoint is: it cannot be resumed with {self!r}.")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the average in the model."""
        if self._weights is not None:
            self._weights.show_average()
            self._weights = None
            if args.load_best_model_at_end and state.best_model_checkpoint is not None:
                # In a stock Trainer; a `TransferTrainer` has done so.
                load_renamed_weights(kwargs["model"], Path(state.best_model_checkpoint))

    def _check(self, args: TrainingArguments, model: Any) -> None:
        refuse_partitioned(args, model, type(self).__name__, fsdp2=False)
        if args.enable_jit_checkpoint:
            raise ValueError(
                f"{type(self).__name__} with enable_jit_checkpoint - it saves in the middle of a step and tells no "
                "callback, so that the raw weights would be missing - set save_steps low enough instead."
            )

    def _checkpoint(self, args: TrainingArguments, state: TrainerState) -> Path:
        """The folder that the run resumes from, which the Trainer tells no callback."""
        saved = saved_state(state, self, what="there is no average, nor are there raw weights to go on from")
        name = f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        folders = [Path(str(place)) / name for place in (args.output_dir, saved["folder"])]
        if isinstance(args.resume_from_checkpoint, str):
            folders.insert(0, Path(args.resume_from_checkpoint))
        self.run = saved["run"]
        for folder in folders:
            if read_metadata(folder / RAW_WEIGHTS_NAME) == {"run": self.run, "step": str(state.global_step)}:
                return folder
        raise ValueError(
            f"No {RAW_WEIGHTS_NAME} of this run and step {state.global_step} in {' or '.join(map(str, folders))}: the "
            "model in a checkpoint is the average, and the optimizer would go on from it instead of the raw weights. "
            "Resume from a complete checkpoint; if it was moved, name it in "
            "TrainingArguments(resume_from_checkpoint=...) too."
        )
