"""Training on base classes: of prototypes in episodes, or of an initialisation that adapts to new classes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader

from hf_transfer.features import head_features
from hf_transfer.few_shot.arguments import FewShotArguments, FewShotLoopArguments
from hf_transfer.few_shot.evaluation import evaluate_few_shot
from hf_transfer.few_shot.methods import META, REFERENCE
from hf_transfer.meta.rates import InnerRates
from hf_transfer.meta.testing import meta_test
from hf_transfer.meta.trainer import MetaTrainer
from hf_transfer.model_card.recipes import keep_facts
from hf_transfer.objectives.few_shot.prototypical_episodes import PrototypicalEpisodes
from hf_transfer.trainer import TransferTrainer


ON_ITS_FEATURES = "+nearest_mean"
"""After the name of a meta-learner: the nearest class mean on its features, without any inner step."""

ALGORITHMS = {"mtl": "anil"}
"""What a method of another name is for `MetaTrainer`: only the head adapts, and scale and shift are learned."""

"""Rate of the inner steps for a head, with or without an adapter, and for whole networks, as in the papers."""

__all__ = ["ON_ITS_FEATURES", "EpisodicRun", "default_temperature"]


def default_temperature(features: np.ndarray, distance: str) -> float:
    """
    By what distances between pretrained features are divided, so that training does not start sure of itself: 0.1 for
    cosines, else a tenth of their mean squared distance.

    Example:
        >>> default_temperature(np.array([[0.0], [10.0]]), "squared_euclidean")
        5.0
    """
    if distance == "cosine":
        return 0.1
    table = np.asarray(features, dtype=np.float64)
    mean = 2 * float(np.square(table - table.mean(0)).sum(1).mean())
    return mean / 10 or 1.0


@dataclass(frozen=True)
class EpisodicRun:
    """
    One run: a method trained on base classes, then tested on episodes of novel ones.

    Args:
        method (`str`): its name.
        recipe (`FewShotArguments`): episodes of training and test.
        base (`datasets.Dataset`): prepared rows of the base classes.
        novel (`datasets.Dataset`): prepared rows of the novel classes.
        collate (`Callable`): makes batches of either.
        temperature (`float`): of the distances of prototypes.
        seed (`int`): of the test episodes.
    """

    method: str
    recipe: FewShotArguments
    base: Dataset
    novel: Dataset
    collate: Any
    temperature: float
    seed: int

    def trainer(self, model: nn.Module, processor: Any, args: FewShotLoopArguments) -> TransferTrainer:
        """The trainer of the run; `args`, with folder and seed of their own, are changed."""
        recipe = self.recipe
        args.without_validation()
        parts = args.world_size * args.gradient_accumulation_steps
        if recipe.episodes_per_step % parts:
            raise ValueError(
                f"`--episodes_per_step {recipe.episodes_per_step}` with {args.world_size} ranks and "
                f"{args.gradient_accumulation_steps} micro-batches a step: an episode would be torn apart. Give a "
                f"multiple of {parts}."
            )
        args.per_device_train_batch_size = recipe.episode_rows(self.method) * (recipe.episodes_per_step // parts)
        shared: dict[str, Any] = {
            "train_dataset": self.base,
            "processing_class": processor,
            "data_collator": self.collate,
        }
        shape: dict[str, Any] = {
            "n_way": recipe.ways(self.method),
            "k_shot": recipe.shots,
            "queries": recipe.train_queries,
        }
        if self.method not in META:
            distance: Any = recipe.distance
            objective = PrototypicalEpisodes(**shape, distance=distance, temperature=self.temperature)
            return TransferTrainer(model, args, objectives=[objective], **shared)
        return MetaTrainer(
            model,
            args,
            algorithm=ALGORITHMS.get(self.method, self.method),
            parameters=self.parameters(model),
            inner_steps=recipe.inner_steps,
            inner_lr=recipe.inner_lr,
            episodes_per_step=recipe.episodes_per_step,
            **shape,
            **shared,
        )

    def parameters(self, model: nn.Module) -> str:
        """What a meta-learner learns."""
        if self.method == "mtl":
            return "scale_shift"
        return self.recipe.meta_parameters or ("lora" if hasattr(model, "peft_config") else "all")

    def train(self, trainer: TransferTrainer) -> tuple[dict[str, dict[int, np.ndarray]], float]:
        """
        Train, save and test.

        Returns:
            by method and number of shots the accuracy in each episode, and the seconds it took.
        """
        started = time.perf_counter()
        result = trainer.train()
        trainer.save_metrics("train", result.metrics)
        found = self.tested(trainer)
        seconds = time.perf_counter() - started
        trainer.save_model()
        keep_facts(trainer)
        return found, seconds

    def tested(self, trainer: TransferTrainer) -> dict[str, dict[int, np.ndarray]]:
        """The accuracy in each episode of the novel classes, by method and number of shots."""
        args: Any = trainer.args
        model: Any = trainer.model
        rows: Any = self.novel
        batches = DataLoader(rows, args.per_device_eval_batch_size, collate_fn=self.collate)
        features, labels = head_features(model, batches)
        found: dict[str, dict[int, np.ndarray]] = {}
        meta = isinstance(trainer, MetaTrainer)
        name = f"{self.method}{ON_ITS_FEATURES}" if meta else self.method
        by_mean = REFERENCE if meta or self.recipe.distance == "cosine" else "prototypes"
        for k in self.recipe.k_shot:
            own = evaluate_few_shot(features, labels, methods=[by_mean], k_shot=k, **self._episodes)
            if isinstance(trainer, MetaTrainer):
                found.setdefault(self.method, {})[k] = self._adapted(trainer, k)
            found.setdefault(name, {})[k] = own.accuracies[0]
        return found

    @property
    def _episodes(self) -> dict[str, Any]:
        recipe = self.recipe
        return {"n_way": recipe.n_way, "queries": recipe.queries, "episodes": recipe.episodes, "seed": self.seed}

    def _adapted(self, trainer: MetaTrainer, k_shot: int) -> np.ndarray:
        """The accuracy in each episode after the inner steps."""
        learned = [own for own in trainer.objectives.values() if isinstance(own, InnerRates)]  # by Meta-SGD
        results = meta_test(
            trainer.accelerator.unwrap_model(cast(nn.Module, trainer.model)),
            self.novel,
            k_shot=k_shot,
            parameters=trainer.adapted,
            inner_steps=trainer.inner_steps,
            inner_lr=trainer.inner_lr,
            rates=learned[0].by_name() if learned else None,
            data_collator=self.collate,
            batch_size=trainer.args.per_device_eval_batch_size,
            rank=trainer.args.process_index,
            ranks=trainer.args.world_size,
            **self._episodes,
        )
        return results.over_ranks(trainer.accelerator).accuracies
