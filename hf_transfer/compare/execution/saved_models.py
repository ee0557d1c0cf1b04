"""What a strategy made, written into a folder as an ordinary model or adapter with the facts for its card."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hf_transfer.compare.strategies.strategy import Fitted
from hf_transfer.model_card.facts import RunFacts
from hf_transfer.model_card.naming import public_name
from hf_transfer.model_card.recipes import keep_facts
from hf_transfer.model_card.storage import save_facts


if TYPE_CHECKING:
    from hf_transfer.compare.problem.setup import Setup

__all__ = ["save_fitted"]


def save_fitted(
    fitted: Fitted,
    setup: Setup,
    folder: str | os.PathLike[str],
    *,
    method: str | None = None,
    scores: Mapping[str, float | None] | None = None,
) -> Path:
    """
    Save the model or adapter that a strategy made, its processor, and the facts of its run.

    Args:
        fitted (`Fitted`): with a model.
        setup (`Setup`): of the run.
        folder (`str` or path): where to; made if there is none.
        method (`str`, *optional*): name of the strategy.
        scores (`Mapping[str, float | None]`, *optional*): by split and metric, for the card.

    Returns:
        `Path`: the folder.

    Raises:
        TypeError: if the model cannot be saved in the way of transformers.
    """
    folder, model = Path(folder), cast(Any, fitted.model)
    folder.mkdir(parents=True, exist_ok=True)
    trainer: Any = fitted.trainer
    if trainer is not None and trainer.model is model:
        facts = getattr(trainer, "facts", None) or RunFacts()
        trainer.facts = _complete(facts, setup, method, scores)
        before = trainer.args.output_dir
        trainer.args.output_dir = str(folder)  # cards and facts go where the arguments say
        try:
            trainer.save_model(_internal_call=True)  # without a push
            keep_facts(trainer)
        finally:
            trainer.args.output_dir = before
        return folder
    if not hasattr(model, "save_pretrained"):
        raise TypeError(
            f"`{type(model).__name__}` has no `save_pretrained`: it could not be saved if it won. Let `fit` of the "
            "strategy return a model of transformers, or one under PEFT."
        )
    if hasattr(model, "peft_config"):
        from hf_transfer.adapters.saving import save_adapter

        save_adapter(model, folder, processor=setup.processor)
    else:
        model.save_pretrained(str(folder))
        setup.processor.save_pretrained(str(folder))
    facts = _complete(RunFacts(), setup, method, scores)
    facts.trained_parameters = fitted.trained_parameters
    facts.base_model, facts.base_hub_id, facts.base_revision = public_name(setup.base.name)
    save_facts(facts, folder)
    return folder


def _complete(
    facts: RunFacts, setup: Setup, method: str | None, scores: Mapping[str, float | None] | None
) -> RunFacts:
    """The facts with what the comparison knows; what the strategy told stays."""
    problem = setup.problem
    facts.task = facts.task or problem.task
    facts.label_names = facts.label_names or list(problem.label_names)
    facts.inputs = facts.inputs or list(problem.data.input_columns)
    facts.method, facts.seeds = facts.method or method, facts.seeds or [setup.seed]
    facts.add_scores(scores or {})
    return facts
