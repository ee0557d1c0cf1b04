"""`python -m hf_transfer push FOLDER NAME`: push what a run left, after a push that failed or on another machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hf_transfer.hub.pushing import push_folder


__all__ = ["add_push_command", "run_push_command"]


def add_push_command(subparsers: Any) -> None:
    """
    Add `push` to a command line. A token is no option of it: it would stand in the history of the shell.

    Args:
        subparsers (`argparse._SubParsersAction`): what `ArgumentParser.add_subparsers` returned.
    """
    parser = subparsers.add_parser(
        "push",
        help="push the folder of a run to the Hub",
        description="Push model or adapter, processor, card, scores and training_arguments.yaml in one commit; no "
        "checkpoint, no pickle, no log. What an older model left in the repository goes. The token is that of "
        "`hf auth login` or HF_TOKEN.",
    )
    parser.add_argument("folder", type=Path, help="--output_dir of the run")
    parser.add_argument("name", help="repository, as user/name; it is created if there is none")
    parser.add_argument("--private", action="store_true", default=None, help="only you may see the new repository")
    parser.add_argument("--revision", help="branch to push to (default: main)")
    parser.add_argument("--dataset", action="store_true", help="the folder holds tables in data/*.parquet")
    parser.add_argument("--message", help="of the commit")


def run_push_command(options: argparse.Namespace) -> str:
    """
    Carry out what [`add_push_command`] parsed.

    Returns:
        `str`: what to print, the address of the commit.

    Raises:
        OSError, ValueError: as [`push_folder`].
    """
    commit = push_folder(
        options.folder,
        options.name,
        message=options.message,
        private=options.private,
        revision=options.revision,
        repo_type="dataset" if options.dataset else "model",
    )
    return f"{commit.commit_url}\n"
