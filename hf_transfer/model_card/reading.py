"""`read_run`: the facts of a run, read off the trainer where nobody has given them."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, try_to_load_from_cache
from torch import nn
from transformers import Trainer
from transformers.models.auto import modeling_auto

from hf_transfer.attach import CHILD
from hf_transfer.model_card.adapters import adapter_papers, adapter_settings
from hf_transfer.model_card.environment import device_name, emissions, seconds_of_training, versions
from hf_transfer.model_card.facts import DataFacts, RunFacts
from hf_transfer.model_card.hyperparameters import hyperparameters
from hf_transfer.model_card.methods import formula, paper_of, terms_of
from hf_transfer.model_card.naming import is_user_name, public_name
from hf_transfer.model_card.parameters import count
from hf_transfer.model_card.strategy import adapter_of, freezing_of, method_callbacks, strategy, trained_parameters
from hf_transfer.norms import has_statistics
from hf_transfer.objective import Objectives


_TASKS = {
    "image-classification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "text-classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "token-classification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "audio-classification": "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
}
_FILES = ("csv", "json", "pandas", "parquet", "text", "generator", "imagefolder", "arrow")
"""Builders of `datasets` that read files and tell nothing of whose they are."""
_DEFAULT_INPUTS = {"image-classification": "image", "audio-classification": "audio", "token-classification": "tokens"}

__all__ = ["data_from", "read_run"]


def read_run(trainer: Trainer, facts: RunFacts | None = None) -> RunFacts:
    """
    The facts of a run: those that are given, completed by what can be read off the trainer.

    Args:
        trainer (`Trainer`): any, before or after training; with the objectives still attached, if there are any.
        facts (`RunFacts`, *optional*): what is known better; by default `trainer.facts`. If they are complete, nothing
            is read.

    Returns:
        `RunFacts`: new ones; those given are left alone.
    """
    known: RunFacts = facts or getattr(trainer, "facts", None) or RunFacts()
    if known.complete:
        name, repo_id = known.model_name or _title(trainer), known.repo_id or _repo_id(trainer)
        return replace(known, model_name=name, repo_id=repo_id)
    found = _found(trainer, known)
    given = {own.name: getattr(known, own.name) for own in fields(RunFacts)}
    kept = {name: value for name, value in given.items() if value not in (None, [], {})}
    facts = RunFacts(**{**found, **kept, "complete": True})
    facts.papers = list(dict.fromkeys([*found["papers"], *known.papers]))
    facts.strategy = [*found["strategy"], *known.strategy]
    facts.hyperparameters = {**found["hyperparameters"], **known.hyperparameters}
    if not facts.scores:
        facts.add_scores(_logged(trainer))
    return facts


def _found(trainer: Trainer, known: RunFacts) -> dict[str, Any]:
    model = _plain(trainer)
    base, hub_id, revision = _base(model, known, trainer)
    config = adapter_of(model)
    callbacks = trainer.callback_handler.callbacks
    schedule = freezing_of(callbacks)
    objectives = getattr(model, CHILD, None)
    terms = terms_of(objectives) if isinstance(objectives, Objectives) else []
    used = [own for own in (schedule, *method_callbacks(callbacks)) if own is not None]
    papers = [*(adapter_papers(config) if config is not None else []), *map(paper_of, used)]
    own_config = getattr(model, "config", None)
    task = known.task or _task(model)
    args = trainer.args
    trained = trainer.state.global_step > 0  # else it only saves what was trained elsewhere
    library = "peft" if config is not None else "transformers"
    license, language = _inherited(base, hub_id, revision, model)
    return {
        "model_name": _title(trainer),
        "repo_id": _repo_id(trainer),
        "base_model": base,
        "base_hub_id": hub_id,
        "base_revision": revision,
        "relation": "adapter" if config is not None else "finetune" if base else None,
        "library": library,
        "task": task,
        "model_class": type(_inside(model)).__name__,
        "processor": type(trainer.processing_class).__name__ if trainer.processing_class is not None else None,
        "parameters": count(model),
        "trained_parameters": trained_parameters(model, schedule) if trained else None,
        "running_statistics": any(has_statistics(module) for module in model.modules()),
        "label_names": _label_names(own_config),
        "inputs": [_DEFAULT_INPUTS.get(task or "", "text")] if task else [],
        "strategy": strategy(trainer, model, base),
        "formula": formula(terms, task=_task_loss(own_config)) if trained else None,
        "terms": terms,
        "unfreezing": schedule.summary(model, learning_rate=args.learning_rate) if schedule else None,
        "adapters": adapter_settings(config) if config is not None else {},
        "hyperparameters": hyperparameters(args, trainer.state) if trained else {},
        "data": data_from(trainer),
        "seeds": [args.seed] if trained else [],
        "papers": list(dict.fromkeys(paper for paper in (*papers, *(term.paper for term in terms)) if paper)),
        "seconds": seconds_of_training(trainer.state.log_history),
        "device": device_name(args) if trained else None,
        "emissions_kg": emissions(trainer),
        "versions": versions(with_peft=config is not None),
        "license": license,
        "language": language,
    }


def _plain(trainer: Trainer) -> nn.Module:
    return trainer.accelerator.unwrap_model(trainer.model)


def _inside(model: Any) -> nn.Module:
    """The model of transformers inside a PEFT model."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _repo_id(trainer: Trainer) -> str | None:
    return getattr(trainer, "hub_model_id", None) or trainer.args.hub_model_id


