"""A head with one output for each class of an episode."""

from __future__ import annotations

from typing import Any

from torch import nn

from hf_transfer.anatomy import anatomy


__all__ = ["give_episode_head"]


def give_episode_head(model: nn.Module, n_way: int) -> nn.Module:
    """
    Give a classifier a head of `n_way` outputs, the classes of an episode; one that it has already stays as it is.

    The numbers 0 to `n_way - 1` mean other classes in every episode, so the outputs are called `class_0`, `class_1`,
    and all begin alike, at zero: what a head drawn at random says of a class that is numbered at random must be
    unlearned in every episode, and in a few steps often is not.
    A fine-tuning that starts from the saved model brings labels of its own:
    `from_pretrained(folder, num_labels=..., ignore_mismatched_sizes=True)`.

    Args:
        model (`nn.Module`):
            A classifier of `transformers`, changed in place; under PEFT the active adapter gets the head.
        n_way (`int`):
            Number of outputs, at least 2.

    Returns:
        `nn.Module`: the same model.

    Raises:
        ValueError: if `n_way` is too small, or an adapter has no head of its own.
        TypeError: if the head is neither a linear layer nor a convolution.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> give_episode_head(BertForSequenceClassification(config), 5).classifier.out_features
        5

    Paper: Ye and Chao, "How to Train Your MAML to Excel in Few-Shot Classification", ICLR 2022,
    https://huggingface.co/papers/2106.16245
    """
    if n_way < 2:
        raise ValueError(
            f"`n_way={n_way}`: an episode of one class has nothing to tell apart. Pass 2 or more, 5 as most papers do."
        )
    names = [f"class_{number}" for number in range(n_way)]
    if hasattr(model, "peft_config"):  # told by attribute: `peft` is no dependency
        from hf_transfer.adapters.heads import give_head, head_layers

        owner: Any = model
        if not _is_of_episodes(owner.get_base_model(), names):
            give_head(owner, owner.active_adapters[0], names)
            for _, _, _, layer in head_layers(owner, owner.active_adapters[0]):
                _to_zero(layer)
        return model
    owner = model
    if _is_of_episodes(owner, names):
        return model
    layers = {path: _resized(owner, model.get_submodule(path), n_way) for path in anatomy(model).modules("head")}
    before = owner.config.num_labels
    for path, layer in layers.items():
        above, _, key = path.rpartition(".")
        model.get_submodule(above)._modules[key] = layer
    owner.config.num_labels = n_way  # which resets the names
    owner.config.id2label = dict(enumerate(names))
    owner.config.label2id = {name: number for number, name in enumerate(names)}
    owner.config.problem_type = "single_label_classification"
    for module in model.modules():
        # many models read it from here and not from the config
        if vars(module).get("num_labels") == before:
            module.num_labels = n_way  # pyright: ignore[reportArgumentType]
    return model


def _is_of_episodes(model: Any, names: list[str]) -> bool:
    return list((model.config.id2label or {}).values()) == names


def _to_zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def _resized(model: Any, layer: nn.Module, outputs: int) -> nn.Module:
    options: dict[str, Any] = {"bias": getattr(layer, "bias", None) is not None}
    if isinstance(layer, nn.Linear):
        new: nn.Module = nn.Linear(layer.in_features, outputs, **options)
    elif isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.groups == 1:
        shape = {key: getattr(layer, key) for key in ("kernel_size", "stride", "padding", "dilation")}
        new = type(layer)(layer.in_channels, outputs, **shape, **options)
    elif isinstance(layer, nn.Sequential) and len(layer):  # ResNet: flatten, then the layer
        *before, last = layer
        return nn.Sequential(*before, _resized(model, last, outputs))
    else:
        raise TypeError(
            f"The head is a `{type(layer).__name__}`: how one of another number of outputs would be made is unknown. "
            f"Load the model with that many labels, `from_pretrained(..., num_labels={outputs})`."
        )
    _to_zero(new)
    weight = layer.get_parameter("weight")
    return new.to(weight.device, weight.dtype).train(layer.training)
