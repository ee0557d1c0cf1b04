"""Several datasets into one with a `domain` column, labels masked where a domain is unlabelled."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, overload

import torch.utils.data
from transformers.utils.import_utils import is_datasets_available

from hf_transfer.data.columns import listed


if TYPE_CHECKING:
    import datasets

    from hf_transfer.data.mixing_torch import MixedDataset

__all__ = ["mix_domains"]


@overload
def mix_domains(
    source: datasets.Dataset,
    *targets: datasets.Dataset,
    label_column: str | None = None,
    labelled: Collection[int] = (0,),
) -> datasets.Dataset: ...


@overload
def mix_domains(
    source: datasets.IterableDataset,
    *targets: datasets.IterableDataset,
    label_column: str | None = None,
    labelled: Collection[int] = (0,),
) -> datasets.IterableDataset: ...


@overload
def mix_domains(
    source: torch.utils.data.Dataset[Any],
    *targets: torch.utils.data.Dataset[Any],
    label_column: str | None = None,
    labelled: Collection[int] = (0,),
) -> MixedDataset: ...


def mix_domains(
    source: Any, *targets: Any, label_column: str | None = None, labelled: Collection[int] = (0,)
) -> datasets.Dataset | datasets.IterableDataset | MixedDataset:
    """
    One dataset out of several domains, with an int64 column `domain` (0 = source, 1, 2, ... = targets).

    Labels are kept for the labelled domains only; those of every other domain are dropped before the datasets meet and
    replaced by -100, so that they cannot leak into training. Class names stay in `features` of the result. Feed the
    result to [`AlternatingSampler`] (`TransferTrainer` does), so that every batch holds every domain. A column
    `sample_weight` that some domains have is handed on; the rows of the others get 1.0.

    - `datasets.Dataset`: source rows first, then each target's; no input column is copied or decoded. A format or
      transform set by `with_transform` goes on working, also when every domain has another one; transforms set on the
      result must hand `domain` and the labels on.
    - `datasets.IterableDataset`: domains alternate row by row and short ones restart until the longest has ended, so
      any K consecutive rows of a pass hold all K domains. Shuffle and split by node *before* mixing; `set_epoch` and
      `state_dict` work on the result (a shuffle buffer is refilled on resume, as `datasets` does everywhere).
    - map-style `torch.utils.data.Dataset` whose items are mappings: wrapped, items are read lazily.

    Args:
        source (`datasets.Dataset`, `datasets.IterableDataset` or `torch.utils.data.Dataset`):
            Domain 0; must have labels.
        targets (same type as `source`):
            Domains 1, 2, ...; their label column may be absent.
        label_column (`str`, *optional*):
            Name of the label column. By default the only one of `label`, `labels`, `ner_tags`, `tags`.
        labelled (`Collection[int]`, *optional*, defaults to `(0,)`):
            Domain numbers whose labels are kept, e.g. `(0, 1)` for two labelled sources and an unlabelled rest.

    Raises:
        TypeError: if the datasets are not of one and the same supported type.
        ValueError: if there is no target, a domain is empty, a labelled domain has no labels, `domain` is present
            already, the other columns or the label sets of two domains differ, or a second column tells the labels.

    Example:
        >>> from datasets import Dataset
        >>> source = Dataset.from_dict({"text": ["good", "bad"], "label": [1, 0]})
        >>> target = Dataset.from_dict({"text": ["tasty"], "label": [1]})
        >>> mix_domains(source, target).to_dict()
        {'text': ['good', 'bad', 'tasty'], 'label': [1, 0, -100], 'domain': [0, 0, 1]}
    """
    domains = [source, *targets]
    if not targets:
        raise ValueError(
            "mix_domains got the source only; with one domain there is nothing to adapt to. "
            "Call `mix_domains(source, target)`."
        )
    kept = set(labelled)
    if 0 not in kept or not kept <= set(range(len(domains))):
        raise ValueError(
            f"labelled={tuple(labelled)} does not fit {len(domains)} domains; it lists domain numbers and the source, "
            f"0, is always labelled. Choose from {tuple(range(len(domains)))}, 0 included."
        )
    if is_datasets_available():
        import datasets

        if all(isinstance(domain, datasets.Dataset) for domain in domains):
            from hf_transfer.data.mixing_tables import mix_tables

            return mix_tables(domains, label_column=label_column, labelled=kept)
        if all(isinstance(domain, datasets.IterableDataset) for domain in domains):
            from hf_transfer.data.mixing_streams import mix_streams

            return mix_streams(domains, label_column=label_column, labelled=kept)
        if any(isinstance(domain, (datasets.DatasetDict, datasets.IterableDatasetDict)) for domain in domains):
            raise TypeError(
                "mix_domains got a dictionary of splits; mixing train and test rows would spoil the evaluation. "
                'Pass one split of each domain, e.g. `mix_domains(source["train"], target["train"])`.'
            )
    if all(_is_map_style_torch(domain) for domain in domains):
        from hf_transfer.data.mixing_torch import MixedDataset

        return MixedDataset(domains, label_column=label_column, labelled=kept)
    names = listed(f"{type(domain).__module__}.{type(domain).__qualname__}" for domain in domains)
    raise TypeError(
        f"mix_domains got {names}; the domains can only share batches if all are `datasets.Dataset`, or all "
        "`datasets.IterableDataset`, or all map-style `torch.utils.data.Dataset`. Convert them, e.g. by "
        "`datasets.Dataset.from_list` or `dataset.to_iterable_dataset()`."
    )


def _is_map_style_torch(dataset: object) -> bool:
    return isinstance(dataset, torch.utils.data.Dataset) and not isinstance(dataset, torch.utils.data.IterableDataset)
