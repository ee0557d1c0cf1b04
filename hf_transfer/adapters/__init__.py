"""Adapters of PEFT for any model of the anatomy: put in, saved, loaded, merged."""

from hf_transfer.adapters.add import add_adapter
from hf_transfer.adapters.heads import give_head, switch_adapter
from hf_transfer.adapters.loading import LoadedAdapter, load_adapter
from hf_transfer.adapters.merging import merge_adapter
from hf_transfer.adapters.portable import remove_machine_paths
from hf_transfer.adapters.saving import save_adapter
from hf_transfer.adapters.several import combine_adapters
from hf_transfer.adapters.summary import adapter_summary


__all__ = [
    "LoadedAdapter",
    "adapter_summary",
    "add_adapter",
    "combine_adapters",
    "give_head",
    "load_adapter",
    "merge_adapter",
    "remove_machine_paths",
    "save_adapter",
    "switch_adapter",
]
