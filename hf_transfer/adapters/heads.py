"""A head for each adapter, of its own size and with its own labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from hf_transfer._blocks import bare_name
from hf_transfer.anatomy import anatomy


if TYPE_CHECKING:
    from peft import PeftModel

_TABLE = "adapter_labels"

__all__ = ["HeadLabels", "follow_adapter", "give_head", "head_layers", "labels_of", "set_labels", "switch_adapter"]


@dataclass(frozen=True)
class HeadLabels:
    """
    What the config of a model says about its outputs.

    Args:
        id2label (`Mapping[int, str]`): names of the outputs.
        problem_type (`str`, *optional*): as in the config; None leaves it to the first loss.
    """

    id2label: Mapping[int, str]
    problem_type: str | None = None

    @property
    def num_labels(self) -> int:
        """How many outputs there are."""
        return len(self.id2label)


@dataclass
class _Labels:
    """Kept with the adapter model: whose labels the config shows, those of the base, and those of each adapter."""

    shown: str
    base: HeadLabels
    of: dict[str, HeadLabels]


def switch_adapter(model: PeftModel, name: str, *, trainable: bool = True) -> PeftModel:
    """
    Make one of several adapters the active one, with its head and its labels.

    PEFT's `set_adapter` changes the adapter and the head; the config of the model goes on to name the labels of the
    one before, and its loss to expect as many. Call this in its place wherever adapters differ in their labels.

    Args:
        model (`PeftModel`):
            With several adapters.
        name (`str`):
            The one to activate.
        trainable (`bool`, *optional*, defaults to `True`):
            Whether it trains. All others are frozen.

    Returns:
        `PeftModel`: the same model.

    Raises:
        ValueError: if there is no adapter of that name.

    Relations:
        [`give_head`] gives an adapter a head of another size.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from hf_transfer.adapters import add_adapter
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> model = add_adapter(BertForSequenceClassification(config), name="mood")
        >>> model = add_adapter(model, name="topic")
        >>> model = give_head(model, "topic", ["art", "sport", "law"])
        >>> switch_adapter(model, "topic").config.num_labels, switch_adapter(model, "mood").config.num_labels
        (3, 2)
    """
    _check_name(model, name)
    _table(model)
    model.set_adapter(name, inference_mode=not trainable)
    others = [other for other in model.peft_config if other != name]
    if not model.peft_config[name].is_prompt_learning:
        model.set_requires_grad(others, False)
    _table(model)
    return model


def follow_adapter(model: PeftModel) -> None:
    """Give the config the labels of the active adapter, which PEFT's `set_adapter` alone leaves behind."""
    _table(model)


def labels_of(model: PeftModel, name: str) -> HeadLabels:
    """
    The labels of one adapter, active or not.

    Raises:
        ValueError: if there is no adapter of that name.
    """
    _check_name(model, name)
    return _table(model).of[name]


def give_head(model: PeftModel, name: str, labels: Sequence[str] | HeadLabels) -> PeftModel:
    """
    Give an adapter a new head with labels of its own; the heads of other adapters stay as they are.

    PEFT copies the base model's head for each adapter and has no way to a head of another size (peft#2136), but runs,
    saves and merges whatever stands in the copy's place.

    Args:
        model (`PeftModel`):
            The model.
        name (`str`):
            The adapter; its head must be among its `modules_to_save`, as `add_adapter` arranges.
        labels (`Sequence[str]` or [`HeadLabels`]):
            Names of the outputs.

    Raises:
        ValueError: if there is no such adapter, it has no head of its own, or there are no labels.
        TypeError: if the head is neither a linear layer nor a convolution.
    """
    _check_name(model, name)
    if not isinstance(labels, HeadLabels):
        labels = HeadLabels(dict(enumerate(labels)))
    if not labels.num_labels:
        raise ValueError(
            "No labels were given: a head without outputs has nothing to learn. Name each output, such as "
            '`["no", "yes"]`; a regression has one, `["score"]`.'
        )
    _table(model)
    for _, holder, key, layer in list(head_layers(model, name)):
        holder._modules[key] = _resized(model, layer, labels.num_labels)
    set_labels(model, name, labels)
    return model


