"""Learning rates by part of the model, as real `lr` values in the optimizer's groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn
from torch.optim import Optimizer

from hf_transfer.anatomy import Anatomy
from hf_transfer.attach import CHILD
from hf_transfer.callbacks.selection import select_parameters


__all__ = ["layer_decay_exponent", "learning_rates", "lora_output_matrices", "split_groups"]


def layer_decay_exponent(part: str, num_blocks: int) -> int:
    """
    How many times the layer decay applies to a part: 0 for head and neck, 1 for the topmost block, one more for each
    block below it, and the most for the embeddings.

    Example:
        >>> [layer_decay_exponent(part, 2) for part in ("embeddings", "block.0", "block.1", "head")]
        [3, 2, 1, 0]
    """
    if part == "embeddings":
        return num_blocks + 1
    if part.startswith("block."):
        return num_blocks - int(part.removeprefix("block."))
    return 0


def lora_output_matrices(names: Iterable[str]) -> list[str]:
    """
    Of parameter names, those of the matrices $B$ of LoRA's $B A x$, with a bias that PEFT put beside one.

    The pair of an embedding is left out: its input has one entry that is not zero, so that neither matrix sums over
    the width of the model, which is what LoRA+ makes up for. So is DoRA's magnitude, which is a scale and no factor.

    Example:
        >>> layer = "base_model.model.query"
        >>> lora_output_matrices([f"{layer}.{word}.default.weight" for word in ("lora_A", "lora_B", "base_layer")])
        ['base_model.model.query.lora_B.default.weight']
    """
    return [name for name in names if "lora_B" in name.split(".")]


def learning_rates(
    model: nn.Module,
    anatomy: Anatomy,
    *,
    base: float,
    head: float | None = None,
    objective: float | None = None,
    layer_decay: float = 1.0,
    by_name: Mapping[str, float] | None = None,
    lora_plus_ratio: float = 1.0,
) -> dict[str, float]:
    """
    The learning rate of every parameter of a model.

    Args:
        model (`nn.Module`): the model, objectives attached or not.
        anatomy (`Anatomy`): its anatomy.
        base (`float`): rate of what nothing else names.
        head (`float`, *optional*): rate of the head; by default `base`.
        objective (`float`, *optional*): rate of the objectives' parameters; by default that of the head.
        layer_decay (`float`, *optional*, defaults to 1.0): factor from each block to the one below it.
        by_name (`Mapping[str, float]`, *optional*): rates by part or name pattern; they win, the later over the
            earlier.
        lora_plus_ratio (`float`, *optional*, defaults to 1.0): LoRA+, the factor (dimensionless) by which the matrices
            $B$ of LoRA learn faster than they would by all else.

    Returns:
        `dict[str, float]`: rate by parameter name.

    Deviations from the paper:
        The code of LoRA+ gives its ratio to biases, norms and DoRA's magnitude too, and the adapters of embeddings a
        fixed rate of 1e-6. Here all of them keep the rate of their part; `by_name={"*.lora_embedding_*": 1e-6}` sets
        another.

    Raises:
        ValueError: if a name in `by_name` matches no parameter, or there is no LoRA for the ratio.

    Paper: Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification", ACL 2018, https://huggingface.co/papers/1801.06146
    Paper: Hayou et al., "LoRA+: Efficient Low Rank Adaptation of Large Models", ICML 2024, https://huggingface.co/papers/2402.12354
    """
    of_objectives = [name for name, _ in model.named_parameters() if name.startswith(f"{CHILD}.")]
    parts = {**anatomy.parts(), CHILD: of_objectives}
    head = base if head is None else head
    by_part = {"head": head, CHILD: head if objective is None else objective}
    rates: dict[str, float] = {}
    for part, names in parts.items():
        rate = base * layer_decay ** layer_decay_exponent(part, len(anatomy.blocks))
        rates.update(dict.fromkeys(names, by_part.get(part, rate)))
    for pattern, rate in (by_name or {}).items():
        rates.update(dict.fromkeys(select_parameters(parts, [pattern]), rate))
    if lora_plus_ratio != 1:
        matrices = lora_output_matrices(rates)
        if not matrices:
            raise ValueError(
                f"`lora_plus_ratio={lora_plus_ratio}` for {type(model).__name__}, which has no LoRA: there is no "
                "matrix B to learn faster, and the ratio would be ignored. Put one in with "
                'add_adapter(model, "lora"), or leave the ratio at 1.0.'
            )
        rates.update((name, rates[name] * lora_plus_ratio) for name in matrices)
    return rates


def split_groups(
    optimizer: Optimizer, named_parameters: Iterable[tuple[str, nn.Parameter]], rates: Mapping[str, float]
) -> None:
    """
    Split an optimizer's groups so that all parameters of a group share their rate; everything else of a group is kept.

    To be called before the first step and before a scheduler is made, which reads the rates it scales from the groups.
    """
    names = {id(parameter): name for name, parameter in named_parameters}
    groups = []
    for group in optimizer.param_groups:
        by_rate: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_rate.setdefault(rates.get(names[id(parameter)], group["lr"]), []).append(parameter)
        groups += [{**group, "params": parameters, "lr": rate} for rate, parameters in by_rate.items()]
    optimizer.param_groups = groups
