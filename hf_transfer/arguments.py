"""`TransferArguments`: the options of the training loop that `TrainingArguments` has not."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments


@dataclass(repr=False)  # the parent's masks the token
class TransferArguments(TrainingArguments):
    """
    `TrainingArguments` with a learning rate for each part of the model.

    `learning_rate` is the rate of whatever no option below names. Every rate becomes the `lr` of an optimizer group of
    its own, so each follows the scheduler in proportion. Hyper-parameters of a method belong to its objective.
    """

    head_lr: float | None = field(
        default=None,
        metadata={
            "help": "Learning rate of the head; by default `learning_rate`. A new head usually wants 10 times as much."
        },
    )
    objective_lr: float | None = field(
        default=None,
        metadata={
            "help": "Learning rate of the objectives' own parameters, such as a discriminator; by default that of the "
            "head."
        },
    )
    layer_decay: float = field(
        default=1.0,
        metadata={
            "help": "Factor in (0, 1] by which the learning rate falls from each block to the one below it; the "
            "topmost block gets `learning_rate * layer_decay`, the embeddings the least."
        },
    )
    learning_rates: dict[str, float] | str | None = field(
        default=None,
        metadata={
            "help": "Learning rates by name, before all other options: a part of the model (head, neck, block.3, "
            'block.0-5, embeddings) or a pattern over parameter names such as "*.attention.*". JSON on the command '
            "line. A later entry wins over an earlier one; one that matches nothing is an error."
        },
    )

    def __post_init__(self):
        if isinstance(self.learning_rates, str):
            self.learning_rates = _parsed(self.learning_rates)
        super().__post_init__()
        if not 0 < self.layer_decay <= 1:
            raise ValueError(
                f"`layer_decay={self.layer_decay}` is outside (0, 1]: lower blocks would learn faster than upper ones "
                "or backwards. Give a factor such as 0.75, or 1.0 for none."
            )
        # YAML reads 1e-3, without a point, as text.
        by_name = {name: float(rate) for name, rate in dict(self.learning_rates or {}).items()}
        self.learning_rates = by_name or None
        own = {"learning_rate": self.learning_rate, "head_lr": self.head_lr, "objective_lr": self.objective_lr}
        rates = {**own, **by_name}
        for name, rate in rates.items():
            if rate is not None and rate < 0:
                raise ValueError(
                    f"The learning rate {rate} of `{name}` is negative: it would climb the loss. Give zero (the part "
                    "stays as it is) or a positive rate."
                )

    def __getstate__(self) -> dict[str, Any]:
        # `Trainer` pickles its arguments into `training_args.bin` beside the model (transformers 5.23) and pushes
        # that.
        return {**self.__dict__, "hub_token": None}

    @property
    def rates_by_part(self) -> dict[str, Any]:
        """The options of `hf_transfer.optim.learning_rates`; empty where every parameter has the same rate."""
        if self.layer_decay == 1 and not self.learning_rates and self.head_lr is None and self.objective_lr is None:
            return {}
        return {
            "base": self.learning_rate,
            "head": self.head_lr,
            "objective": self.objective_lr,
            "layer_decay": self.layer_decay,
            "by_name": self.learning_rates,
        }


def _parsed(rates: str) -> dict[str, float]:
    try:
        return dict(json.loads(rates))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`--learning_rates {rates}` is no JSON object ({error}): the rates would be lost. Write it as "
            """'{"head": 1e-3}', with double quotes inside and single quotes around."""
        ) from error