def set_labels(model: PeftModel, name: str, labels: HeadLabels) -> None:
    """
    Say what the outputs of an adapter's head are called; the head itself stays.

    Raises:
        ValueError: if there is no adapter of that name.
    """
    _check_name(model, name)
    table = _table(model)
    table.of[name] = labels
    if table.shown == name:
        _show(model, labels)


def head_layers(model: PeftModel, name: str) -> Iterator[tuple[str, nn.Module, str, nn.Module]]:
    """
    The layers of an adapter's head that return logits: name in the base model, module it stands in, name there, layer.

    Raises:
        ValueError: if the adapter has no head of its own.
    """
    from peft.utils.other import ModulesToSaveWrapper

    base = model.get_base_model()
    wrappers = {
        bare_name(path): module for path, module in base.named_modules() if isinstance(module, ModulesToSaveWrapper)
    }
    for path in dict.fromkeys(map(bare_name, anatomy(base).modules("head"))):
        above = next((one for one in wrappers if f"{path}.".startswith(f"{one}.")), None)
        copies = {} if above is None else wrappers[above].modules_to_save
        if above is None or name not in copies:
            raise ValueError(
                f"The adapter `{name}` has no head of its own: all such adapters share `{path}` of the base model, "
                "which stays as it is. Add it with the head saved, as `add_adapter(model, name=...)` does."
            )
        inner = path[len(above) + 1 :]
        holder_path, _, key = inner.rpartition(".")
        holder: Any = copies if not inner else copies[name].get_submodule(holder_path)
        key = key or name
        yield path, holder, key, holder._modules[key]


def _resized(model: Any, layer: nn.Module, outputs: int) -> nn.Module:
    weight = layer.get_parameter("weight")
    options: dict[str, Any] = {
        "bias": getattr(layer, "bias", None) is not None,
        "device": weight.device,
        "dtype": weight.dtype,
    }
    if isinstance(layer, nn.Linear):
        new: nn.Module = nn.Linear(layer.in_features, outputs, **options)
    elif isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.groups == 1:
        shape = {key: getattr(layer, key) for key in ("kernel_size", "stride", "padding", "dilation")}
        new = type(layer)(layer.in_channels, outputs, **shape, **options)
    else:
        raise TypeError(
            f"The head is a `{type(layer).__name__}`: how one of {outputs} outputs would be made is unknown. Load the "
            "base model with that many labels, `num_labels=...`, and put the adapter on it."
        )
    model.get_base_model()._init_weights(new)  # as the head of a new model
    new.requires_grad_(weight.requires_grad).train(layer.training)
    return new


def _check_name(model: Any, name: str) -> None:
    adapters = getattr(model, "peft_config", {})
    if name not in adapters:
        raise ValueError(
            f"There is no adapter `{name}`: the model has {', '.join(f'`{one}`' for one in adapters) or 'none'}. Add "
            f'it first, `add_adapter(model, name="{name}")`, or name one of these.'
        )


def _table(model: Any) -> _Labels:
    """The labels by adapter, up to date with what was done to the model since."""
    table = vars(model).get(_TABLE)
    if table is None:
        shown = model.active_adapters[0] if model.active_adapters else next(iter(model.peft_config))
        table = vars(model)[_TABLE] = _Labels(shown, _shown(model), {})
    # what was changed in the config by hand, such as the names of labels, belongs to the adapter that it shows
    table.of[table.shown] = _shown(model)
    table.of = {name: table.of.get(name, table.base) for name in model.peft_config}
    active = model.active_adapters
    if len(active) == 1 and active[0] != table.shown:
        _show(model, table.of[active[0]])
        table.shown = active[0]
    return table


def _shown(model: Any) -> HeadLabels:
    config = model.get_base_model().config
    # PVT has a field `num_labels` of its own and no table of names (transformers 5.23)
    names = config.id2label or {label: f"LABEL_{label}" for label in range(config.num_labels)}
    return HeadLabels(dict(names), config.problem_type)


def _show(model: Any, labels: HeadLabels) -> None:
    base = model.get_base_model()
    before = base.config.num_labels
    config = base.config
    config.num_labels = labels.num_labels  # which resets the names
    config.id2label = dict(labels.id2label)
    config.label2id = {label: number for number, label in labels.id2label.items()}
    config.problem_type = labels.problem_type
    for module in base.modules():
        # many models read it from here and not from the config
        if vars(module).get("num_labels") == before:
            module.num_labels = labels.num_labels
