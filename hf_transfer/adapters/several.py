"""One adapter of several: PEFT's weighted sum, with the heads, the norms and the ranks that it leaves out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hf_transfer.adapters.heads import labels_of, set_labels, switch_adapter
from hf_transfer.adapters.weighted import add_mean_copies, add_weighted, kept_copies
from hf_transfer.anatomy import anatomy


if TYPE_CHECKING:
    from peft import PeftModel

_ANY_RANK = ("cat", "svd", "ties_svd", "dare_linear_svd", "dare_ties_svd", "magnitude_prune_svd")

__all__ = ["combine_adapters"]


def combine_adapters(
    model: PeftModel,
    adapters: Sequence[str],
    weights: Sequence[float],
    *,
    name: str,
    method: str = "linear",
    head: str | None = None,
    **options: Any,
) -> PeftModel:
    r"""
    Make one adapter of several and activate it; the others stay.

    With LoRA the method says what is summed. `"cat"` is exact: the change of a weight is $\sum_i w_i \Delta_i$, and
    the rank the sum of the ranks. `"svd"` is the best approximation of that sum by a rank of the caller's.
    `"linear"` sums the factors, $\sum_i \sqrt{w_i} A_i$ and $\sum_i \sqrt{w_i} B_i$: for one adapter it is exact,
    for several it has products of one's $A$ with another's $B$. The others (`"ties"`, `"dare_linear"`, ...) are
    explained at PEFT's `add_weighted_adapter`, which does the sum and takes `options`, such as `svd_rank` and
    `density`. With IA3 the scales are summed, so that the weights should sum to 1.

    What PEFT refuses or leaves out is done here: modules that several adapters keep in full (heads, norms, whole
    blocks) and their running statistics become the weighted mean of theirs, with the weights divided by their sum;
    where an adapter keeps none, the base model's counts. Statistics of batch normalisation are those of no network
    then: estimate them anew, [`~hf_transfer.callbacks.AdaptBatchNorm`]. Biases of LoRA are summed. Ranks that differ
    by layer are written into the config, without which the saved adapter would not open. Initialisations that change
    the base model, such as PiSSA, are not run again.

    Args:
        model (`PeftModel`):
            With the adapters, all of one method.
        adapters (`Sequence[str]`):
            Their names.
        weights (`Sequence[float]`):
            One factor each, dimensionless; a negative one takes an adapter away.
        name (`str`):
            Of the new adapter.
        method (`str`, *optional*, defaults to `"linear"`):
            How LoRA is summed. IA3 knows one way.
        head (`str`, *optional*):
            The adapter whose head and labels the new one gets. Needed where heads differ in size or weights are
            negative.
        **options:
            Passed on to PEFT.

    Returns:
        `PeftModel`: the same model; the new adapter trains if one of its parts did.

    Raises:
        ValueError: if the names, the weights or the heads do not fit; if PEFT cannot sum adapters of this method (LoRA
            and IA3 only, no DoRA), or not in this way: other ranks, other kinds of targets. The model is then as it
            was.

    Relations:
        [`merge_adapter`] puts the result into the weights. Adapters whose predictions rather than weights should be
        averaged are run one by one, [`switch_adapter`].

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from hf_transfer.adapters import add_adapter
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> model = add_adapter(BertForSequenceClassification(config), name="one", r=2)
        >>> model = add_adapter(model, name="two", r=4)
        >>> model = combine_adapters(model, ["one", "two"], [0.5, 0.5], name="both", method="cat")
        >>> model.active_adapters, model.peft_config["both"].r
        (['both'], 6)
    """
    adapters, weights = list(adapters), [float(weight) for weight in weights]
    _check_names(model, adapters, weights, name)
    _check_method(model, adapters, method, options)
    labels = {adapter: labels_of(model, adapter) for adapter in adapters}
    of_head = _head_copies(model)
    _check_copies(model, adapters, weights, head, of_head)
    if head is None and len({tuple(sorted(one.id2label.items())) for one in labels.values()}) > 1:
        raise ValueError(
            f"The labels of {_listed(adapters)} differ: an output of the mean of their heads would stand for several "
            f'classes at once. Say whose head to take, `head="{adapters[0]}"`.'
        )
    active = model.active_adapters[0]
    trainable = any(_trains(model, adapter) for adapter in adapters)
    try:
        add_weighted(model, adapters, weights, name, method, options)
        add_mean_copies(model, adapters, weights, name, taken={} if head is None else dict.fromkeys(of_head, head))
    except Exception as error:
        if name in model.peft_config:
            model.delete_adapter(name)
        switch_adapter(model, active)
        raise ValueError(
            f'PEFT cannot combine {_listed(adapters)} by "{method}": {error} The model is as it was. Try '
            '`method="cat"` or `method="svd"`, which ask least of the adapters.'
        ) from error
    set_labels(model, name, labels[head or adapters[0]])
    return switch_adapter(model, name, trainable=trainable)


def _check_names(model: Any, adapters: list[str], weights: list[float], name: str) -> None:
    known = list(getattr(model, "peft_config", {}))
    unknown = [adapter for adapter in adapters if adapter not in known]
    if unknown or not adapters or len(set(adapters)) < len(adapters):
        wrong = f"`{unknown[0]}` is none of them" if unknown else "each is to be named once, and one at least"
        raise ValueError(
            f"The adapters to combine are {_listed(adapters) or 'none'}, the model has {_listed(known) or 'none'}: "
            f"{wrong}. Name some of those it has, or add another with `add_adapter(model, name=...)`."
        )
    if name in known:
        raise ValueError(
            f"The model already has an adapter `{name}`: PEFT would leave it as it is and combine nothing. Choose "
            f'another name, or `model.delete_adapter("{name}")` first.'
        )
    if len(weights) != len(adapters) or not all(map(math.isfinite, weights)):
        raise ValueError(
            f"{len(adapters)} adapters come with the weights {weights}: each needs one finite factor, and PEFT would "
            f"drop what has none. Pass as many weights as adapters: `{[round(1 / len(adapters), 3)] * len(adapters)}`."
        )


def _check_method(model: Any, adapters: list[str], method: str, options: dict[str, Any]) -> None:
    kinds = {
        adapter: str(getattr(kind := model.peft_config[adapter].peft_type, "value", kind)) for adapter in adapters
    }
    other = [adapter for adapter, kind in kinds.items() if kind not in ("LORA", "IA3")]
    if other:
        raise ValueError(
            f"`{other[0]}` is an adapter of the method {kinds[other[0]]}, which PEFT cannot sum: its change of the "
            "weights is no sum of parts. Combine adapters of LoRA or IA3, or merge one with `merge_adapter` and put "
            "the next on the result."
        )
    configs = [model.peft_config[adapter] for adapter in adapters]
    if kinds[adapters[0]] == "IA3":
        if method != "linear" or options:
            raise ValueError(
                f'method="{method}" with {_listed(options) or "no options"} was given for adapters of IA3, whose '
                "scales can only be summed. Leave `method` and the options of LoRA out."
            )
        return
    if any(config.use_dora or getattr(config, "alora_invocation_tokens", None) for config in configs):
        raise ValueError(
            "One of the adapters is a DoRA or another variant of LoRA: its change is scaled by the norm of the whole "
            "weight, so a sum of factors is not a sum of changes. Combine plain LoRA adapters, or merge one with "
            "`merge_adapter` and put the next on the result."
        )
    if len({config.lora_bias for config in configs}) > 1:
        raise ValueError(
            "Some of the adapters have `lora_bias` and some have not: PEFT would make the sum without it. Combine "
            "adapters that are alike in it."
        )
    ranks = {
        adapter: max([config.r, *config.rank_pattern.values()])
        for adapter, config in zip(adapters, configs, strict=True)
    }
    if len(adapters) > 1 and len(set(ranks.values())) > 1 and method not in _ANY_RANK:
        raise ValueError(
            f"The adapters have the ranks {', '.join(f'{adapter}: {rank}' for adapter, rank in ranks.items())}: "
            f'"{method}" sums factors, which must be alike in shape. Use `method="cat"` (exact, rank '
            f'{sum(ranks.values())}) or `method="svd", svd_rank={max(ranks.values())}`.'
        )


def _head_copies(model: Any) -> list[str]:
    """Names of the modules that adapters keep in full and that belong to the head or to what prepares its input."""
    found = anatomy(model.get_base_model())
    inside = [*found.modules("head"), *found.modules("neck")]
    wrappers = kept_copies(model)
    return [one for one in wrappers if any(f"{name}.".startswith((f"{one}.", f"{one}.modules_to")) for name in inside)]


def _check_copies(model: Any, adapters: list[str], weights: list[float], head: str | None, of_head: list[str]) -> None:
    """Whether there is a mean of the modules that adapters keep in full."""
    if head is not None and head not in adapters:
        raise ValueError(
            f'head="{head}" is none of the adapters that are combined ({_listed(adapters)}): its head expects '
            "features that are not in the sum. Name one of them."
        )
    averaged = {name: one for name, one in kept_copies(model).items() if head is None or name not in of_head}
    averaged = {name: one for name, one in averaged.items() if any(a in one.modules_to_save for a in adapters)}
    for name, wrapper in averaged.items():
        kept = [wrapper.modules_to_save[a] for a in adapters if a in wrapper.modules_to_save]
        sizes = {tuple((key, value.shape) for key, value in one.state_dict().items()) for one in kept}
        if len(sizes) > 1:
            raise ValueError(
                f"The copies of `{name}` in {_listed(adapters)} differ in size: they have no mean. Say whose head to "
                f'take, `head="{adapters[0]}"`.'
            )
    if averaged and (min(weights) < 0 or not sum(weights) > 0):
        raise ValueError(
            f"With the weights {weights} there is no weighted mean of `{next(iter(averaged))}`, which the adapters "
            f'keep in full. Use weights that are not negative, or take the head of one: `head="{adapters[0]}"`.'
        )


def _trains(model: Any, adapter: str) -> bool:
    return any(parameter.requires_grad for name, parameter in model.named_parameters() if adapter in name.split("."))


def _listed(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)
