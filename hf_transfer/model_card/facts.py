"""`RunFacts`: what a model card says of a run, as plain values that a JSON file can hold."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


TIMINGS = ("_runtime", "_per_second", "_preparation_time", "epoch")
"""Ends of the names of scores that are none."""

__all__ = ["TIMINGS", "Baseline", "DataFacts", "RunFacts", "Score", "Term"]


@dataclass
class DataFacts:
    """
    A data set of a run.

    Args:
        name (`str`): Hub id, the name of an embedded set, or the name of a folder or file.
        role (`str`, *optional*): what it was for, such as `source`, `target` or `without labels`.
        splits (`dict[str, int]`, *optional*): rows of each split that was used, by what the split was used for.
        hub_id (`str`, *optional*): where it is on the Hub, if it is there.
        config (`str`, *optional*): its configuration.
        labels_used (`bool`, *optional*): whether its labels were trained on.
    """

    name: str
    role: str = ""
    splits: dict[str, int] = field(default_factory=dict)
    hub_id: str | None = None
    config: str | None = None
    labels_used: bool | None = None


@dataclass
class Score:
    """
    A score of the model.

    Args:
        metric (`str`): such as `accuracy`.
        value (`float`): its value for this model.
        split (`str`, *optional*, defaults to `"test"`): what it was scored on; a split, or a domain.
        mean (`float`, *optional*): of the runs over all seeds, where there are several.
        interval (`tuple[float, float]`, *optional*): 95% interval of that mean.
        by_seed (`list[float]`, *optional*): the values of the seeds.
    """

    metric: str
    value: float
    split: str = "test"
    mean: float | None = None
    interval: tuple[float, float] | None = None
    by_seed: list[float] = field(default_factory=list)


@dataclass
class Baseline:
    """
    What the model is compared with, by one score.

    Args:
        name (`str`): such as `source_only`.
        score (`Score`): what it came to; its value is the mean over seeds where there are several.
        difference (`float`, *optional*): how much higher the method of the model scores; the mean over seeds.
        interval (`tuple[float, float]`, *optional*): 95% interval of that difference.
        reference (`bool`, *optional*, defaults to `False`): whether it is a bound to look at, such as a teacher or an
            oracle, and no competitor that the model should beat.
    """

    name: str
    score: Score
    difference: float | None = None
    interval: tuple[float, float] | None = None
    reference: bool = False


@dataclass
class Term:
    """
    One term of the loss, as its objective describes it.

    Args:
        name (`str`): as in the logs.
        method (`str`): the class.
        weight (`str`, *optional*): number or schedule; empty for a change of the task loss, which has none.
        settings (`dict[str, Any]`, *optional*): its other hyper-parameters.
        about (`str`, *optional*): the first sentence of its documentation.
        paper (`str`, *optional*): as its documentation names it.
        replaces (`bool`, *optional*, defaults to `False`): whether it stands in place of the task loss.
    """

    name: str
    method: str
    weight: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    about: str = ""
    paper: str = ""
    replaces: bool = False


@dataclass
class RunFacts:
    """
    What a card says of a run. Whatever is left empty is read off the trainer, or left out of the card.

    Args:
        model_name (`str`, *optional*): title of the card.
        repo_id (`str`, *optional*): where the model is, or will be, on the Hub.
        base_model (`str`, *optional*): Hub id, the name of an embedded model, or the name of a folder.
        base_hub_id (`str`, *optional*): where that is on the Hub, if it is there.
        base_revision (`str`, *optional*): its commit.
        relation (`str`, *optional*): `finetune`, `adapter`, `merge` or `quantized`.
        library (`str`, *optional*): `transformers` or `peft`.
        task (`str`, *optional*): as the Hub calls it, such as `text-classification`.
        model_class (`str`, *optional*): class of the model.
        processor (`str`, *optional*): class of the processor that is saved beside it.
        parameters (`int`, *optional*): of the whole model.
        trained_parameters (`int`, *optional*): those that were trained at any time.
        running_statistics (`bool`, *optional*): whether it normalises by statistics of its training data.
        label_names (`list[str]`, *optional*): by class number.
        inputs (`list[str]`, *optional*): what the model reads: `text`, `text_pair`, `image`, `tokens`, `audio`.
        strategy (`list[str]`, *optional*): sentences on how it was transferred, beside those read off the trainer.
        formula (`str`, *optional*): the loss.
        terms (`list[Term]`, *optional*): of the loss.
        unfreezing (`str`, *optional*): table of what trained when.
        adapters (`dict[str, Any]`, *optional*): settings of the adapter.
        hyperparameters (`dict[str, Any]`, *optional*): beside those of the loop.
        data (`list[DataFacts]`, *optional*): data sets.
        seeds (`list[int]`, *optional*): of the run, or of all runs that the scores are of.
        method (`str`, *optional*): what the kept model is called among the baselines.
        scores (`list[Score]`, *optional*): of the model.
        baselines (`list[Baseline]`, *optional*): what it is compared with.
        comparison (`str`, *optional*): a table in Markdown of all that was compared.
        notes (`list[str]`, *optional*): sentences on the results.
        limits (`list[str]`, *optional*): sentences on what the model cannot be trusted with, beside those that follow
            from the facts.
        papers (`list[str]`, *optional*): of the methods that were used.
        seconds (`float`, *optional*): of training.
        device (`str`, *optional*): that trained.
        emissions_kg (`float`, *optional*): as codecarbon measured them.
        versions (`dict[str, str]`, *optional*): of libraries.
        license (`str`, *optional*): of the model, as the Hub abbreviates it.
        language (`list[str]`, *optional*): codes.
        tags (`list[str]`, *optional*): further ones for the Hub.
        complete (`bool`, *optional*, defaults to `False`): whether all of a run is in them, so that nothing is read
            off the trainer that writes the card.

    Example:
        >>> facts = RunFacts(data=[DataFacts("reviews", splits={"train": 64})])
        >>> facts.add_scores({"test_accuracy": 0.9, "test_runtime": 2.0, "epoch": 3.0})
        >>> facts.scores
        [Score(metric='accuracy', value=0.9, split='test', mean=None, interval=None, by_seed=[])]
    """

    model_name: str | None = None
    repo_id: str | None = None
    base_model: str | None = None
    base_hub_id: str | None = None
    base_revision: str | None = None
    relation: str | None = None
    library: str | None = None
    task: str | None = None
    model_class: str | None = None
    processor: str | None = None
    parameters: int | None = None
    trained_parameters: int | None = None
    running_statistics: bool | None = None
    label_names: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    strategy: list[str] = field(default_factory=list)
    formula: str | None = None
    terms: list[Term] = field(default_factory=list)
    unfreezing: str | None = None
    adapters: dict[str, Any] = field(default_factory=dict)
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    data: list[DataFacts] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    method: str | None = None
    scores: list[Score] = field(default_factory=list)
    baselines: list[Baseline] = field(default_factory=list)
    comparison: str | None = None
    notes: list[str] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)
    papers: list[str] = field(default_factory=list)
    seconds: float | None = None
    device: str | None = None
    emissions_kg: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    license: str | None = None
    language: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    complete: bool = False

    def add_scores(self, scores: Mapping[str, Any]) -> None:
        """
        Take scores as a `Trainer` names them, `<split>_<metric>`; timings are none, nor is what is no finite number.

        A score of the same split and metric is replaced.
        """
        for name, value in scores.items():
            found = re.match(r"([a-z]+(?:_\d+)?)_(.+)$", name)
            if found is None or name.endswith(TIMINGS) or found[1] == "train" or not _is_number(value):
                continue
            split, metric = found.groups()
            self.scores = [own for own in self.scores if (own.split, own.metric) != (split, metric)]
            self.scores.append(Score(metric, float(value), split))

    def score(self, split: str, metric: str) -> Score | None:
        """The score of a split by a metric, if there is one."""
        return next((own for own in self.scores if (own.split, own.metric) == (split, metric)), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
