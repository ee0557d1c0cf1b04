"""`MetaTrainer`: training for the ability to learn new classes from a few rows."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedModel, TrainingArguments
from transformers.trainer_utils import TrainOutput
from typing_extensions import Unpack

from hf_transfer.anatomy import anatomy
from hf_transfer.arguments import TransferArguments
from hf_transfer.few_shot.sampler import EpisodeSampler
from hf_transfer.meta.checks import check_arguments, check_class_major, check_data, check_kwargs, check_options
from hf_transfer.meta.gradient import MetaGradient, average_gradients
from hf_transfer.meta.head import give_episode_head
from hf_transfer.meta.learner import EpisodeShape, Learner
from hf_transfer.meta.rates import InnerRates, usual_rate
from hf_transfer.meta.scale_shift import add_scale_shift, scale_shift_state
from hf_transfer.meta.selection import Selection, select
from hf_transfer.meta.state import ScaleShiftTrainer
from hf_transfer.meta.testing import class_column, meta_test
from hf_transfer.modes import modes_put_back
from hf_transfer.norms import has_statistics


if TYPE_CHECKING:
    import optuna

    from hf_transfer.trainer_kwargs import TrainerKwargs

__all__ = ["MetaTrainer"]


class MetaTrainer(ScaleShiftTrainer):
    r"""
    Meta-learning (MAML, FOMAML, ANIL, Reptile, Meta-SGD, MTL): train a start from which a few gradient steps on a few
    rows of new classes suffice.

    A training step draws episodes of `n_way` classes. For each, the inner loop takes `inner_steps` steps of plain
    gradient descent on the support rows, $\theta \to \theta_k$; the outer loop then improves the start:

    $$ \min_\theta \; \frac{1}{E} \sum_e L_e^{\text{query}}(\theta_k^{(e)}(\theta)) $$

    - `"maml"` differentiates through the inner steps, Hessians and all; `"fomaml"` takes $\partial \theta_k / \partial
      \theta$ for the identity.
    - `"anil"` adapts the head only; the outer loop trains all of `parameters` through it. With `"scale_shift"` this is
      meta-transfer learning (MTL): frozen weights, learned scale and shift, an adapted head.
    - `"reptile"` has no query loss: its inner steps see all rows of the episode in turn, and the outer gradient is
      $\theta - \bar\theta_k$. With `optim="sgd"` the learning rate is the $\epsilon$ of the paper.
    - `"meta_sgd"` is MAML with a learned rate for every number, which begin at `inner_lr` (`objective_lr` is the rate
      at which they are learned).

    The classes of an episode are numbered 0 to `n_way - 1` in random order, whatever their labels; the model gets a
    head of that many outputs. The inner loop never sees a query.

    Args:
        model (`PreTrainedModel` or `PeftModel`, *optional*):
            A classifier; or give `model_init`.
        args (`TransferArguments` or `TrainingArguments`, *optional*):
            Options of the loop. `per_device_train_batch_size` is set from `episodes_per_step`, in a copy.
        algorithm (`str`, *optional*, defaults to `"maml"`):
            One of the above.
        parameters (`str` or `Sequence[str]`, *optional*, defaults to `"head"`):
            What the outer loop trains beside the head: `"head"` (nothing else), `"lora"` (put in by `add_adapter`),
            `"scale_shift"` (put in here), `"all"`, or patterns as `UnfreezingSchedule` has them. All else is frozen
            while it trains.
        n_way, k_shot, queries (`int`, *optional*, defaults to 5, 1 and 15):
            Classes of an episode, support and query rows of each.
        inner_steps (`int`, *optional*, defaults to 5):
            Steps of the inner loop.
        inner_lr (`float`, *optional*):
            Rate of the inner loop. By default, where the head alone is adapted, the largest at which its descent is
            stable on the features of the episode, [`stable_rate`]; else, and for Meta-SGD, 0.1 for head, LoRA, scale
            and shift, and 0.01 for weights.
        episodes_per_step (`int`, *optional*, defaults to 4):
            Episodes of one optimizer step, over all ranks and micro-batches.
        vectorize (`bool`, *optional*):
            Whether to run the episodes of a micro-batch at once by `vmap`, which is faster and takes more memory, or
            one by one. By default at once, but one by one for a model that cannot be batched so. Where only the head
            is adapted the backbone runs once over all rows in any case.
        dropout (`bool`, *optional*, defaults to `False`):
            Whether the model's dropout acts, in the inner loop and on the queries, other masks in every forward.
        eval_episodes (`int`, *optional*, defaults to 600):
            Episodes of `evaluate`.
        eval_seed (`int`, *optional*, defaults to 0):
            Of those episodes, which are always the same.
        **kwargs:
            `train_dataset` (prepared rows with `labels`, of the base classes), `eval_dataset` (rows of other classes)
            and whatever else `Trainer` takes, but for `compute_metrics` and `compute_loss_func`.

    `loss` in the log is the query loss after adaptation (of Reptile the loss of the inner steps), `query_accuracy`
    its accuracy. `evaluate` gives `eval_accuracy`, the mean over episodes, `eval_accuracy_low` and
    `eval_accuracy_high`, its 95% interval, and `eval_loss`.

    `save_model` writes an ordinary model or adapter, scale and shift folded in: a start for
    `from_pretrained(folder, num_labels=..., ignore_mismatched_sizes=True)` and any fine-tuning.

    Deviations from the paper:
        Batch normalisation uses its running statistics and leaves them alone: statistics of an episode would tell each
        query of the others. Any optimizer may run the outer loop, also Reptile's. MTL adapts the head from a learned
        start with the same number of steps in training and test, and has no hard-task scheme.

    Raises:
        ValueError: for an unknown algorithm or part of a model, numbers that are too small, `episodes_per_step` that
            ranks and accumulation do not divide, classes with too few rows, and what cannot be differentiated through
            by hand: objectives, fp16, FSDP, DeepSpeed, `torch.compile`, gradient checkpointing, several GPUs in one
            process.

    Relations:
        [`PrototypicalEpisodes`] trains features for class means instead of a start for gradient descent.
        [`evaluate_few_shot`] shows what the pretrained features do by themselves: often more than meta-learning adds.

    Example:
        >>> import tempfile
        >>> from datasets import Dataset
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> rows = {"input_ids": [[1, 2], [1, 3], [5, 6], [5, 7]] * 2, "labels": [0, 0, 1, 1] * 2}
        >>> args, data = TransferArguments(tempfile.mkdtemp(), use_cpu=True), Dataset.from_dict(rows)
        >>> model = BertForSequenceClassification(config)
        >>> trainer = MetaTrainer(model, args, algorithm="anil", n_way=2, queries=1, train_dataset=data)
        >>> trainer.args.per_device_train_batch_size  # 4 episodes of 4 rows
        16

    Paper: Finn et al., "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", ICML 2017,
    https://huggingface.co/papers/1703.03400; ANIL: Raghu et al., ICLR 2020, https://huggingface.co/papers/1909.09157;
    Reptile: Nichol et al., 2018, https://huggingface.co/papers/1803.02999; Meta-SGD: Li et al., 2017,
    https://huggingface.co/papers/1707.09835; MTL: Sun et al., CVPR 2019, https://huggingface.co/papers/1812.02391
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: TrainingArguments | None = None,
        *,
        algorithm: str = "maml",
        parameters: str | Sequence[str] = "head",
        n_way: int = 5,
        k_shot: int = 1,
        queries: int = 15,
        inner_steps: int = 5,
        inner_lr: float | None = None,
        episodes_per_step: int = 4,
        vectorize: bool | None = None,
        dropout: bool = False,
        eval_episodes: int = 600,
        eval_seed: int = 0,
        **kwargs: Unpack[TrainerKwargs],
    ):
        check_options(algorithm, inner_steps, inner_lr, eval_episodes)
        check_kwargs(kwargs)
        self.shape = EpisodeShape(n_way, k_shot, queries)
        args = TransferArguments(output_dir="tmp_trainer") if args is None else copy.copy(args)
        args.per_device_train_batch_size = check_arguments(args, episodes_per_step) * self.shape.size
        check_data(kwargs.get("train_dataset"), self.shape)
        self.algorithm, self.subset = algorithm, parameters
        self.inner_steps, self.inner_lr, self.episodes_per_step = inner_steps, inner_lr, episodes_per_step
        self.vectorize, self.dropout = vectorize, dropout
        self.eval_episodes, self.eval_seed = eval_episodes, eval_seed
        self.selection = Selection((), ())
        self._frozen: list[nn.Parameter] = []
        self._gradient: MetaGradient | None = None
        self._rates: InnerRates | None = None
        self._order_checked = False
        super().__init__(model, args, **kwargs)

    def _attach(self, model: nn.Module) -> None:
        """Make the model ready: new head, scale and shift, the rates of Meta-SGD."""
        give_episode_head(model, self.shape.n_way)
        if self.subset == "scale_shift" and not scale_shift_state(model):
            add_scale_shift(model)
        self.selection = select(model, self.subset)
        if self.algorithm == "meta_sgd":
            self._rates = InnerRates(names=self.adapted, start=self._start_rate(model))
            self._objectives = [self._rates]
        self._gradient = None
        super()._attach(model)
        self._freeze(model)

    def _start_rate(self, model: nn.Module) -> float:
        return usual_rate(self.adapted, head=anatomy(model).head) if self.inner_lr is None else self.inner_lr

    @property
    def adapted(self) -> tuple[str, ...]:
        """Names of the parameters that the inner loop adapts."""
        return self.selection.head if self.algorithm == "anil" else self.selection.trained

    def _freeze(self, model: nn.Module) -> None:
        trained = set(self.selection.trained)
        rates = {id(rate) for rate in self._rates.parameters()} if self._rates is not None else set()
        for name, parameter in model.named_parameters():
            if name in trained:
                parameter.requires_grad_(True)
            elif parameter.requires_grad and id(parameter) not in rates:
                parameter.requires_grad_(False)
                self._frozen.append(parameter)

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: optuna.Trial | dict[str, Any] | None = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train; afterwards whatever was frozen for it trains again."""
        if self.model_init is None:
            self._freeze(cast(nn.Module, self.model))
        try:
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        finally:
            for parameter in self._frozen:
                parameter.requires_grad_(True)
            self._frozen = []

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """The stock names, without learned rates, scales and shifts: decay would pull a scale to zero and not to 1."""
        rates = set() if self._rates is None else {id(rate) for rate in self._rates.parameters()}
        left_out = {name for name, value in model.named_parameters() if id(value) in rates}
        left_out |= scale_shift_state(model).keys()
        return [name for name in super().get_decay_parameter_names(model) if name not in left_out]

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        labels = class_column(self.train_dataset)
        size = self.shape.size
        rows = len(labels)
        # whole optimizer steps, so that each has all its micro-batches
        steps = max(1, rows // (size * self.episodes_per_step))
        return EpisodeSampler(
            labels,
            n_way=self.shape.n_way,
            k_shot=self.shape.k_shot,
            queries=self.shape.queries,
            episodes=steps * self.episodes_per_step,
            batch_size=self.args.per_device_train_batch_size,
            ranks=self.args.world_size,
            seed=self.args.data_seed if self.args.data_seed is not None else self.args.seed,
        )

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """One micro-batch of whole episodes: adapt, and add the gradient of the start to `.grad`."""
        # The gradients do not pass through DDP's hooks, which would see a backward without its forward: they are
        # averaged over the ranks below.
        bare = cast(nn.Module, self.accelerator.unwrap_model(model))
        bare.train()
        # an optimizer without a schedule evaluates other weights than it trains
        getattr(self.optimizer, "train", lambda: None)()
        inputs = dict(cast(Any, self._prepare_inputs(inputs)))
        labels = inputs.pop("labels", inputs.pop("label", None))
        with modes_put_back(bare):
            self._set_modes(bare)
            gradient = self._gradient_for(bare)
            episodes = gradient.learner.split(inputs)
            if not self._order_checked:
                check_class_major(labels, self.shape)
                self._order_checked = True
            with self.compute_loss_context_manager():
                loss = gradient.add(episodes, 1 / self.current_gradient_accumulation_steps)
        if self.accelerator.sync_gradients and self.args.world_size > 1:
            average_gradients(bare.parameters(), self.accelerator)
        return loss / self.current_gradient_accumulation_steps

    def _set_modes(self, model: nn.Module) -> None:
        for module in model.modules():
            if not self.dropout or has_statistics(module):
                module.training = False

    def _gradient_for(self, model: nn.Module) -> MetaGradient:
        if self._gradient is None or self._gradient.learner.model is not model:
            learner = Learner(
                model,
                self.adapted,
                self.shape,
                steps=self.inner_steps,
                first_order=self.algorithm == "fomaml",
                vectorize=self.vectorize is not False,
            )
            self._gradient = MetaGradient(
                learner,
                self.selection.trained,
                reptile=self.algorithm == "reptile",
                rate=self.inner_lr,
                rates=self._rates,
                vectorize=self.vectorize,
            )
        return self._gradient

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the accuracy on the queries since the last training log."""
        if "loss" in logs and self._gradient is not None:
            share = self._gradient.drain_accuracy()
            if share is not None:
                logs["query_accuracy"] = cast(Tensor, self.accelerator.reduce(share, reduction="mean")).item()
        super().log(logs, start_time)

    def evaluate(
        self,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Adapt to `eval_episodes` episodes of the classes of a data set; see [`meta_test`]."""
        data: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(data, dict):
            found: dict[str, float] = {}
            for name, part in data.items():
                found |= self.evaluate(part, ignore_keys, f"{metric_key_prefix}_{name}")
            return found
        if data is None:
            raise ValueError(
                "There is no `eval_dataset`: nothing says which unseen classes to adapt to. Pass rows of classes that "
                "are not in the training data."
            )
        begin = time.perf_counter()
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in self._scores(data).items()}
        metrics[f"{metric_key_prefix}_runtime"] = round(time.perf_counter() - begin, 4)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _scores(self, data: Any) -> dict[str, float]:
        model = cast(nn.Module, self.accelerator.unwrap_model(cast(nn.Module, self.model)))
        results = meta_test(
            model,
            data,
            n_way=self.shape.n_way,
            k_shot=self.shape.k_shot,
            queries=self.shape.queries,
            episodes=self.eval_episodes,
            seed=self.eval_seed,
            parameters=self.adapted,
            inner_steps=self.inner_steps,
            inner_lr=self.inner_lr,
            rates=None if self._rates is None else self._rates.by_name(),
            data_collator=self.data_collator,
            batch_size=self.args.per_device_eval_batch_size,
            rank=self.args.process_index,
            ranks=self.args.world_size,
        )
        return results.over_ranks(self.accelerator).metrics()
