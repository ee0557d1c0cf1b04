"""`AdapterArguments`: adapters as options of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from hf_transfer.adapters.add import add_adapter
from hf_transfer.adapters.loading import load_adapter
from hf_transfer.adapters.methods import Method, method_of, peft
from hf_transfer.anatomy import anatomy
from hf_transfer.json_options import json_object
from hf_transfer.models import resolve_name
from hf_transfer.recipe_arguments import LoopArguments, ModelArguments


if TYPE_CHECKING:
    from hf_transfer.data.loading import TransferData
    from hf_transfer.method_arguments import MethodArguments


NONE = "none"

# What `--alpha` and `--dropout` are called in the configs of PEFT; the first that a method has.
_ALPHA = ("lora_alpha", "alpha")
_DROPOUT = ("lora_dropout", "rank_dropout", "vera_dropout", "boft_dropout", "module_dropout")

__all__ = ["NONE", "AdapterArguments", "AdapterLoopArguments", "AdapterOptions"]


@dataclass
class AdapterOptions:
    """An adapter to train in place of the whole model."""

    _argument_group_name = "the adapter"  # a heading of --help

    adapter: str = field(
        default=NONE,
        metadata={
            "help": "Train this adapter of PEFT and the head in place of the whole model: lora, dora, rslora, pissa, "
            "adalora, ia3, loha, lokr, vera, oft, boft, ln_tuning, prefix_tuning, ...; none trains the model."
        },
    )
    rank: int | None = field(
        default=None,
        metadata={"help": "Rank of the adapter, where the method has one; by default PEFT's, 8 for lora."},
    )
    alpha: float | None = field(
        default=None,
        metadata={"help": "Scale of what the adapter adds: lora multiplies it by alpha / rank. By default the rank."},
    )
    dropout: float | None = field(
        default=None, metadata={"help": "Dropout inside the adapter, where the method has it; by default 0."}
    )
    adapter_options: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": 'Further fields of the PEFT config, as JSON: {"bias": "all"}; for prefix_tuning '
            '{"num_virtual_tokens": 10}.'
        },
    )
    target_modules: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Layers that get the adapter: attention, mlp, convolution, all, or names of modules; by default "
            "what suits method and model, which the run shows as a table."
        },
    )
    modules_to_save: list[str] = field(
        default_factory=list,
        metadata={"help": "Modules to train in full and save beside the adapter; the head always is."},
    )
    train_blocks: int = field(
        default=0,
        metadata={
            "help": "Train this many topmost blocks in full, without adapters; a --schedule can thaw them later."
        },
    )

    def __post_init__(self):
        if isinstance(self.adapter_options, str):
            self.adapter_options = json_object(
                "adapter_options",
                self.adapter_options,
                cost="the adapter would be another one",
                example='{"bias": "all"}',
            )
        if self.adapter == NONE:
            given = [f"--{name}" for name in self.settings() if name != "adapter"]
            if given:
                raise ValueError(
                    f"{' and '.join(given)} without an adapter: the whole model is trained, and the options would be "
                    "ignored. Name one, such as `--adapter lora`, or leave them out."
                )
            return
        if self.train_blocks < 0:
            raise ValueError(f"`--train_blocks {self.train_blocks}` is no number of blocks. Give 0 or more.")
        _ = self.options  # what it refuses is refused now

    @property
    def options(self) -> dict[str, Any]:
        """
        Options of the PEFT config.

        Raises:
            ValueError: if an option is given that the method does not have, or one is out of range.
        """
        method = method_of(self.adapter)
        given = {name: getattr(self, name) for name in ("rank", "alpha", "dropout") if getattr(self, name) is not None}
        names = _names(method) if given else {}
        for option, value in given.items():
            if option not in names:
                raise ValueError(
                    f"`--{option} {value}` with `--adapter {self.adapter}`, whose config has no such thing: it would "
                    f"be ignored. Leave it out; the fields of `peft.{method.config}` go into `--adapter_options`."
                )
            if value < 0 or (option == "dropout" and value >= 1) or (option == "rank" and value < 1):
                said = {"rank": "1 or more", "alpha": "a positive number", "dropout": "a share in [0, 1)"}[option]
                raise ValueError(f"`--{option} {value}` is out of range: no adapter can be built. Give {said}.")
        made = {names[option]: value for option, value in given.items()}
        if self.rank is not None and "alpha" in names:
            made.setdefault(names["alpha"], self.rank)  # as PEFT's own defaults have it, and the LoRA paper
        if self.rank is not None and names["rank"] == "target_r":
            made["init_r"] = round(1.5 * self.rank)  # the budget that AdaLoRA's paper begins with
        return made | cast("dict[str, Any]", self.adapter_options or {})

    def add_to(self, model: nn.Module) -> Any:
        """
        A model with the adapter in it; `model` itself where there is none.

        Args:
            model (`nn.Module`): a classifier; layers inside it are replaced.

        Raises:
            ValueError: if method and model do not fit.
            ImportError: without PEFT.
        """
        if self.adapter == NONE:
            return model
        targets: Any = self.target_modules[0] if len(self.target_modules) == 1 else self.target_modules
        return add_adapter(
            cast(Any, model),
            self.adapter,
            target_modules=targets or None,
            modules_to_save=self.modules_to_save or None,
            train_blocks=self.train_blocks,
            **self.options,
        )

    def settings(self) -> dict[str, Any]:
        """The options of [`AdapterOptions`] that differ from their defaults, by name; none without an adapter."""
        values = {f.name: getattr(self, f.name) for f in fields(AdapterOptions)}
        return {name: value for name, value in values.items() if value not in (None, [], 0, NONE)}

    def check_model(self, model_args: ModelArguments) -> None:
        """
        Refuse an adapter of a model that exists in this run only.

        Raises:
            ValueError: as said.
        """
        if self.adapter != NONE and model_args.model_type is not None:
            raise ValueError(
                f"`--adapter {self.adapter}` with `--model_type {model_args.model_type}`: only the adapter is saved, "
                "and the random weights below it would be lost. Pass a pretrained model with `--model_name_or_path`, "
                "or leave the adapter out."
            )


@dataclass
class AdapterArguments(AdapterOptions):
    """Which adapter, new or to train on, and what becomes of it."""

    adapter: str = field(
        default="lora",
        metadata={
            "help": "Adapter of PEFT to train beside the head: lora, dora, rslora, pissa, adalora, ia3, loha, lokr, "
            "vera, oft, boft, ln_tuning, prefix_tuning, ..."
        },
    )
    adapter_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Train on with this adapter, a Hub id or folder, in place of a new one; --model_name_or_path is "
            "then needed only where its base model has moved."
        },
    )
    adapter_revision: str = field(default="main", metadata={"help": "Its branch, tag or commit on the Hub."})
    merge: bool = field(
        default=False,
        metadata={
            "help": "Merge the adapter into the model at the end, compare both, and save the ordinary model that this "
            "gives in the folder `merged`."
        },
    )
    push_merged: bool = field(
        default=False,
        metadata={"help": "With --merge and --push_to_hub: push the merged model too, to a repository <name>-merged."},
    )

    def __post_init__(self):
        super().__post_init__()
        if self.adapter == NONE:
            raise ValueError(
                "`--adapter none` leaves this recipe nothing to do. Name an adapter, or train the whole model with "
                "recipes/finetune.py."
            )
        given = [f"--{name}" for name, value in self.settings().items() if (name, value) != ("adapter", "lora")]
        if self.adapter_name_or_path is not None and given:
            raise ValueError(
                f"{' and '.join(given)} with `--adapter_name_or_path {self.adapter_name_or_path}`: that adapter has "
                "a kind, a size and a place already, and the options would be ignored. Leave them out, or train a new "
                "adapter."
            )
        if self.merge and method_of(self.adapter).is_prompt:
            raise ValueError(
                f"`--merge` with `--adapter {self.adapter}`: it learns inputs, and there is nothing to add to the "
                "weights. Leave `--merge` out, or take an adapter of layers such as lora."
            )
        if self.push_merged and not self.merge:
            raise ValueError(
                "`--push_merged` without `--merge`: there is no merged model to push. Pass both, or neither."
            )

    def check(self, methods: MethodArguments, model_args: ModelArguments, args: LoopArguments) -> None:
        """
        Refuse what an adapter's folder cannot hold, before anything is loaded.

        Raises:
            ValueError: if a method changes weights below the adapter, or trains nothing of it.
        """
        self.check_model(model_args)
        if methods.transfer_from is not None:
            raise ValueError(
                f"`--transfer_from {methods.transfer_from}` below an adapter: only the adapter is saved, and the "
                "weights that were transferred would be lost. Start from that checkpoint by `--model_name_or_path`, "
                "or save the model with these weights first (recipes/finetune.py) and start from its folder."
            )
        if methods.reinitialize_blocks > self.train_blocks:
            raise ValueError(
                f"`--reinitialize_blocks {methods.reinitialize_blocks}` with `--train_blocks {self.train_blocks}`: "
                "what is drawn anew below an adapter neither trains nor is saved. Give `--train_blocks` at least as "
                "many, which trains and saves these blocks in full."
            )
        if methods.freeze == "backbone":
            raise ValueError(
                "`--freeze backbone` with an adapter: the adapter sits in the backbone and would never train. Leave "
                "`--freeze` out; `gradual` and a `--schedule` go with adapters."
            )
        if self.push_merged and not args.push_to_hub:
            raise ValueError("`--push_merged` without `--push_to_hub`: nothing is pushed. Pass both, or neither.")

    def load(self, model_args: ModelArguments, data: TransferData) -> tuple[Any, Any]:
        """
        The model to start from and its processor: pretrained, or with the adapter to train on.

        Args:
            model_args (`ModelArguments`): which model.
            data (`TransferData`): its classes.

        Raises:
            ValueError: if an adapter to train on tells other classes apart.
        """
        if self.adapter_name_or_path is None:
            return model_args.load(data)
        base = model_args.model_name_or_path
        loaded = load_adapter(
            self.adapter_name_or_path,
            base_model=None if base is None else resolve_name(base),
            revision=self.adapter_revision,
            trainable=True,
            trust_remote_code=model_args.trust_remote_code,
        )
        config: Any = loaded.model.config
        own, wanted = list(dict(config.id2label).values()), list(data.label_names or ())
        if config.num_labels != data.num_labels or (wanted and own != wanted):
            raise ValueError(
                f"The adapter `{self.adapter_name_or_path}` tells {_some(own)} apart, the data {_some(wanted)}: its "
                "head would name classes wrongly. Train on with data of the same classes in the same order; for "
                "others merge it (`--merge`) and start a new adapter from the merged model by "
                "`--model_name_or_path`."
            )
        return loaded.model, loaded.processor

    def put_on(self, model: Any, methods: MethodArguments, model_args: ModelArguments) -> Any:
        """The model with its new adapter; as it is where it came with one."""
        if self.adapter_name_or_path is not None:
            return model
        if methods.reinitialize_blocks and methods.reinitialize_blocks <= self.train_blocks:
            self._save_neck(model)
        model = self.add_to(model)
        if model_args.model_revision != "main":
            # the commit that the adapter's files name is looked up by it
            model.peft_config["default"].revision = model_args.model_revision
        return model

    def _save_neck(self, model: Any) -> None:
        """`reinitialize_blocks` draws the neck anew too: it is then not that of the base model."""
        neck = [name for name in anatomy(model).modules("neck") if any(True for _ in _parameters(model, name))]
        self.modules_to_save = list(dict.fromkeys([*self.modules_to_save, *neck]))


def _names(method: Method) -> dict[str, str]:
    """What rank, alpha and dropout are called in the config of a method; those that are missing it has not."""
    fields_of = {one.name for one in fields(getattr(peft(), method.config)) if one.init}
    ranks = () if "oft_block_size" in fields_of else ("target_r", "r")  # that of OFT counts blocks
    choices = {"rank": ranks, "alpha": _ALPHA, "dropout": _DROPOUT}
    found = {option: next((name for name in names if name in fields_of), None) for option, names in choices.items()}
    return {option: name for option, name in found.items() if name is not None}


def _parameters(model: nn.Module, name: str) -> Any:
    return model.get_submodule(name).parameters()


def _some(names: list[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown or "no classes"


@dataclass(repr=False)
class AdapterLoopArguments(LoopArguments):
    """`LoopArguments` with a learning rate for adapters."""

    # The LoRA paper (https://huggingface.co/papers/2106.09685, hyper-parameters of RoBERTa base, rank 8, alpha 8).
    learning_rate: float = field(
        default=5e-4,
        metadata={
            "help": "Learning rate of the adapter: about 10 times that of full fine-tuning. The LoRA paper takes 4e-4 "
            "to 5e-4 for RoBERTa base; ia3 and ln_tuning want 3e-3 or more."
        },
    )