def _title(trainer: Trainer) -> str | None:
    hub_id = _repo_id(trainer)
    name = str(hub_id).split("/")[-1] if hub_id else Path(str(trainer.args.output_dir)).resolve().name
    return None if is_user_name(name) else name


def _base(model: Any, known: RunFacts, trainer: Trainer) -> tuple[str | None, str | None, str | None]:
    """Name, Hub id and commit of what the weights come from; three times `None` for a model from scratch."""
    if known.base_model is not None:
        name, hub_id, commit = public_name(known.base_model)
        return name, known.base_hub_id or hub_id, known.base_revision or commit
    config = getattr(_inside(model), "config", None)
    adapter = adapter_of(model)
    source = getattr(adapter, "base_model_name_or_path", None) or getattr(config, "_name_or_path", None)
    if source and Path(str(source)).exists() and _same(source, trainer.args.output_dir):
        return None, None, None  # saved and loaded again: its own folder is no base
    name, hub_id, commit = public_name(source)
    commit = commit or getattr(adapter, "revision", None) or getattr(config, "_commit_hash", None)
    return name, hub_id, commit if hub_id else None


def _same(first: Any, second: Any) -> bool:
    return Path(str(first)).resolve() == Path(str(second)).resolve()


def _task(model: nn.Module) -> str | None:
    name = type(_inside(model)).__name__
    for task, mapping in _TASKS.items():
        if name in getattr(modeling_auto, mapping).values():
            return task
    return None


def _label_names(config: Any) -> list[str]:
    names = getattr(config, "id2label", None) or {}
    if getattr(config, "problem_type", None) == "regression" or len(names) < 2:
        return []
    return [str(names[number]) for number in sorted(names)]


def _task_loss(config: Any) -> str:
    problem = getattr(config, "problem_type", None)
    if problem == "regression" or getattr(config, "num_labels", None) == 1:
        return "mean squared error"
    return "binary cross-entropy of each label" if problem == "multi_label_classification" else "cross-entropy"


def _logged(trainer: Trainer) -> dict[str, Any]:
    """The last evaluation of the log; where the best checkpoint was loaded, that one's."""
    history = [entry for entry in trainer.state.log_history if any(name.startswith("eval_") for name in entry)]
    best = trainer.state.best_global_step
    if trainer.args.load_best_model_at_end and best is not None:
        history = [entry for entry in history if entry.get("step") == best] or history
    return history[-1] if history else {}


def data_from(trainer: Trainer) -> list[DataFacts]:
    """What can be told of the data sets of a trainer: sizes, and of a data set of the Hub its name."""
    evaluation: Any = trainer.eval_dataset
    several = evaluation if isinstance(evaluation, dict) else {"validation": evaluation}
    splits = {"train": trainer.train_dataset, **several}
    sizes = {str(name): len(own) for name, own in splits.items() if hasattr(own, "__len__")}
    if not sizes:
        return []
    info = getattr(trainer.train_dataset, "info", None)
    known = getattr(info, "builder_name", None) not in (None, *_FILES)
    name = getattr(info, "dataset_name", None) if known else None
    return [DataFacts(name or "", splits=sizes, config=getattr(info, "config_name", None) if name else None)]


def _inherited(base: str | None, hub_id: str | None, revision: str | None, model: Any) -> tuple[str | None, list[str]]:
    """License and languages of the base model, where its card lies on this machine."""
    source = getattr(getattr(_inside(model), "config", None), "_name_or_path", None) or ""
    path: Any = Path(source) / "README.md" if source else None  # without a name it would be the folder we are in
    if (path is None or not path.is_file()) and hub_id:
        path = try_to_load_from_cache(hub_id, "README.md", revision=revision)
    if base is None or not isinstance(path, (str, Path)) or not Path(path).is_file():
        return None, []
    try:
        data: Any = ModelCard.load(path, ignore_metadata_errors=True).data
    except Exception:  # whatever somebody else's card is like, the run has a card of its own
        return None, []
    language = data.language if isinstance(data.language, list) else [data.language] if data.language else []
    return data.license if isinstance(data.license, str) else None, [str(code) for code in language]
