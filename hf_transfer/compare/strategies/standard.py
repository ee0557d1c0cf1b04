"""The strategies that a comparison runs unless others are named."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from hf_transfer.anatomy import anatomy
from hf_transfer.callbacks import FreezeBatchNorm, GradualUnfreezing
from hf_transfer.compare.methods import nearest
from hf_transfer.compare.strategies.baselines import Majority
from hf_transfer.compare.strategies.fine_tune import FineTune
from hf_transfer.compare.strategies.probing import LinearProbe
from hf_transfer.compare.strategies.strategy import Strategy
from hf_transfer.norms import has_statistics
from hf_transfer.objectives import L2SP, DeepCORAL, DomainAdversarial, LogitDistillation


if TYPE_CHECKING:
    from hf_transfer.compare.problem.problem import Problem
    from hf_transfer.compare.problem.setup import Setup
    from hf_transfer.objective import Objective

STAGES = 4
"""Of gradual unfreezing, as many as `finetune.py --freeze gradual` has."""
LAYER_DECAY = 0.75
"""How much slower each block learns than the one above it. ULMFiT has 1 / 2.6 for three layers, which would leave
nothing for the lower ones of twelve; ELECTRA and BEiT fine-tune with 0.65 to 0.9."""
PULL = 0.01
"""Weight of L2-SP, as the recipes suggest it; one of those that the paper tries."""

__all__ = ["LAYER_DECAY", "PULL", "STAGES", "STANDARD", "strategies_for"]


def _frozen_statistics(setup: Setup) -> list[FreezeBatchNorm]:
    return [FreezeBatchNorm()]


def _statistics_of_the_probe(setup: Setup) -> list[FreezeBatchNorm]:
    # The head was fitted to features that are normalised by the pretrained statistics. With those of small batches it
    # is lost in the first steps: MobileNetV2 on flowers goes from 0.53 to chance at any rate.
    return [FreezeBatchNorm()] if any(map(has_statistics, setup.base.model.modules())) else []


def _gradual(setup: Setup) -> list[GradualUnfreezing]:
    blocks = len(anatomy(setup.base.model).blocks)
    return [GradualUnfreezing(stages=max(2, min(STAGES, blocks + 1)))]


def _l2sp(setup: Setup) -> list[Objective]:
    return [L2SP(weight=PULL)]


def _distillation(setup: Setup) -> list[Objective]:
    assert setup.teacher is not None  # `FineTune.trainer` saw to it
    return [LogitDistillation(setup.teacher)]  # temperature 2, weight 1: `kd` of recipes/distillation.py


def _dann(setup: Setup) -> list[Objective]:
    # Reversal that grows from 0 to 1. On the Amazon reviews the adversary of weight 1 wins before the task is learned,
    # and all ends at chance.
    return [DomainAdversarial(weight=1.0 if "image" in setup.problem.data.input_columns else 0.1)]


def _coral(setup: Setup) -> list[Objective]:
    return [DeepCORAL()]


_ALL: tuple[Strategy, ...] = (
    Majority(
        name="majority",
        title="Majority class",
        about="Always answers the most frequent class: what can be had without looking at the input.",
        baseline=True,
    ),
    FineTune(
        name="scratch",
        title="From scratch",
        about="Trains the same architecture from random weights: what can be had without transfer.",
        start="scratch",
        baseline=True,
    ),
    LinearProbe(
        name="probe",
        title="Probe",
        about="Keeps the pretrained model as it is and fits a linear classifier to what it computes.",
    ),
    FineTune(
        name="full",
        title="Full fine-tuning",
        about="Trains all weights of the pretrained model, the new head faster than the rest.",
    ),
    FineTune(
        name="frozen_bn",
        title="Frozen batch norm",
        about="Trains all weights but normalises by the statistics of the pretrained model, not of small batches.",
        callbacks=_frozen_statistics,
        needs=frozenset({"batch_norm"}),
        rate="fixed_statistics",
    ),
    FineTune(
        name="gradual",
        title="Gradual unfreezing",
        about="Trains the head first and thaws the layers below it in stages, the lower ones with smaller steps.",
        options={"layer_decay": LAYER_DECAY},
        callbacks=_gradual,
        paper="https://huggingface.co/papers/1801.06146",
    ),
    FineTune(
        name="l2sp",
        title="L2-SP",
        about="Trains all weights and pulls them back towards the pretrained ones.",
        objectives=_l2sp,
        paper="https://huggingface.co/papers/1802.01483",
    ),
    FineTune(
        name="lora",
        title="LoRA",
        about="Leaves the pretrained weights alone and trains small matrices beside them, and the head.",
        adapter={"method": "lora"},  # rank 8, in all layers of the blocks: the defaults of `add_adapter`
        paper="https://huggingface.co/papers/2106.09685",
    ),
    FineTune(
        name="lp_ft",
        title="Probe, then fine-tuning",
        about="Starts with the head that the probe found and then trains all weights.",
        start="probe",
        callbacks=_statistics_of_the_probe,
        paper="https://huggingface.co/papers/2202.10054",
    ),
    FineTune(
        name="distillation",
        title="Distillation",
        about="Trains all weights on the labels and on what a teacher says of every row.",
        objectives=_distillation,
        needs=frozenset({"teacher"}),
        paper="https://huggingface.co/papers/1503.02531",
    ),
    FineTune(
        name="dann",
        title="Domain-adversarial",
        about="Trains all weights so that the two domains cannot be told apart; sees target rows without labels.",
        objectives=_dann,
        mixed=True,
        paper="https://huggingface.co/papers/1505.07818",
    ),
    FineTune(
        name="coral",
        title="Correlation alignment",
        about="Trains all weights so that features vary alike in both domains; sees target rows without labels.",
        objectives=_coral,
        mixed=True,
        paper="https://huggingface.co/papers/1607.01719",
    ),
)

STANDARD: dict[str, Strategy] = {strategy.name: strategy for strategy in _ALL}
"""
The strategies that a comparison knows by name, in the order of its table.

