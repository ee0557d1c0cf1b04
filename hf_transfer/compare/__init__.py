"""`compare`: strategies of transfer side by side; and what recipes that compare ways to train have in common."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any


# `import hf_transfer` runs this: whatever takes long to import waits for the call
if TYPE_CHECKING:
    from datasets import Dataset
    from torch import nn

    from hf_transfer.compare.outcome import ComparisonResults
    from hf_transfer.compare.planning.budget import Budget
    from hf_transfer.compare.strategies.strategy import Strategy
    from hf_transfer.data.loading import TransferData
    from hf_transfer.recipe_arguments import DataArguments, LoopArguments

    Model = str | os.PathLike[str] | nn.Module
    Data = str | os.PathLike[str] | TransferData | Mapping[str, Dataset]

__all__ = ["compare"]


def compare(
    model: Model | Sequence[Model] | None = None,
    data: Data | None = None,
    *,
    processor: Any = None,
    target: Data | None = None,
    teacher: str | os.PathLike[str] | nn.Module | None = None,
    strategies: Iterable[str | Strategy] | None = None,
    seeds: int = 1,
    budget: str | float | Budget | None = None,
    halving: bool | None = None,
    folds: int = 5,
    curve: bool = True,
    output_dir: str | os.PathLike[str] | None = None,
    args: LoopArguments | None = None,
    data_args: DataArguments | None = None,
    resume: bool = True,
    retry_failed: bool = False,
    keep_models: bool = False,
    model_revision: str = "main",
    trust_remote_code: bool = False,
) -> ComparisonResults:
    r"""
    Run strategies of transfer side by side on little data, and tell which to take and whether transfer helps at all.

    Every strategy trains on the same rows in the same order, from the same new head, for the same number of steps, and
    keeps its last weights; its learning rate is found by short pilot runs on training rows. The choice is made on rows
    that validate: the mean of seeds, and bootstrap intervals of paired differences over rows and seeds. What cannot be
    told from the leader is called tied with it, and the cheapest of the tied is recommended. Test rows are scored and
    take no part in the choice.

    The output folder then holds `report.html`, `report.md`, `results.json`, and the recommended model or adapter with
    its card. A comparison that was interrupted goes on where it stopped when it is called again; one that gets more
    strategies, models or seeds runs these alone. Under `accelerate launch` with several processes these share the
    runs, and all of them return the results.

    Args:
        model (`str`, path, `nn.Module`, or a list of them, *optional*):
            Hub ids, folders, `embedded:image`, `embedded:text`, or models of `transformers` in memory. Of several the
            table has every strategy on each. Without model and data, embedded ones.
        data (`str`, path, `TransferData` or `datasets.DatasetDict`, *optional*):
            Hub id, folder, file, embedded data, what [`load_splits`] returns, or splits by name.
        processor (*optional*):
            Tokenizer or image processor of models in memory; a list where there are several.
        target (as `data`, *optional*):
            Labelled data of another domain. The training rows are then those of `data` and, without labels, those of
            the target; validation and test rows are the target's.
        teacher (`str`, path or `nn.Module`, *optional*):
            A classifier for the same classes, for distillation.
        strategies (iterable of `str` and [`Strategy`], *optional*):
            Names such as `full` or `lora`, `standard` for all that the data allows (the default), and your own:
            instances of [`FineTune`], or of subclasses of [`Strategy`].
        seeds (`int`, *optional*, defaults to 1):
            How many, from `args.seed` on. One alone gives intervals over rows only.
        budget (`str` or `float`, *optional*):
            Time for all of it, such as `"30m"`, or seconds. Runs that would not fit are skipped and say so.
        halving (`bool`, *optional*):
            Give each further seed to the better half of the strategies only; by default with a budget.
        folds (`int`, *optional*, defaults to 5):
            Without a validation split the training rows are cut into so many parts, one of which validates each seed;
            the recommended model is trained once more, on all rows.
        curve (`bool`, *optional*, defaults to `True`):
            Train the two leaders and from scratch on a quarter and a half of the labelled rows too.
        output_dir (`str` or path, *optional*):
            The folder; by default that of `args`, and `outputs/compare` where there are none.
        args (`LoopArguments`, *optional*):
            Epochs or steps, batch size, seed, device, Hub. A learning rate that differs from its default is taken in
            place of those that pilot runs would find.
        data_args (`DataArguments`, *optional*):
            Columns, rows and preparation of the data.
        resume (`bool`, *optional*, defaults to `True`):
            Whether finished runs of the folder count; if not, they are moved aside.
        retry_failed (`bool`, *optional*, defaults to `False`):
            Whether runs that failed are run again.
        keep_models (`bool`, *optional*, defaults to `False`):
            Leave the best model of every strategy below `cells`.
        model_revision (`str`, *optional*, defaults to `"main"`):
            Branch, tag or commit of models on the Hub.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether to run code from the models' repositories.

    Returns:
        [`ComparisonResults`]: the table as a pandas `frame`, `best()`, `answer`, `plot_accuracy()` and other plots.

    Degenerate:
        A strategy that fails, for want of memory or otherwise, is a row with the reason, and the others go on. Where
        no strategy but a baseline ends, nothing is recommended and no model is saved.

    Raises:
        ValueError: before anything is trained: if model or data cannot be read, there is one class only, a class has
            fewer rows than folds or none that validates, the budget is too small for one run, a strategy is unknown,
            or the folder holds a comparison of other settings or something else.
        FileNotFoundError: if there is no such model or data.
        PermissionError: if the folder cannot be written to.
        ImportError: if a package of the extra `recipes` is missing.

    Relations:
        [`FineTuningTrainer`] and the other trainers run one strategy with all options. `recipes/domain_adaptation.py`
        chooses between methods without target labels.

    Example:
        >>> import tempfile
        >>> from hf_transfer import compare
        >>> from hf_transfer.recipe_arguments import DataArguments, LoopArguments
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     results = compare(
        ...         "embedded:image",
        ...         "embedded:digits",
        ...         strategies=["majority", "probe"],
        ...         args=LoopArguments(use_cpu=True, disable_tqdm=True),
        ...         data_args=DataArguments(samples_per_class=4),
        ...         output_dir=folder,
        ...     )
        >>> results.best().strategy, results.frame["strategy"].tolist()
        ('probe', ['probe', 'majority'])
    """
    from hf_transfer.compare.api import run

    return run(
        model,
        data,
        processor=processor,
        target=target,
        teacher=teacher,
        strategies=strategies,
        seeds=seeds,
        budget=budget,
        halving=halving,
        folds=folds,
        curve=curve,
        output_dir=output_dir,
        args=args,
        data_args=data_args,
        resume=resume,
        retry_failed=retry_failed,
        keep_models=keep_models,
        model_revision=model_revision,
        trust_remote_code=trust_remote_code,
    )
