"""Adaptation while predicting, by the entropy of the predictions (TENT)."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers.utils import logging

from hf_transfer.adaptation.state import (
    class_shares,
    counted_rows,
    logits_of,
    own_parameters,
    refuse_without_classes,
    warn_of_collapse,
)
from hf_transfer.adaptation.target_data import LABELS, Collator, TargetData
from hf_transfer.attach import CHILD
from hf_transfer.functional.entropy import mean_entropy


logger = logging.get_logger(__name__)

__all__ = ["OnlinePredictions", "TestTimeEntropy", "adapt_at_test_time"]


class TestTimeEntropy:
    r"""
    Test-time adaptation by entropy (TENT): while it predicts, a model makes its predictions more certain.

    Of each batch the entropy $\frac{1}{B} \sum_i H(p_i)$ of the predictions takes a gradient step, in which only the
    scales and shifts of normalisation layers move (BatchNorm, LayerNorm, GroupNorm, RMSNorm). BatchNorm normalises by
    the batch; its running statistics stay as they are, all else is in evaluation mode.

    The model is changed from construction on, and `close()`, or the end of a `with` block, puts back what trains and
    which layers are in training mode. The adapted scales and shifts stay, unless `reset()` is called before.

    Args:
        model (`nn.Module`):
            Any classifier, full or under PEFT.
        learning_rate (`float`, *optional*, defaults to 1e-3):
            Of Adam; the paper's value for small images. For LayerNorm models 1e-4 is a careful start.
        steps (`int`, *optional*, defaults to 1):
            Gradient steps a batch; one in the paper. What is returned was computed before the last of them.
        episodic (`bool`, *optional*, defaults to `False`):
            Whether each batch starts from the model as it was, so that nothing adds up.
        optimizer (`Callable`, *optional*):
            Makes another optimizer of a list of parameters.

    Shape:
        - `(B, C)` logits; `(B, T, C)` of a token classifier, where each token counts that `attention_mask` counts.

    Degenerate batches:
        With BatchNorm a single row has no statistics of its own: it is predicted with the running ones, without a
        step, which is warned of once.

    Deviations from the paper:
        Dropout is off, and every kind of normalisation is adapted, not BatchNorm alone.

    Raises:
        ValueError: if the model has no softmax over classes or no normalisation with a scale, or an option is out of
            range.

    Relations:
        Small or one-sided batches lead it astray; large learning rates let it collapse, of which `close()` warns.
        [`adapt_batch_norm`] moves statistics only and cannot collapse. [`adapt_source_free`] goes over the target
        several times. Adapted scales of a BatchNorm model belong to statistics of the target: after `close()` call
        [`adapt_batch_norm`] before the model predicts on.

    Example:
        >>> from transformers import ResNetConfig, ResNetForImageClassification
        >>> model = ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])).eval()
        >>> with TestTimeEntropy(model) as adapting:
        ...     adapting(pixel_values=torch.randn(4, 3, 16, 16)).logits.shape
        torch.Size([4, 2])

    Paper: Wang et al., "Tent: Fully Test-Time Adaptation by Entropy Minimization", 2021, https://huggingface.co/papers/2006.10726
    """

    __test__ = False  # pytest takes a class of this name for a test of its own

    def __init__(
        self,
        model: nn.Module,
        *,
        learning_rate: float = 1e-3,
        steps: int = 1,
        episodic: bool = False,
        optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None = None,
    ):
        refuse_without_classes(model, type(self).__name__)
        if steps < 1 or learning_rate <= 0:
            raise ValueError(
                f"`steps={steps}`, `learning_rate={learning_rate}`: the model would stay as it is. Give at least one "
                "step and a positive rate, such as 1e-3."
            )
        parameters = norm_parameters(model)
        self.model, self.steps, self.episodic = model, steps, episodic
        self._norms = [m for m in _own_modules(model) if isinstance(m, _BatchNorm)]
        self._trained = {parameter: parameter.requires_grad for parameter in model.parameters()}
        self._modes = {module: module.training for module in model.modules()}
        self._momenta = {norm: norm.momentum for norm in self._norms}
        self._before = [(parameter, parameter.detach().clone()) for parameter in parameters]
        self._shares: list[Tensor] = []
        self._open = True
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
        model.eval()
        self._by_batch(True)
        self.optimizer = optimizer(parameters) if optimizer else torch.optim.Adam(parameters, lr=learning_rate)
        self._fresh = deepcopy(self.optimizer.state_dict())

    def _by_batch(self, value: bool) -> None:
        for norm in self._norms:
            norm.training = value
            # The statistics of the batch have no share in the running ones.
            norm.momentum = 0.0

    def __call__(self, **inputs: Any) -> Any:
        """
        The model's output for a batch, from which it has learned; labels are left out.

        Raises:
            RuntimeError: after `close()`.
        """
        if not self._open:
            raise RuntimeError(
                "This TestTimeEntropy is closed: the model is no longer set up to learn. Make another with "
                "`TestTimeEntropy(model)`."
            )
        inputs = {name: value for name, value in inputs.items() if name not in LABELS}
        if self.episodic:
            self.reset()
        rows = next((len(value) for value in inputs.values() if isinstance(value, Tensor) and value.dim()), 0)
        if rows < 2 and self._norms:
            return self._predicted(inputs)
        output: Any = None
        counters = [(c, c.clone()) for c in (norm.num_batches_tracked for norm in self._norms) if c is not None]
        for _ in range(self.steps):
            with torch.inference_mode(False), torch.enable_grad():
                output = self.model(**inputs)
                logits = counted_rows(logits_of(output), inputs)[0]
                self.optimizer.zero_grad()
                mean_entropy(logits.float()).backward()
                self.optimizer.step()
                self.optimizer.zero_grad()
        for counter, value in counters:
            counter.copy_(value)
        self._note(logits_of(output).detach(), inputs)
        return _detached(output)

    def _predicted(self, inputs: dict[str, Any]) -> Any:
        logger.warning_once(
            "TestTimeEntropy got a batch of one row: BatchNorm cannot take statistics from it. It is predicted with "
            "the running ones and nothing is learned. Collect more rows a batch."
        )
        self._by_batch(False)
        try:
            with torch.no_grad():
                return self.model(**inputs)
        finally:
            self._by_batch(True)

    def _note(self, logits: Tensor, inputs: dict[str, Any]) -> None:
        shares = class_shares(counted_rows(logits, inputs)[0])
        self._shares = [*self._shares[:1], shares]

    def reset(self) -> None:
        """Scales, shifts and the optimizer as they were at first."""
        with torch.no_grad():
            for parameter, value in self._before:
                parameter.copy_(value)
        self.optimizer.load_state_dict(deepcopy(self._fresh))

    def close(self) -> bool:
        """
        Put back what trains and which layers are in training mode. Closing twice is harmless.

        Returns:
            `bool`: whether the model has collapsed to one class from the first batch to the last.
        """
        if not self._open:
            return False
        self._open = False
        for parameter, requires_grad in self._trained.items():
            parameter.requires_grad_(requires_grad)
        for module, mode in self._modes.items():
            module.training = mode
        for norm, momentum in self._momenta.items():
            norm.momentum = momentum
        if len(self._shares) < 2:
            return False
        advice = "Call `reset()`, lower `learning_rate`, pass `episodic=True`, or take `adapt_batch_norm`."
        return warn_of_collapse(type(self).__name__, self._shares[0], self._shares[-1], advice)

    def __enter__(self) -> TestTimeEntropy:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@dataclass(frozen=True)
class OnlinePredictions:
    """
    What [`adapt_at_test_time`] predicted on the way.

    Args:
        logits (`Tensor`): `(N, C)` in the order of the rows, on the CPU; of a token classifier one row for each token
            that counts.
        entropy (`tuple[float, ...]`): mean entropy of the predictions of each batch, in nats.
        collapsed (`bool`): whether nearly all rows of the last batch are given one class, and not of the first.
    """

    logits: Tensor
    entropy: tuple[float, ...]
    collapsed: bool


def adapt_at_test_time(
    model: nn.Module,
    data: Any,
    *,
    collator: Collator | None = None,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    steps: int = 1,
    episodic: bool = False,
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None = None,
) -> OnlinePredictions:
    """
    Test-time adaptation by entropy (TENT) in one call: predict the target, and learn from each batch on the way.

    Each batch is predicted once, before the model has learned from it. The model stays adapted.

    Args:
        model (`nn.Module`):
            Any classifier, full or under PEFT; changed in place.
        data (`datasets.Dataset`, `torch.utils.data.Dataset`, `DataLoader` or iterable of batches):
            Rows or collated batches of the target, in the order in which they come. Labels in them are taken out.
        collator (`Callable`, *optional*):
            Makes a batch of rows; by default `default_data_collator`, or that of a loader.
        batch_size (`int`, *optional*, defaults to 32):
            Rows of a batch; the paper takes 64 to 200.
        learning_rate, steps, episodic, optimizer: see [`TestTimeEntropy`].

    Raises:
        ValueError: as [`TestTimeEntropy`] does, and if there are no data.

    Relations:
        [`TestTimeEntropy`] does it batch by batch, for a stream. See there for what can go wrong.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> model = BertForSequenceClassification(config).eval()
        >>> adapt_at_test_time(model, [{"input_ids": torch.arange(8).reshape(4, 2)}]).logits.shape
        torch.Size([4, 2])

    Paper: Wang et al., "Tent: Fully Test-Time Adaptation by Entropy Minimization", 2021, https://huggingface.co/papers/2006.10726
    """
    target = TargetData(model, data, collator=collator, batch_size=batch_size)
    options: dict[str, Any] = {"learning_rate": learning_rate, "steps": steps, "optimizer": optimizer}
    adapting = TestTimeEntropy(model, episodic=episodic, **options)
    logits: list[Tensor] = []
    collapsed = False
    try:
        for _, inputs in target.batches():
            logits.append(counted_rows(logits_of(adapting(**inputs)), inputs)[0].float().cpu())
    finally:
        collapsed = adapting.close()
    if not logits:
        raise ValueError(
            "The target data have no batch: there is nothing to predict. Give rows of the target domain; they need no "
            "labels."
        )
    return OnlinePredictions(torch.cat(logits), tuple(mean_entropy(each).item() for each in logits), collapsed)


def norm_parameters(model: nn.Module) -> list[nn.Parameter]:
    """
    Scales and shifts of the normalisation layers of a model, those of objectives left out.

    Raises:
        ValueError: if there are none.
    """
    own = {id(parameter) for parameter in own_parameters(model).values()}
    found: dict[nn.Parameter, None] = {}
    for module in _own_modules(model):
        # By name: the models of transformers bring RMSNorm and LayerNorm of their own, which share no class.
        parameters = [p for p in module._parameters.values() if p is not None and id(p) in own]
        if "norm" in type(module).__name__.lower() and all(p.dim() == 1 for p in parameters):
            found.update(dict.fromkeys(parameters))
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no normalisation layer with a scale or shift: these alone are adapted at "
            "test time, and there is nothing to train. Take `adapt_source_free`, which trains the whole backbone."
        )
    return list(found)


def _own_modules(model: nn.Module) -> list[nn.Module]:
    return [module for name, module in model.named_modules() if name.split(".")[0] != CHILD]


def _detached(output: Any) -> Any:
    if isinstance(output, dict):
        for name, value in output.items():
            if isinstance(value, Tensor):
                output[name] = value.detach()
        return output
    return tuple(value.detach() if isinstance(value, Tensor) else value for value in output)
