"""Features as files that anybody can open: a Parquet file for each split, and a data set on the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import set_seed
from transformers.utils import logging

from hf_transfer.feature_arguments import FeatureArguments
from hf_transfer.files import whole_file
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
        The files by split.

    Raises:
        ValueError: if options contradict each other or the data.
    """
    feature_args.check(data_args)
    set_seed(args.seed)
    with args.main_process_first(desc="loading data"):
        data = data_args.load(dataset, args.seed)
        model, processor = model_args.load(data)
    model.to(args.device)
    splits = {"train": data.train, "validation": data.eval, "test": data.test}
    files: dict[str, Path] = {}
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
            if args.should_save:
                with whole_file(files[name]) as unfinished:
                    features.to_parquet(str(unfinished))
                logger.info(f"{name}: {len(features)} rows of {', '.join(features.column_names)} in {files[name]}")
    if args.push_to_hub and args.should_save:
        _push(args)
    return files


def _push(args: LoopArguments) -> None:
    """Upload the files as a data set; one commit, so that a broken connection leaves the old one as it was."""
    from huggingface_hub import HfApi

    api = HfApi(token=args.hub_token)
    name = args.hub_model_id or Path(str(args.output_dir)).resolve().name
    repo = api.create_repo(name, repo_type="dataset", private=args.hub_private_repo, exist_ok=True).repo_id
    api.upload_folder(
        repo_id=repo,
        repo_type="dataset",
        folder_path=str(args.output_dir),
        allow_patterns=["data/*.parquet"],
        commit_message="Features of a frozen model",
    )
    logger.info(f"The features are on the Hub: datasets/{repo}")