Of the two discrepancies CORAL and MMD it has CORAL. At its default weight that raised the accuracy on the target in
each of the four shifts it was measured on: mnist to usps .421 to .724, back .398 to .732, mnist to photographs .306 to
.395, foggy flowers .220 to .428. MMD gained more where the shift is mild (.847 and .868 on the first two), but on
photographs its gain could not be told from none. It is `FineTune(name="mmd", mixed=True, objectives=lambda setup:
[MaximumMeanDiscrepancy()])`.
"""


def strategies_for(problem: Problem, words: Iterable[str | Strategy] | None = None) -> list[Strategy]:
    """
    The strategies of a comparison.

    Args:
        problem (`Problem`): tells whether there are a teacher and a target.
        words (`Iterable[str | Strategy]`, *optional*): names of [`STANDARD`], `standard` for all of them whose needs
            are met, and strategies of your own. By default `standard`. What is named twice is run once.

    Raises:
        ValueError: if a name is unknown, two strategies share one, something that is named lacks what it needs, or
            nothing is left.

    Example:
        >>> from types import SimpleNamespace
        >>> problem = SimpleNamespace(teacher=None, target=None)
        >>> [strategy.name for strategy in strategies_for(problem)]
        ['majority', 'scratch', 'probe', 'full', 'gradual', 'l2sp', 'lora', 'lp_ft']
        >>> mine = FineTune(name="slow", options={"warmup_steps": 0.5})
        >>> [strategy.name for strategy in strategies_for(problem, ["full", mine])]
        ['full', 'slow']
    """
    found: dict[str, Strategy] = {}
    for word in ["standard"] if words is None else words:
        for strategy in _meant(word, problem):
            if found.setdefault(strategy.name, strategy) is not strategy:
                raise ValueError(
                    f"Two different strategies are called `{strategy.name}`: their runs would share a folder and a "
                    "row of the table. Give yours another name."
                )
    if not found:
        raise ValueError(
            f"No strategy is named: there is nothing to compare. Choose from {', '.join(STANDARD)}, or leave it to "
            "the default."
        )
    return list(found.values())


def _meant(word: str | Strategy, problem: Problem) -> list[Strategy]:
    if word == "standard":
        return [strategy for strategy in STANDARD.values() if not _missing(strategy, problem)]
    if isinstance(word, str) and word not in STANDARD:
        raise ValueError(
            f"`{word}` is no strategy: nothing would be trained by it. {nearest(word, (*STANDARD, 'standard'))}"
        )
    strategy = STANDARD[word] if isinstance(word, str) else word
    missing = _missing(strategy, problem)
    if missing == ["batch_norm"]:
        raise ValueError(
            f"The strategy `{strategy.name}` is about batch normalisation, which no model here has: it would be full "
            "fine-tuning. Leave it out."
        )
    if missing:
        raise ValueError(
            f"The strategy `{strategy.name}` needs a {missing[0]}, and none is given: it would have nothing to learn "
            f"from. Give one ({_GIVEN.get(missing[0], missing[0])}), or leave the strategy out."
        )
    return [strategy]


_GIVEN = {"teacher": "`--teacher`", "target": "`--target_dataset`"}


def _missing(strategy: Strategy, problem: Problem) -> list[str]:
    return [need for need in sorted(strategy.needs) if getattr(problem, need, None) is None]
