"""`write_card`: the card of a model from the facts of its run, without taking away what a person has written."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import DatasetCard, ModelCard
from transformers import Trainer
from transformers.utils import logging

from hf_transfer.files import whole_file
from hf_transfer.model_card.facts import RunFacts
from hf_transfer.model_card.judgement import limits_of, verdicts
from hf_transfer.model_card.metadata import card_data
from hf_transfer.model_card.naming import is_user_name, scrubbed
from hf_transfer.model_card.snippets import snippets
from hf_transfer.model_card.tables import baseline_table, data_table, score_table, setting_table, term_table
from hf_transfer.model_card.templates import render, template_text


logger = logging.get_logger(__name__)

CARD = "README.md"
_MARK = re.compile(r"\n*<!-- hf_transfer wrote this card from its run \(([0-9a-f]{16})\); [^\n]* -->\n*")
_KEPT = "change any of it by hand and it will be kept"
_MACHINE_MADE = (
    "<!-- This model card has been generated automatically according to the information the Trainer had access to.",
    "# Model Card for Model ID",  # the template of huggingface_hub, which PEFT leaves beside every adapter
)
_PEFT_VERSION = re.compile(r"(### Framework versions\s+)?- PEFT \S+")  # PEFT adds it to a card that it finds

__all__ = ["CARD", "is_ours", "store_card", "write_card"]


def write_card(
    source: RunFacts | Trainer,
    folder: str | os.PathLike[str],
    *,
    template: str | os.PathLike[str] = "model",
) -> Path:
    """
    Write the card of a model, README.md, into its folder.

    A card that was written here or by the stock Trainer or PEFT is replaced. One that a person has written or changed
    keeps its text; what its header lacks is added, and the results in it become those of this run.

    Args:
        source (`RunFacts` or `Trainer`):
            What to say. Of a trainer, also a stock one, all that can be read off it, and its `facts` if it has any.
        folder (`str` or path):
            Where the model lies.
        template (`str` or path, *optional*, defaults to `"model"`):
            A Jinja file of your own in place of the one that is shipped. It gets the fields of [`RunFacts`],
            `card_data` (the header), `score_table`, `baseline_table`, `term_table`, `data_table`, `setting_table`,
            `adapter_table`, `verdicts` and `snippets`.

    Returns:
        `Path`: of the card.

    Raises:
        FileNotFoundError: if there is no such template.
        ImportError: if Jinja is not installed.

    Example:
        >>> import tempfile
        >>> from hf_transfer.model_card import DataFacts
        >>> facts = RunFacts(model_name="mine", data=[DataFacts("reviews", splits={"train": 9})])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     "| `reviews` | 9 |" in write_card(facts, folder).read_text(encoding="utf-8")
        True
    """
    if isinstance(source, Trainer):
        from hf_transfer.model_card.reading import read_run  # it imports callbacks, which not every card needs

        source = read_run(source)
    folder = Path(folder)
    return store_card(_card(source, folder, template_text(template)), folder)


def _card(facts: RunFacts, folder: Path, template: str) -> ModelCard:
    name = facts.repo_id or folder.resolve().name
    title = facts.model_name or name.split("/")[-1]
    names = [facts.base_model or "", *(own.name for own in facts.data)]
    values: dict[str, Any] = {
        **vars(facts),
        "model_name": "model" if is_user_name(title) else title,
        "score_table": score_table(facts),
        "baseline_table": baseline_table(facts),
        "term_table": term_table(facts),
        "data_table": data_table(facts),
        "setting_table": setting_table(facts.hyperparameters),
        "adapter_table": setting_table(facts.adapters),
        "verdicts": verdicts(facts),
        "limits": limits_of(facts),
        "snippets": snippets(facts, name),
        "embedded": any(own.startswith("embedded:") for own in names),
        "duration": _duration(facts.seconds),
    }
    return render(ModelCard, card_data(facts), template, values)


def store_card(card: ModelCard | DatasetCard, folder: Path) -> Path:
    """
    Put a card into a folder, or, where a person has written the one that lies there, what its header lacks into that.

    Args:
        card (`ModelCard` or `DatasetCard`): the new card.
        folder (`Path`): of model or data.
    """
    path = folder / CARD
    content = scrubbed(str(card)).rstrip()
    if path.is_file():
        old = path.read_text(encoding="utf-8")
        if not is_ours(old):
            content = _merged(old, card)
            _write(path, content)
            return path
    _write(path, f"{content}\n\n<!-- hf_transfer wrote this card from its run ({_digest(content)}); {_KEPT} -->\n")
    return path


def is_ours(content: str) -> bool:
    """
    Whether a card was written by a machine and not changed since: then it may be replaced.

    Example:
        >>> is_ours("# Notes of mine"), is_ours("# Model Card for Model ID"), is_ours("")
        (False, True, True)
    """
    if not content.strip():
        return True
    if found := _MARK.search(content):
        before, after = content[: found.start()], content[found.end() :]
        return _digest(before) == found[1] and not _PEFT_VERSION.sub("", after).strip()
    return any(text in content for text in _MACHINE_MADE)


def _digest(content: str) -> str:
    """Of the text without its header: PEFT rewrites that."""
    text = re.sub(r"\A\s*---\n.*?\n---\n", "", content, flags=re.DOTALL)
    return hashlib.sha256("\n".join(line.rstrip() for line in text.strip().splitlines()).encode()).hexdigest()[:16]


def _merged(old: str, card: ModelCard | DatasetCard) -> str:
    """A person's card, its header completed."""
    try:
        kept = type(card)(old)
    except (ValueError, yaml.YAMLError) as error:
        logger.warning(f"The header of {CARD} cannot be read ({error}): the card stays as it is.")
        return old
    new, there = vars(card.data), vars(kept.data)
    results = ("eval_results", "model_name") if new.get("eval_results") else ()
    for name, value in new.items():
        if value is not None and (there.get(name) is None or name in results):
            kept.data[name] = value
    logger.info(f"{CARD} was written by hand: its text stays, and its header is completed. Remove it for a new one.")
    return str(kept)


def _write(path: Path, content: str) -> None:
    with whole_file(path) as unfinished:
        unfinished.write_text(content, encoding="utf-8")


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
