"""Features as files that anybody can open: a Parquet file for each split, and a data set on the Hub."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import set_seed
from transformers.utils import logging

from hf_transfer.feature_arguments import FeatureArguments
from hf_transfer.files import whole_file
from hf_transfer.hub import push_table, repository_name, table_card, write_card_file
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
            rows[name] = len(features)
            if args.should_save:
                with whole_file(files[name]) as unfinished:
                    features.to_parquet(str(unfinished))
                logger.info(f"{name}: {len(features)} rows of {', '.join(features.column_names)} in {files[name]}")
    if args.should_save:
        write_card_file(_card(dataset, taps, model, feature_args, rows), str(args.output_dir))
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


def _card(dataset: str, taps: Sequence[str], model: Any, options: FeatureArguments, rows: Mapping[str, int]) -> str:
    """The data card, without paths of this machine."""
    given = str(getattr(model.config, "_name_or_path", "") or "")
    shown = f"`{type(model).__name__}`" + ("" if _is_local(given) else f", `{given}`")
    data = f"a data set of {sum(rows.values())} rows" if _is_local(dataset) else f"`{dataset}`"
    paragraphs = [
        f"What a frozen {shown} computes of {data}, extracted by `hf_transfer`. `id` is the number of the row in its "
        "split, `labels` are the labels.",
        f"Read: {', '.join(f'`{tap}`' for tap in taps)} (`features` is what enters the head), pooled by "
        f"`{options.pooling}`, in {options.feature_dtype}; {options.views} view(s) of each training row.",
        '```python\nfrom datasets import load_dataset\n\nfeatures = load_dataset("user/name")\n```',
    ]
    return table_card("Features of a frozen model", paragraphs, rows, tags=["hf-transfer", "feature-extraction"])


def _is_local(name: str) -> bool:
    return not name or name[0] in "/.~" or "\\" in name or name.count("/") > 1 or os.path.exists(name)
