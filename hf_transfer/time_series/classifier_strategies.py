"""The strategies of a classification of series."""

from __future__ import annotations

from collections.abc import Sequence

from hf_transfer.data.columns import listed
from hf_transfer.time_series.strategies import PROBE_SCRATCH, SCRATCH, UNTRANSFERRED


CLASSIFIER_STRATEGIES = {
    SCRATCH: "all weights drawn at random and trained; what transfer must beat",
    PROBE_SCRATCH: "the backbone random, the head by logistic regression; what transfer must beat too",
    "probe": "the backbone as pretrained, the head by logistic regression",
    "full": "all weights trained from the pretrained ones",
    "gradual": "trained from the head down, block after block",
    "l2sp": "all weights trained, held to the pretrained ones (L2-SP)",
    "lora": "low-rank changes of the blocks and the head trained (LoRA), then merged",
}
DEFAULT = (*UNTRANSFERRED, "probe", "full", "lora")

__all__ = ["CLASSIFIER_STRATEGIES", "DEFAULT", "classifier_strategies"]


def classifier_strategies(names: Sequence[str], *, transfers: bool) -> list[str]:
    """
    The strategies to run, in the order of [`CLASSIFIER_STRATEGIES`], with `scratch` and `probe_scratch` among them.

    Args:
        names (`Sequence[str]`): as given; several may stand in one word, with commas between. None means [`DEFAULT`].
        transfers (`bool`): whether there is a pretrained model.

    Raises:
        ValueError: if a name is unknown, or needs a pretrained model where there is none.

    Example:
        >>> classifier_strategies(["lora,probe"], transfers=True)
        ['scratch', 'probe_scratch', 'probe', 'lora']
        >>> classifier_strategies([], transfers=False)
        ['scratch', 'probe_scratch']
    """
    found = [name.strip() for word in names for name in word.split(",") if name.strip()]
    for name in found:
        if name not in CLASSIFIER_STRATEGIES:
            raise ValueError(
                f"`--strategies {name}` is none for `--task classification`: nothing could be trained. Choose from "
                f"{listed(CLASSIFIER_STRATEGIES)}."
            )
    if not transfers and set(found) - {*UNTRANSFERRED}:
        raise ValueError(
            f"`--strategies {' '.join(found)}` without a source: there is nothing to transfer. Pass `--source_series` "
            "to pretrain here, `--model_name_or_path` for a pretrained model, or `--strategies scratch`."
        )
    wanted = {*UNTRANSFERRED, *(found or (DEFAULT if transfers else ()))}
    return [name for name in CLASSIFIER_STRATEGIES if name in wanted]
