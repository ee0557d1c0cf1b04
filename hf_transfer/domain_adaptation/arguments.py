"""The options of `recipes/domain_adaptation.py`: which domains, which methods, how often, and what chooses."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from hf_transfer.compare.composition import read_loss
from hf_transfer.compare.methods import nearest
from hf_transfer.domain_adaptation.domains import Domains
from hf_transfer.domain_adaptation.methods import SOURCE_ONLY, TARGET_ORACLE, VOCABULARY, Method, parse_method
from hf_transfer.domain_adaptation.selection import ORACLE, VALIDATORS
from hf_transfer.option_checks import RESUME_HELP
from hf_transfer.recipe_arguments import LoopArguments


__all__ = ["AdaptationLoopArguments", "DomainArguments"]


@dataclass
class DomainArguments:
    """Which domains, by which methods they are brought together, and what chooses between them."""

    _argument_group_name = "the recipe"  # a heading of --help

    source_dataset: list[str] = field(metadata={"help": "Hub ids, folders or files of the labelled domains."})
    target_dataset: list[str] = field(metadata={"help": "Hub ids, folders or files of the domains to adapt to."})
    methods: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Methods to compare, by default dann: acronyms (dann, cdan, mdd, mcd, wdgrl, dan, jan, dsan, "
            "coral, cmd, swd, entropy, im, mcc, bnm, afn, bsp, pseudo_labels, fixmatch, adabn), classes in snake "
            "case, or weights of the source rows (iw, kmm, kliep, ulsif, nearest, bbse); several joined by + train "
            "together. target_oracle is the reference that trains on the target's labels."
        },
    )
    loss: list[str] = field(
        default_factory=list,
        metadata={
            "help": "YAML files of composed losses, each a method more, called by the stem of the file: a mapping of "
            "names to weights, or to options such as {weight: 1.0, entropy_conditioning: true}."
        },
    )
    source_only: bool = field(default=True, metadata={"help": "Train on the source alone first, to compare with."})
    seeds: int = field(default=1, metadata={"help": "Repeat with this many seeds from --seed on."})
    choose_by: str = field(
        default="information_maximization",
        metadata={
            "help": "What chooses the model that is kept, where there are several methods or seeds: a validator that "
            f"needs no labels of the target ({', '.join(VALIDATORS)}), or {ORACLE} for its test labels. entropy and "
            "snd take a model that collapsed to one class for a sure one."
        },
    )
    validators: list[str] = field(
        default_factory=lambda: list(VALIDATORS),
        metadata={"help": "Validators to compute for every run, beside that of --choose_by."},
    )
    diagnostics: bool = field(
        default=True,
        metadata={"help": "Measure how far the domains are apart, before and after, and draw figures."},
    )
    adversarial_weight: float | None = field(
        default=None,
        metadata={"help": "Weight of dann; 0 is the control: mixed batches, no adversary. By default 1."},
    )
    validation_rows: int = field(
        default=2000,
        metadata={"help": "Most rows of each domain that validators and diagnostics look at."},
    )
    resume: bool = field(default=True, metadata={"help": RESUME_HELP})

    def __post_init__(self):
        self.methods = [name.strip() for word in self.methods for name in word.split(",") if name.strip()]
        if not self.methods and not self.loss:
            self.methods = ["dann"]
        if self.seeds < 1:
            raise ValueError(f"`--seeds {self.seeds}` trains nothing. Give 1 or more.")
        if self.validation_rows < 2:
            raise ValueError(
                f"`--validation_rows {self.validation_rows}` leaves validators nothing to compare. Give 2 or more."
            )
        for name in self.validators:
            if name not in VALIDATORS:
                raise ValueError(
                    f"`--validators {' '.join(self.validators)}`: there is no `{name}`, and nothing would be measured "
                    f"by it. {nearest(name, VALIDATORS)}"
                )
        known = (*VALIDATORS, ORACLE)
        if self.choose_by not in known:
            raise ValueError(
                f"`--choose_by {self.choose_by}` is no validator: no model could be chosen by it. "
                f"{nearest(self.choose_by, known)}"
            )
        if self.choose_by in VALIDATORS and self.choose_by not in self.validators:
            self.validators = [*self.validators, self.choose_by]
        shared = sorted(set(self.source_dataset) & set(self.target_dataset))
        if shared:
            raise ValueError(
                f"`{shared[0]}` is source and target: that is one domain, and there is nothing to adapt to. Name "
                "another `--target_dataset`."
            )
        for option in ("source_dataset", "target_dataset"):
            names = getattr(self, option)
            if len(set(names)) < len(names):
                raise ValueError(
                    f"`--{option} {' '.join(names)}` names a data set twice: two domains would be one and the same. "
                    "Name each once."
                )
        self.runs = self._runs()

    def _runs(self) -> list[Method]:
        runs = [parse_method(name) for name in self.methods] + [read_loss(path, VOCABULARY) for path in self.loss]
        if self.source_only and SOURCE_ONLY not in {method.name for method in runs}:
            runs.insert(0, Method(SOURCE_ONLY))
        names = [method.name for method in runs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"`{twice[0]}` is named twice: its second run would be the first again. Name it once, or give a file "
                "for `--loss` another name."
            )
        return [self._weighted(method) for method in runs]

    def _weighted(self, method: Method) -> Method:
        if self.adversarial_weight is None or method.name != "dann":
            return method
        return Method("dann", (parse_method("dann").parts[0].with_options(weight=self.adversarial_weight),))

    @property
    def adaptations(self) -> list[Method]:
        """The runs that adapt."""
        return [method for method in self.runs if not method.is_reference]

    def check(self, args: LoopArguments) -> None:
        """Refuse to resume a run that is not said."""
        if args.resume_from_checkpoint and (self.seeds > 1 or len(self.adaptations) > 1):
            raise ValueError(
                f"`--resume_from_checkpoint` with {self.seeds} seeds and the methods "
                f"{', '.join(method.name for method in self.adaptations)}: it is not said which run is meant. Leave "
                "it out: finished runs are taken from results.json, and the others start anew."
            )

    def check_domains(self, domains: Domains) -> None:
        """Refuse to choose by what the data do not tell."""
        weighted = [method.name for method in self.runs if method.weighting is not None]
        if weighted and domains.data.task in ("token-classification", "regression"):
            raise ValueError(
                f"`{weighted[0]}` with data for {domains.data.task}: source rows are weighed by one class and one "
                "vector a row. Leave it out."
            )
        several = self.seeds > 1 or len(self.candidates) > 1
        if several and domains.data.task == "regression" and self.choose_by != ORACLE:
            raise ValueError(
                f"`--choose_by {self.choose_by}` with real-valued labels: validators judge probabilities of classes, "
                f"of which there are none. Compare one method and seed, or pass `--choose_by {ORACLE}`."
            )
        if several and self.choose_by == ORACLE and "target" not in domains.scored:
            raise ValueError(
                f"`--choose_by {ORACLE}`, but the target has no labels to score: it cannot choose. Name a validator: "
                f"{', '.join(VALIDATORS)}."
            )

    @property
    def candidates(self) -> list[Method]:
        """
        The runs of which one is kept: all that saw no label of the target. An only method that adapts is not measured
        against the source-only run: it is what was asked for.
        """
        own = [method for method in self.runs if method.name != TARGET_ORACLE]
        return self.adaptations if len(self.adaptations) == 1 else own


@dataclass(repr=False)
class AdaptationLoopArguments(LoopArguments):
    """`LoopArguments` with the momentum that a game of two players bears, and one learning rate for all parts."""

    adam_beta1: float = field(
        default=0.5,
        metadata={"help": "Momentum of AdamW; at its usual 0.9 backbone and discriminator overshoot each other."},
    )
    head_lr: float | None = field(
        default=None,
        metadata={"help": "Learning rate of head and discriminators; by default --learning_rate."},
    )

    def __post_init__(self):
        chosen = self.metric_for_best_model is not None
        self.load_best_model_at_end = chosen
        super().__post_init__()
        if chosen and not self.load_best_model_at_end:
            raise ValueError(
                f"`--metric_for_best_model {self.metric_for_best_model}` with `--eval_strategy "
                f"{IntervalStrategy(self.eval_strategy).value}` and `--save_strategy "
                f"{SaveStrategy(self.save_strategy).value}`: there is no checkpoint of every validation to choose "
                "from. Pass `--eval_strategy epoch --save_strategy epoch`."
            )
