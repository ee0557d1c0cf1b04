"""The end of a recipe: what is saved stays, and the push comes last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from transformers import Trainer

__all__ = ["push_result"]


def push_result(trainer: Trainer, **card: Any) -> None:
    """
    Push the result of a recipe if `--push_to_hub` asks for it, once everything else is done and written.

    Args:
        trainer (`Trainer`): of the run.
        **card: for `create_model_card`.

    Raises:
        SystemExit: if the push fails. The process then ends with status 1 and the message, which names the folder that
            holds everything and the command that pushes it: scripts notice, and nothing is lost.
    """
    if not trainer.args.push_to_hub:
        return
    try:
        trainer.push_to_hub(**card)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
