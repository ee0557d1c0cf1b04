"""`add_adapter`: put an adapter of PEFT into any classifier of transformers, its layers chosen from the anatomy."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DataParallel, DistributedDataParallel
from transformers.utils import logging

from hf_transfer._blocks import ForwardOrder, bare_name
from hf_transfer._heads import possible_heads
from hf_transfer.adapters.choices import choose_saved, choose_targets
from hf_transfer.adapters.geometry import show_geometry
from hf_transfer.adapters.heads import follow_adapter
from hf_transfer.adapters.methods import DECOMPOSING, make_config, method_of, method_of_config, peft
from hf_transfer.adapters.prompts import check_prompt, prompt_sizes
from hf_transfer.adapters.reversible import let_gradients_in
from hf_transfer.anatomy import Anatomy, anatomy
from hf_transfer.attach import CHILD


if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

# What the forward of PEFT's models for these tasks passes on, see `PeftModelForSequenceClassification.forward` (0.21).
_PASSED = ("input_ids", "attention_mask", "inputs_embeds", "labels", "output_attentions", "output_hidden_states")

__all__ = ["adapted_anatomy", "add_adapter", "task_type"]

logger = logging.get_logger(__name__)


def add_adapter(
    model: nn.Module,
    method: str | PeftConfig = "lora",
    *,
    name: str = "default",
    target_modules: str | Sequence[str] | None = None,
    modules_to_save: Sequence[str] | None = None,
    train_blocks: int = 0,
    **options: Any,
) -> PeftModel:
    r"""
    Put an adapter into a classifier: choose the layers it goes to and what is trained in full beside it.

    By default it goes to every layer inside the blocks that the method can adapt (attention, MLPs and convolutions).
    Never to the head, embeddings or the router of a mixture of experts. The head is trained in full, and so is what
    the adapter's files need to bring the model back: weights that the base checkpoint lacks (a new pooler) and layers
    with running statistics. All that is written into a plain `PeftConfig`, so that the result is PEFT's own.

    Args:
        model (`nn.Module`):
            A classifier of `transformers`; it is changed in place. On a `PeftModel` another adapter is added and made
            the active one.
        method (`str` or `PeftConfig`, *optional*, defaults to `"lora"`):
            One of `METHODS`: LoRA (`lora`, `dora`, `rslora`, `pissa`, `olora`, `orthogonal`), `adalora`, `ia3`,
            `loha`, `lokr`, `vera`, `oft`, `boft`, `ln_tuning`, `prefix_tuning`, `prompt_tuning`, `p_tuning` and
            others. Or a config, which is taken as it is; only `target_modules` and `modules_to_save` are filled in
            where they are `None`.
        name (`str`, *optional*, defaults to `"default"`):
            Name of the adapter.
        target_modules (`str` or `Sequence[str]`, *optional*, defaults to `"all"`):
            `"attention"`, `"mlp"`, `"convolution"`, `"norm"`, `"all"`, a list of those, or what PEFT takes: a list of
            ends of names, a regular expression, `"all-linear"`.
        modules_to_save (`Sequence[str]`, *optional*):
            Names of more modules to train in full, instead of what lies between the last block and the head. The head
            and layers with running statistics are saved in any case.
        train_blocks (`int`, *optional*, defaults to 0):
            Train this many of the topmost blocks in full, as copies that PEFT keeps, without an adapter inside.
            `UnfreezingSchedule` can thaw them later.
        options:
            Fields of the config of the method, such as `r` and `lora_alpha`; `target_parameters` for weights of
            experts that are bare parameters.

    Deviations from the paper:
        IA3 scales keys, values and the input of what leads back from the MLP; of a convolution, which its paper does
        not have, the output.

    Raises:
        ImportError: if PEFT is not installed.
        ValueError: if the method is unknown, has no such option or nothing to adapt in this model; if a name matches
            nothing; if the model is one that cannot be wrapped now (objectives attached, compiled, on several ranks).

    Relations:
        [`adapter_summary`] shows what was chosen.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=2, num_attention_heads=2)
        >>> model = add_adapter(BertForSequenceClassification(config), "lora", r=2)
        >>> sorted(model.peft_config["default"].target_modules)
        ['dense', 'key', 'query', 'value']

    Paper: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, https://huggingface.co/papers/2106.09685
    """
    library = peft()
    wrapped = isinstance(model, library.PeftModel)
    owner: Any = model
    base: Any = owner.get_base_model() if wrapped else model
    _check_model(model, base, name, method)
    found = adapted_anatomy(base)
    task = task_type(base)
    if isinstance(method, str):
        kind = method_of(method)
        config: Any = make_config(method, options)
        config.task_type = task
    else:
        if options:
            raise ValueError(
                f"{', '.join(options)} beside a {type(method).__name__}: which of the two says how the adapter is "
                'made is unclear. Set them in the config, or name the method by a word: add_adapter(model, "lora").'
            )
        kind, config = method_of_config(method), copy.deepcopy(method)  # PEFT writes into the config it is given
        task = config.task_type
    saved = choose_saved(base, found, config, task, given=modules_to_save, train_blocks=train_blocks)
    _check_other_adapters(base, found, saved)
    if config.is_prompt_learning:
        if target_modules is not None or train_blocks:
            raise ValueError(
                f"{type(config).__name__} learns tokens before the input and leaves all layers as they are: there are "
                "no `target_modules` and `train_blocks`. Leave them out, or take a method that adapts layers."
            )
        if isinstance(method, str):
            check_prompt(base, method, task, head=found.head)
        for key, value in prompt_sizes(base, len(found.blocks)).items():
            if getattr(config, key) is None:
                setattr(config, key, value)
    elif hasattr(config, "target_modules"):
        choose_targets(base, found, config, kind, saved, asked=target_modules)
    config.modules_to_save = list(saved) or None  # PEFT adds to the list
    with warnings.catch_warnings():
        # said of every norm by PEFT (0.21), though layer-norm tuning is made for them
        warnings.filterwarnings("ignore", message="Unsupported layer type")
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        if wrapped:
            owner.add_adapter(name, config)
            owner.set_adapter(name)
            follow_adapter(owner)
            result: Any = owner
        else:
            result = library.get_peft_model(base, config, adapter_name=name)
    if isinstance(config.modules_to_save, list):
        config.modules_to_save = list(dict.fromkeys(config.modules_to_save))  # PEFT adds names that are there already
    _check_saved(result, name, saved)
    show_geometry(result)
    let_gradients_in(base)
    return result


def adapted_anatomy(model: nn.Module) -> Anatomy:
    """
    The anatomy of a model, also of one whose logits come from two heads: adapters leave both alone and save both.

    Raises:
        ValueError: as [`anatomy`], but for several heads.
    """
    heads = possible_heads(model, ForwardOrder(model).pieces())
    return anatomy(model, head=heads[0] if len(heads) > 1 else None)


def task_type(model: nn.Module) -> str | None:
    """
    PEFT's word for the task, or `None` where it has none (images, sound) or its forward does not fit the model's.

    Example:
        >>> from transformers import BertConfig, BertForTokenClassification
        >>> task_type(BertForTokenClassification(BertConfig(vocab_size=9, hidden_size=12, num_hidden_layers=1)))
        'TOKEN_CLS'
    """
    if getattr(model, "main_input_name", None) != "input_ids":
        return None
    parameters = inspect.signature(type(model).forward).parameters
    takes_all = any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values())
    if not takes_all and any(argument not in parameters for argument in _PASSED):
        return None
    kind = type(model).__name__
    if kind.endswith("ForTokenClassification"):
        return "TOKEN_CLS"
    return "SEQ_CLS" if kind.endswith("ForSequenceClassification") else None


def _check_model(model: nn.Module, base: nn.Module, name: str, method: Any) -> None:
    """Refuse what would fail later or silently train the wrong thing."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    if isinstance(model, DistributedDataParallel | DataParallel | OptimizedModule):
        raise ValueError(
            f"The model is a {type(model).__name__}, which holds the layers as they were when it was made: an adapter "
            "put in now would not be part of it. Add the adapter first, then wrap or compile."
        )
    if any(hasattr(one, CHILD) for one in (model, base)):
        raise ValueError(
            "Objectives are attached to the model, and their hooks sit on the head that would be replaced by a copy. "
            "Call `detach()`, add the adapter, and then `attach` to what `add_adapter` returns."
        )
    configs = getattr(model, "peft_config", {}) if model is not base else {}
    if name in configs:
        raise ValueError(
            f"The model has an adapter `{name}` already: it would be overwritten. Pass another `name`, or call "
            f'model.delete_adapter("{name}") first.'
        )
    if not configs and any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise ValueError(
            "The model holds layers of PEFT's without a PeftModel around them: they would be nested. Call "
            "`merge_and_unload()` or `unload()` first, or pass the PeftModel."
        )
    if getattr(base, "is_quantized", False) and method in DECOMPOSING:
        raise ValueError(
            f"The base is quantised, and {method} starts from a decomposition of its weights, which are rounded. "
            'Take "lora", "dora" or "rslora", or load the base in bfloat16.'
        )
    if any(parameter.dtype == torch.float16 for parameter in base.parameters()):
        logger.warning_once(
            "The base is in float16, and so is the copy of the head that will be trained: mixed precision in float16 "
            "refuses to unscale its gradients, and without it small updates are lost. Load the base with "
            "`dtype=torch.bfloat16` or `torch.float32`."
        )


