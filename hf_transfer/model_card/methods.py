"""Objectives and callbacks in the words of a card: what each is, its settings, the loss as a formula, the papers."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

from hf_transfer.model_card.facts import Term
from hf_transfer.model_card.naming import shown
from hf_transfer.objective import Objective, Objectives, TaskTerm


__all__ = ["about", "formula", "paper_of", "settings_of", "terms_of"]


def about(made: Any) -> str:
    """
    The first sentence of the documentation of an object's class.

    Example:
        >>> from hf_transfer import DeepCORAL
        >>> about(DeepCORAL())
        'Correlation alignment (Deep CORAL): make the covariances of the features of the domains equal.'
    """
    documentation = inspect.getdoc(type(made)) if type(made).__doc__ else None  # not that of a parent
    return " ".join((documentation or "").split("\n\n")[0].split())


def paper_of(made: Any) -> str:
    """The paper that the documentation of an object's class names after `Paper:`; empty if none."""
    found = re.search(r"^Paper: (.*)$", inspect.getdoc(type(made)) or "", flags=re.MULTILINE)
    return found.group(1).strip() if found else ""


def settings_of(made: Any) -> dict[str, str]:
    """The options of an object's constructor that it keeps under their own names."""
    parameters = inspect.signature(type(made).__init__).parameters.values()
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = [parameter.name for parameter in parameters if parameter.name != "self" and parameter.kind not in kinds]
    return {name: shown(getattr(made, name)) for name in names if hasattr(made, name)}


def terms_of(objectives: Objectives) -> list[Term]:
    """Every objective as a card lists it."""
    return [_term(name, objective) for name, objective in objectives.by_name.items()]


def _term(name: str, objective: Objective) -> Term:
    settings: Mapping[str, Any] = objective.config()
    return Term(
        name=name,
        method=type(objective).__name__,
        weight="" if isinstance(objective, TaskTerm) else shown(objective.weight),
        settings={key: shown(value) for key, value in settings.items() if key != "weight"},
        about=about(objective),
        paper=objective.paper,
        replaces=objective.replaces_task_loss,
    )


def formula(terms: Iterable[Term], *, task: str = "") -> str:
    """
    The loss, as [`Objectives`] prints it, and what the task loss is where that is known.

    Example:
        >>> formula([], task="cross-entropy")
        'loss = cross-entropy'
        >>> formula([Term("l2sp", "L2SP", "0.01"), Term("focal_loss", "FocalLoss"), Term("dann", "DANN", "1")])
        'loss = focal_loss(task) + 0.01 * l2sp + dann'
        >>> formula([Term("l2sp", "L2SP", "0.01"), Term("multi_task", "MultiTask", "1", replaces=True)], task="none")
        'loss = 0.01 * l2sp + multi_task'
    """
    terms = list(terms)
    if task and not terms:
        return f"loss = {task}"
    inner, summands = "task", []
    for term in terms:
        if not term.weight:
            inner = f"{term.name}({inner})"
        else:
            summands.append(term.name if term.weight in ("1", "1.0") else f"{term.weight} * {term.name}")
    if any(term.replaces for term in terms):
        return "loss = " + " + ".join(summands)
    return "loss = " + " + ".join([inner, *summands]) + (f"\ntask = {task}" if task else "")
