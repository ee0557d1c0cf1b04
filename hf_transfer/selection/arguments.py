"""The options of `recipes/select_source.py`: which candidates, judged by what, and whose data they come from."""

from __future__ import annotations

from dataclasses import dataclass, field

from hf_transfer.feature_arguments import FeatureArguments
from hf_transfer.recipe_arguments import DataArguments, LoopArguments
from hf_transfer.selection.api import PROBES
from hf_transfer.selection.candidates import with_controls
from hf_transfer.selection.reading import LAYERS
from hf_transfer.selection.scores import SCORES, check_scores


__all__ = ["SelectSourceArguments"]


@dataclass
class SelectSourceArguments:
    """Which models may be the source of a target, and what they are ranked by."""

    _argument_group_name = "the recipe"  # a heading of --help

    model_name_or_path: list[str] = field(
        metadata={"help": "Candidates: Hub ids, folders, or embedded:image and embedded:text for small ones."}
    )
    dataset_name: str = field(
        metadata={"help": "The target: Hub id, folder or file of the data; embedded:digits for a try."}
    )
    controls: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Copies of every candidate that should lose: random for random weights, reinit:2 for new weights "
            "in its two top blocks. Also name#random as a single candidate."
        },
    )
    scores: list[str] = field(
        default_factory=list, metadata={"help": f"Of {', '.join(SCORES)}; by default all. The first two always are."}
    )
    by: str = field(default="probe", metadata={"help": "The score that decides.", "choices": list(SCORES)})
    layers: str = field(
        default="head",
        metadata={
            "help": "Features: head (what the head is given), mean (the average of all blocks), best (the layer whose "
            "probe is best).",
            "choices": list(LAYERS),
        },
    )
    probe: str = field(
        default="ridge",
        metadata={"help": "The linear probe: ridge, or logistic, which is slower.", "choices": list(PROBES)},
    )
    max_rows: int = field(default=5000, metadata={"help": "Most labelled rows (of tokens words) to rank by."})
    folds: int = field(default=5, metadata={"help": "Parts of the rows, held out from probe and k-NN in turn."})
    bootstrap: int = field(
        default=20, metadata={"help": "Random parts of the rows for intervals of the other scores; 0 for none."}
    )
    epochs: float = field(default=3.0, metadata={"help": "Of the fine-tuning whose time is estimated."})
    source_dataset: list[str] = field(
        default_factory=list,
        metadata={"help": "Data that candidates were trained on, whose distance from the target is measured."},
    )
    source_dataset_of: list[str] = field(
        default_factory=list,
        metadata={
            "help": "In whose features that is measured: one candidate for each --source_dataset, or one for all. By "
            "default the recommended one."
        },
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code from the models' repositories. Only for authors you trust."}
    )

    def __post_init__(self):
        check_scores(self.scores or None, self.by)
        self.candidates = with_controls(self.model_name_or_path, self.controls)
        if not self.candidates:
            raise ValueError(
                "`--model_name_or_path` names no model: nothing can be ranked. Give one or more Hub ids or folders."
            )
        if self.source_dataset_of and len(self.source_dataset_of) not in (1, len(self.source_dataset)):
            raise ValueError(
                f"`--source_dataset_of` has {len(self.source_dataset_of)} names for {len(self.source_dataset)} "
                "`--source_dataset`: it is not said which data is measured in whose features. Give one for each, or "
                "one for all."
            )
        unknown = [name for name in self.source_dataset_of if name not in self.candidates]
        if unknown:
            raise ValueError(
                f"`--source_dataset_of {unknown[0]}` is no candidate: its features are not read. Choose from "
                f"{', '.join(self.candidates)}."
            )

    def check(self, features: FeatureArguments, data_args: DataArguments, args: LoopArguments) -> None:
        """Refuse options of other recipes that would have no effect, or the wrong one."""
        if features.views > 1 or data_args.augmentation != "none":
            raise ValueError(
                "`--views` and `--augmentation` make rows that are not independent: a view of a row that is held out "
                "would be fitted to. Leave them out."
            )
        if features.pooling == "none":
            raise ValueError(
                "`--pooling none` keeps every token as a row, and candidates are judged by examples. Choose mean, cls "
                "or last, or leave it out."
            )
        if args.resume_from_checkpoint:
            raise ValueError(
                "`--resume_from_checkpoint`: nothing is trained here, and finished candidates are taken from "
                "results.json of the output folder anyway. Leave it out."
            )