def _check_other_adapters(base: nn.Module, found: Anatomy, saved: Sequence[str]) -> None:
    """All adapters of one model must save the same blocks: PEFT cannot look into the copy that another one keeps."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    held = {bare_name(name) for name, module in base.named_modules() if isinstance(module, ModulesToSaveWrapper)}
    adapted = [bare_name(name) for name, module in base.named_modules() if isinstance(module, BaseTunerLayer)]
    blocks = {bare_name(block) for block in found.blocks}
    differing = sorted(blocks & held - set(saved))
    differing += [one for one in saved if one not in held and any(name.startswith(f"{one}.") for name in adapted)]
    if differing:
        raise ValueError(
            f"`{differing[0]}` is trained whole by one adapter and not by another: PEFT keeps a copy of it for the "
            "one, in which the other cannot adapt layers. Add all adapters of a model with the same `train_blocks`."
        )


def _check_saved(model: Any, name: str, saved: Sequence[str]) -> None:
    """PEFT matches names by their ends; say so if it took others than were meant."""
    from peft.utils.other import ModulesToSaveWrapper

    base = model.get_base_model()
    taken = [
        bare_name(key)
        for key, module in base.named_modules()
        if isinstance(module, ModulesToSaveWrapper) and name in module.modules_to_save
    ]
    surplus = sorted({one for one in taken if not one.endswith(tuple(saved)) or taken.count(one) > 1})
    absent = [one for one in saved if not any(key.endswith(one) for key in taken)]
    if surplus or absent:
        raise RuntimeError(
            f"PEFT saves {', '.join(surplus) or 'no more'} beside what was meant, and misses "
            f"{', '.join(absent) or 'none'}: the adapter's files would not bring the model back. Please report the "
            f"class {type(base).__name__}; until then pass a `PeftConfig` of your own with `modules_to_save`."
        )
