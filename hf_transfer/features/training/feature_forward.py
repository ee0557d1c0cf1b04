"""`FeatureForward`: a model that takes cached features instead of its inputs, and then runs its head alone."""

from __future__ import annotations

import copy
import inspect
import typing
from typing import Any

from torch import Tensor, nn

from hf_transfer.features.head_logits import head_logits


__all__ = ["FeatureForward"]


class FeatureForward:
    """
    Stands in for the `forward` of one model while it is put on: `model(features=..., labels=...)` runs the head alone
    and returns what the model would, the class of its outputs with loss and logits; any other call is the model's own.

    The model stays itself: its names, `state_dict`, class and hooks are untouched, so that it can be saved, pushed and
    trained at any time. A copy made by `copy.deepcopy` takes features too, a pickled one has its own forward back.

    Features were computed in evaluation mode. What a model does between them and the logits beside the head, such as
    the dropout of a BERT before its classifier, does not happen here.

    Args:
        model (`nn.Module`):
            Any classifier of `transformers`, also under PEFT, not yet wrapped for devices.
        head (`str`):
            Name of its head.

    Shape:
        - `features`: `(B, D)`, or `(B, T, D)` for token classification.
        - `labels`: `(B,)`, `(B, T)` for tokens, `(B, C)` for several labels a row; -100 is unlabelled.

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> model = BertForSequenceClassification(config).eval()
        >>> whole = model(input_ids=torch.ones(2, 3, dtype=torch.long)).logits
        >>> forward = FeatureForward(model, "classifier").put_on()
        >>> output = model(features=torch.zeros(2, 8), labels=torch.tensor([0, 1]))
        >>> type(output).__name__, output.logits.shape
        ('SequenceClassifierOutput', torch.Size([2, 2]))
        >>> torch.equal(model(input_ids=torch.ones(2, 3, dtype=torch.long)).logits, whole)
        True
        >>> forward.take_off()
    """

    def __init__(self, model: nn.Module, head: str):
        self.model = model
        self.head = head
        self.active = False
        """Whether features are taken."""
        self._output = output_class(model)
        self._before: Any = None
        self._inner: Any = None

    def put_on(self) -> FeatureForward:
        """Take the place of the model's forward, also of another object of this class. Returns itself."""
        present = vars(self.model).get("forward")
        if present is self:
            return self
        if isinstance(present, FeatureForward):
            present.take_off()
            present = vars(self.model).get("forward")
        self._before, self._inner = present, self.model.forward  # another library may have replaced it in the same way
        # `Trainer` keeps the columns of a data set that it finds here
        signature = inspect.signature(self._inner)
        names = [*signature.parameters.values()]
        place = next((i for i, name in enumerate(names) if name.kind is name.VAR_KEYWORD), len(names))
        names.insert(place, inspect.Parameter("features", inspect.Parameter.KEYWORD_ONLY, default=None))
        self.__signature__ = signature.replace(parameters=names)
        self.model.forward = self
        self.active = True
        return self

    def take_off(self) -> None:
        """Give the model its forward back; harmless if it has it."""
        self.active = False
        # Where mixed precision has wrapped it (`Accelerator.prepare`), it stays inside and hands on.
        if vars(self.model).get("forward") is self:
            if self._before is None:
                del self.model.forward
            else:
                self.model.forward = self._before

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Answer as the forward of the model."""
        if args and args[0] is self.model:
            args = args[
                1:
            ]  # `extract_model_from_parallel(keep_fp32_wrapper=False)` (accelerate 1.15) binds any callable
        if kwargs.get("features") is None:
            kwargs.pop("features", None)
        elif self.active:
            return self._of_features(kwargs["features"], kwargs.get("labels"), return_dict=kwargs.get("return_dict"))
        return self._inner(*args, **kwargs)

    def _of_features(self, features: Tensor, labels: Tensor | None, *, return_dict: bool | None) -> Any:
        config: Any = getattr(self.model, "config", None)
        logits = head_logits(self.model.get_submodule(self.head), features)
        loss = None if labels is None else _loss(logits, labels, config)
        if return_dict is None:
            return_dict = getattr(config, "return_dict", True)
        if not return_dict:
            return (logits,) if loss is None else (loss, logits)
        return self._output(loss=loss, logits=logits)

    def __deepcopy__(self, memo: dict[int, Any]) -> FeatureForward:
        twin = FeatureForward(copy.deepcopy(self.model, memo), self.head)
        memo[id(self)] = twin
        twin.active = self.active
        twin._before, twin._inner = copy.deepcopy(self._before, memo), copy.deepcopy(self._inner, memo)
        twin.__signature__ = self.__signature__
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        # read while the model is still empty: the forward of its class, and nothing of this package
        return getattr, (self.model, "forward")


def output_class(model: nn.Module) -> Any:
    """The class of what a classifier returns, as its forward declares."""
    from transformers.modeling_outputs import SequenceClassifierOutput
    from transformers.utils.generic import ModelOutput

    base: Any = model
    if hasattr(model, "get_base_model"):  # PEFT declares nothing
        base = base.get_base_model()
    try:
        declared = typing.get_type_hints(type(base).forward).get("return")
    except (NameError, TypeError):  # a class of the user's own
        declared = None
    kinds = [kind for kind in (*typing.get_args(declared), declared) if inspect.isclass(kind)]
    return next((kind for kind in kinds if issubclass(kind, ModelOutput)), SequenceClassifierOutput)


def _loss(logits: Tensor, labels: Tensor, config: Any) -> Tensor:
    """The loss as the classifiers of `transformers` compute it, by `config.problem_type`."""
    from transformers.loss.loss_utils import ForSequenceClassificationLoss, ForTokenClassification

    if logits.dim() > 2:
        return ForTokenClassification(logits, labels, config)
    if labels.shape == logits.shape:  # several labels a row, which may be whole numbers in the data
        labels = labels.to(logits.dtype)
    return ForSequenceClassificationLoss(labels, logits, config)
