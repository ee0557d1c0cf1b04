"""The heads of several tasks on one backbone, and what each of them reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from hf_transfer.batch import ModelSpec
from hf_transfer.multitask.task import Task


__all__ = ["TaskHeads", "token_states"]


def token_states(model: nn.Module) -> str:
    """
    Name of the module whose output are the states of all tokens: the base model, as heads for tokens read it.

    Raises:
        ValueError: if the model does not say which of its modules is the base model.
    """
    inner = _bare(model)
    base = getattr(inner, "base_model", inner)
    name = next((name for name, module in model.named_modules() if module is base), "")
    if not name or base is inner:
        raise ValueError(
            f"{type(inner).__name__} does not name its base model: the states of the tokens cannot be read for a task "
            "of kind `tokens`. Load the checkpoint with `AutoModelForTokenClassification` and give it tasks of tokens "
            "only."
        )
    return name


class TaskHeads(nn.ModuleDict):
    """
    A linear head for each task, on the features of the model or, for tokens, on the states of its tokens.

    Args:
        tasks (`Sequence[Task]`): the tasks, of different names.
        spec (`ModelSpec`): the widths of the model, and the model itself where a task is one of tokens.

    Raises:
        ValueError: if a task does not fit the kind of model.
    """

    def __init__(self, tasks: Sequence[Task], spec: ModelSpec):
        super().__init__()
        self.tasks = tuple(tasks)
        config: Any = getattr(spec.model, "config", None)
        self.of_tokens = "TokenClassification" in type(_bare(spec.model)).__name__
        """Whether the features of the model itself are those of tokens."""
        self.states = ""
        """Module whose output tasks of tokens read; empty where the features are of tokens, or no task asks."""
        for task in self.tasks:
            if self.of_tokens and task.kind != "tokens":
                raise ValueError(
                    f"Task `{task.name}` is a {task.kind}, but the model is a {type(_bare(spec.model)).__name__}: it "
                    "has features of tokens, none of whole rows. Load the checkpoint with "
                    "`AutoModelForSequenceClassification`, which serves tasks of both kinds."
                )
        if not self.of_tokens and any(task.kind == "tokens" for task in self.tasks):
            assert spec.model is not None
            self.states = token_states(spec.model)
        std = float(getattr(config, "initializer_range", 0.02) or 0.02)
        for task in self.tasks:
            width = int(config.get_text_config().hidden_size) if self._reads_states(task) else spec.feature_dim
            # as the model's own, so that an ordinary model can take its place: decoders have heads without a bias
            head = nn.Linear(width, task.num_labels, bias=self._reads_states(task) or _has_bias(spec))
            nn.init.normal_(head.weight, std=std)
            if head.bias is not None:
                nn.init.zeros_(head.bias)
            self[task.name] = head

    def _reads_states(self, task: Task) -> bool:
        return task.kind == "tokens" and not self.of_tokens

    def read(self, task: Task, features: Tensor, states: Mapping[str, Tensor]) -> Tensor:
        """What the head of a task is given: `(B, D)`, or `(B, T, D)` for tokens."""
        return states[self.states].float() if self._reads_states(task) else features

    def logits(self, task: Task, inputs: Tensor) -> Tensor:
        """The logits of a task, `(B, C)` or `(B, T, C)` float32, of what [`read`] gives."""
        return cast(nn.Linear, self[task.name])(inputs).float()


def _has_bias(spec: ModelSpec) -> bool:
    if spec.model is None or spec.anatomy is None:
        return True
    return getattr(spec.model.get_submodule(spec.anatomy.head), "bias", None) is not None


def _bare(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "peft_config") else model
