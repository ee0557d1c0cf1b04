"""Features as files that anybody can open: a Parquet file for each split, and a data set on the Hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import set_seed
from transformers.utils import logging

from hf_transfer.feature_arguments import FeatureArguments
from hf_transfer.files import whole_file
from hf_transfer.hub import push_table, repository_name
from hf_transfer.model_card import DataCardFacts, write_data_card
from hf_transfer.recipe_arguments import DataArguments, LoopArguments, ModelArguments


logger = logging.get_logger(__name__)

__all__ = ["write_features"]


def write_features(
    dataset: str,
    taps: Sequence[str],
    feature_args: FeatureArguments,
    model_args: ModelArguments,
    data_args: DataArguments,
    args: LoopArguments,
) -> dict[str, Path]:
    """
    Extract the features of every split of a data set and write them to `data/<split>.parquet` in the output folder.

    Args:
        dataset (`str`): Hub id, folder, file or embedded data set.
        taps (`Sequence[str]`): what to read, as for [`extract_features`].
        feature_args, model_args, data_args, args: options of the recipe.

    Returns:
        The files by split; beside them lies a data card, and all of it is pushed where `--push_to_hub` asks for it.

    Raises:
        ValueError: if options contradict each other or the data.
        SystemExit: if the push fails, with the folder that holds everything and the command that pushes it later.
    """
    feature_args.check(data_args)
    set_seed(args.seed)
    with args.main_process_first(desc="loading data"):
        data = data_args.load(dataset, args.seed)
        model, processor = model_args.load(data)
    model.to(args.device)
    splits = {"train": data.train, "validation": data.eval, "test": data.test}
    files: dict[str, Path] = {}
    rows: dict[str, int] = {}
    columns: list[str] = []
    for name, split in splits.items():
        if split is not None:
            features = feature_args.extract(
                model,
                split,
                processor,
                data_args,
                taps=list(taps),
                training=name == "train",
                seed=args.seed,
            )
            files[name] = Path(str(args.output_dir)) / "data" / f"{name}.parquet"
            rows[name], columns = len(features), features.column_names
            if args.should_save:
                with whole_file(files[name]) as unfinished:
                    features.to_parquet(str(unfinished))
                logger.info(f"{name}: {len(features)} rows of {', '.join(features.column_names)} in {files[name]}")
    if args.should_save:
        write_data_card(
            _facts(dataset, columns, model, feature_args, rows, data.label_names, args), str(args.output_dir)
        )
    if args.push_to_hub and args.process_index == 0:
        try:
            push_table(
                files,
                repository_name(args),
                folder=str(args.output_dir),
                message="Features of a frozen model",
                token=args.hub_token,
                private=args.hub_private_repo,
                revision=args.hub_revision,
            )
        except (OSError, ValueError) as error:  # as `push_result`
            raise SystemExit(str(error)) from error
    return files


def _facts(
    dataset: str,
    columns: Sequence[str],
    model: Any,
    options: FeatureArguments,
    rows: Mapping[str, int],
    label_names: Sequence[str] | None,
    args: LoopArguments,
) -> DataCardFacts:
    known = {"features": "what enters the head", "labels": "the labels", "id": "number of the row in its split"}
    settings = {
        "model class": type(model).__name__,
        "pooling": options.pooling,
        "type": options.feature_dtype,
        "views of a training row": options.views,
    }
    return DataCardFacts(
        "Features of a frozen model",
        source=dataset,
        model=str(getattr(model.config, "_name_or_path", "") or "") or None,
        settings={name: value for name, value in settings.items() if value is not None},
        columns={column: known.get(column, f"output of `{column}`") for column in columns},
        splits=rows,
        label_names=list(label_names or ()),
        repo_id=repository_name(args) if args.push_to_hub else None,
        tags=["feature-extraction"],
    )
