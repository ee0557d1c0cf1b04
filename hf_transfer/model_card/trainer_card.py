"""The card that a `Trainer` writes into its output folder, from the arguments of `Trainer.create_model_card`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from transformers import Trainer

from hf_transfer.model_card.facts import DataFacts, RunFacts


__all__ = ["create_card"]


def create_card(
    trainer: Trainer,
    language: str | Sequence[str] | None = None,
    license: str | None = None,
    tags: str | Sequence[str] | None = None,
    model_name: str | None = None,
    finetuned_from: str | None = None,
    tasks: str | Sequence[str] | None = None,
    dataset_tags: str | Sequence[str] | None = None,
    dataset: str | Sequence[str] | None = None,
    dataset_args: str | Sequence[str] | None = None,
) -> None:
    """
    Write README.md into `args.output_dir` of a trainer, on the first rank alone.

    What is given wins over `trainer.facts`, and these over what is read off the trainer.

    Args:
        trainer (`Trainer`): any; a `TransferTrainer` has `facts`.
        language, license, tags, model_name, finetuned_from, tasks, dataset_tags, dataset, dataset_args:
            As for `Trainer.create_model_card`.
    """
    if not trainer.is_world_process_zero():
        return
    # now and not above: the trainer module imports this one, and what reads a trainer imports callbacks
    from hf_transfer.model_card.reading import read_run
    from hf_transfer.model_card.writing import write_card

    facts: RunFacts = replace(getattr(trainer, "facts", None) or RunFacts())
    given: dict[str, Any] = {
        "language": _listed(language),
        "license": license,
        "model_name": model_name,
        "base_model": finetuned_from,
        "task": next(iter(_listed(tasks)), None),
    }
    facts = replace(facts, **{name: value for name, value in given.items() if value})
    facts.tags = list(dict.fromkeys([*facts.tags, *_listed(tags)]))
    if (dataset or dataset_tags) and not facts.data:
        ids, configs = _listed(dataset_tags), _listed(dataset_args)
        for number, name in enumerate(_listed(dataset) or ids):
            config = configs[number] if number < len(configs) else None
            facts.data = [
                *facts.data,
                DataFacts(name, hub_id=ids[number] if number < len(ids) else None, config=config),
            ]
    write_card(read_run(trainer, facts), str(trainer.args.output_dir))


def _listed(value: str | Sequence[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())
