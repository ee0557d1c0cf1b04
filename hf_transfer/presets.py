"""Named trainers: `TransferTrainer` with the objectives and callbacks of one way to transfer, and no logic."""

from __future__ import annotations

import os

from torch import nn
from transformers import PreTrainedModel, TrainingArguments
from typing_extensions import Unpack

from hf_transfer.callbacks import GradualUnfreezing
from hf_transfer.objectives import L2SP, DomainAdversarial, LogitDistillation
from hf_transfer.teacher import Teacher
from hf_transfer.trainer import TransferTrainer
from hf_transfer.trainer_kwargs import TransferTrainerKwargs


class FineTuningTrainer(TransferTrainer):
    """
    Fine-tuning that keeps what the source model knew: gradual unfreezing and a pull to the pretrained weights.

    Args:
        stages (`int`, *optional*, defaults to 4):
            Stages of `GradualUnfreezing`, the head first; 1 trains everything throughout.
        l2sp (`float`, *optional*, defaults to 0.01):
            Weight of `L2SP` (dimensionless); 0 leaves it out.
        **kwargs:
            As for [`TransferTrainer`]; `objectives` and `callbacks` are added to these.
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: TrainingArguments | None = None,
        *,
        stages: int = 4,
        l2sp: float = 0.01,
        **kwargs: Unpack[TransferTrainerKwargs],
    ):
        kwargs["objectives"] = [*kwargs.get("objectives", ()), *([L2SP(weight=l2sp)] if l2sp else ())]
        kwargs["callbacks"] = [
            *(kwargs.get("callbacks") or ()),
            *([GradualUnfreezing(stages=stages)] if stages > 1 else ()),
        ]
        super().__init__(model, args, **kwargs)


class DistillationTrainer(TransferTrainer):
    """
    Distillation (KD): learn the labels and the softened predictions of a teacher.

    Args:
        teacher (`Teacher`, `nn.Module`, `str` or path):
            Whose predictions; as for [`LogitDistillation`].
        temperature (`float`, *optional*, defaults to 2.0):
            Of teacher and student (dimensionless).
        weight (`float`, *optional*, defaults to 1.0):
            Weight of [`LogitDistillation`] beside the labels' of 1 (dimensionless). A sum with the labels weighted
            `a` and the teacher `1 - a` has the same optimum as `weight=(1 - a) / a`.
        **kwargs:
            As for [`TransferTrainer`]; `objectives` are added to these.
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: TrainingArguments | None = None,
        *,
        teacher: Teacher | nn.Module | str | os.PathLike[str],
        temperature: float = 2.0,
        weight: float = 1.0,
        **kwargs: Unpack[TransferTrainerKwargs],
    ):
        distillation = LogitDistillation(teacher, temperature=temperature, weight=weight)
        kwargs["objectives"] = [distillation, *kwargs.get("objectives", ())]
        super().__init__(model, args, **kwargs)


class DomainAdversarialTrainer(TransferTrainer):
    """
    Domain-adversarial training (DANN) on the data set that `mix_domains(source, target)` makes.

    Args:
        num_domains (`int`, *optional*, defaults to 2):
            Number of values the `domain` column may take.
        weight (`float`, *optional*, defaults to 1.0):
            Weight of [`DomainAdversarial`] (dimensionless).
        **kwargs:
            As for [`TransferTrainer`]; `objectives` are added to these.
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: TrainingArguments | None = None,
        *,
        num_domains: int = 2,
        weight: float = 1.0,
        **kwargs: Unpack[TransferTrainerKwargs],
    ):
        adversary = DomainAdversarial(num_domains=num_domains, weight=weight)
        kwargs["objectives"] = [adversary, *kwargs.get("objectives", ())]
        super().__init__(model, args, **kwargs)
