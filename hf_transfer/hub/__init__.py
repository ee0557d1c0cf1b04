"""The Hub: what of a run is pushed, safely and in one commit, and what is told when it cannot be."""

from __future__ import annotations

from hf_transfer.hub.arguments_file import ARGUMENTS_NAME, changed_arguments, save_training_arguments
from hf_transfer.hub.closing import push_result
from hf_transfer.hub.files import pushed_files
from hf_transfer.hub.pushing import push_files, push_folder
from hf_transfer.hub.repository import check_push, open_repository, repository_name
from hf_transfer.hub.tables import push_table
from hf_transfer.hub.telling import push_command, told, without_secrets


__all__ = [
    "ARGUMENTS_NAME",
    "changed_arguments",
    "check_push",
    "open_repository",
    "push_command",
    "push_files",
    "push_folder",
    "push_result",
    "push_table",
    "pushed_files",
    "repository_name",
    "save_training_arguments",
    "told",
    "without_secrets",
]
