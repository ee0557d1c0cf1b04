"""L2 distance to the starting point (L2-SP)."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.fingerprint import fingerprint, whole
from hf_transfer.functional.starting_point import compact, low_rank_squared_norm, squared_distance
from hf_transfer.objective import Objective
from hf_transfer.schedules import Schedule


class _LowRankStart(NamedTuple):
    """A PEFT layer whose weight moves by `scaling * up @ down`, and where the two factors started."""

    layer: str
    adapter: str
    down: Tensor
    up: Tensor
    zero: bool  # as LoRA starts; not PiSSA or OLoRA


class L2SP(Objective):
    r"""
    L2 distance to the starting point (L2-SP): let the weights move from the pretrained ones only as far as it pays.

    With pretrained weights $w^0$ of everything before the head, and head $h$, the term is

    $$ L = \tfrac{1}{2} \lVert w - w^0 \rVert_2^2 + \tfrac{\beta}{2} \lVert h \rVert_2^2 $$

    Under PEFT, $w$ is the weight in effect: for LoRA, $w - w^0 = s B A$, computed from the factors. Adapters of other
    kinds are held to the values they start from.

    Args:
        head_decay (`float`, *optional*, defaults to 0.0):
            $\beta$, the pull of the new head to zero relative to `weight` (dimensionless).
        weight (`float` or `Schedule`, *optional*, defaults to 0.01):
            $\alpha$, the strength of the pull (dimensionless); the paper searches 0.1 to 0.0001.

    Shape:
        - `batch.model`: the attached model; nothing of the data is read.
        - returns: scalar float32, dimensionless; zero at the start of training where `head_decay` is 0.

    Degenerate batches:
        Does not depend on the batch.

    Deviations from the paper:
        `head_decay` is 0 where the paper takes 0.01 (the pull to zero of a head is what `weight_decay` does; with
        both,
        it is counted twice). Biases and norms are held to their start like any weight.

    Raises:
        ValueError: if `head_decay` is negative; at attach time if nothing before the head is trainable; on resume if
            the model was not started from the weights the run began with.

    Relations:
        `weight_decay` pulls every weight to zero, away from the pretrained ones: set it to 0 beside this term.
        Freezing
        is the limit of an infinite weight. The starting point stays in host memory (in bfloat16 where that is exact)
        and
        is streamed, so the device holds no second copy of the model; under FSDP2 each rank keeps its shard.

    Example:
        >>> L2SP(weight=0.1).config()
        {'head_decay': 0.0, 'weight': 0.1}

    Paper: Li et al., "Explicit Inductive Bias for Transfer Learning with Convolutional Networks", ICML 2018, https://huggingface.co/papers/1802.01483
    """

    fingerprint: Tensor

    def __init__(self, *, head_decay: float = 0.0, weight: float | Schedule = 0.01):
        super().__init__(weight=weight)
        if head_decay < 0:
            raise ValueError(
                f"`head_decay={head_decay}` is negative: the head would grow without bound. Give zero or a positive "
                "number, such as the paper's 0.01."
            )
        self.head_decay = head_decay

    def build(self, spec: ModelSpec) -> Self:
        """Remember the weights the model has now."""
        assert spec.model is not None and spec.anatomy is not None  # `attach` gives both
        parts = spec.anatomy.parts()
        trainable = {
            name: parameter
            for part, names in parts.items()
            for name, parameter in ((name, spec.model.get_parameter(name)) for name in names)
            if parameter.requires_grad and part != "head"
        }
        factors = _low_rank_factors(spec.model, set(trainable))
        self._low_rank = [
            _LowRankStart(layer, adapter, down.detach().cpu().clone(), up.detach().cpu().clone(), not up.any())
            for layer, adapter, down, up in factors
        ]
        factor_ids = {id(factor) for _, _, *pair in factors for factor in pair}
        self._head = [name for name in parts["head"] if spec.model.get_parameter(name).requires_grad]
        # Plain attributes: not saved, not broadcast by DDP, not sharded, not moved to the device.
        self._references = {
            name: _keep(parameter) for name, parameter in trainable.items() if id(parameter) not in factor_ids
        }
        if not self._references and not self._low_rank:
            raise ValueError(
                "L2SP finds no trainable parameter before the head: the backbone was frozen before the objective was "
                "attached, and its distance is always zero. Drop L2SP, or freeze with `FreezeBackbone` / "
                "`UnfreezingSchedule`, which act when training starts."
            )
        self.register_buffer("fingerprint", self._fingerprint())
        return self

    def _fingerprint(self) -> Tensor:
        """Tells one starting point from another, for `load_state_dict`."""
        return fingerprint([*self._references.values(), *(start.down for start in self._low_rank)])

    def forward(self, batch: TransferBatch) -> Tensor:
        """Half the squared distance of the weights from where they started."""
        model = batch.model
        assert model is not None
        terms = [self._distance(model, name) for name in self._references]
        terms += [self._low_rank_distance(model, start) for start in self._low_rank]
        if self.head_decay:
            terms += [self.head_decay * whole(model.get_parameter(name)).float().square().sum() for name in self._head]
        return torch.stack(terms).sum() / 2

    def _distance(self, model: nn.Module, name: str) -> Tensor:
        parameter, reference = model.get_parameter(name), self._references[name]
        if not isinstance(parameter, DTensor):
            return squared_distance(parameter, reference)
        if reference.shape == parameter.shape:
            sharded = distribute_tensor(reference, parameter.device_mesh, parameter.placements, src_data_rank=None)
            reference = self._references[name] = sharded.to_local().cpu()
        local = squared_distance(parameter.to_local(), reference)
        # Each rank pulls its own shard; only the value needs the others.
        total = local.detach().clone()
        distributed.all_reduce(total, group=parameter.device_mesh.get_group())
        return local + (total - local.detach())

    def _low_rank_distance(self, model: nn.Module, start: _LowRankStart) -> Tensor:
        layer: Any = model.get_submodule(start.layer)
        down = whole(layer.lora_A[start.adapter].weight).flatten(1).float()
        up = whole(layer.lora_B[start.adapter].weight).flatten(1).float()
        if not start.zero:
            down = torch.cat([down, start.down.to(down).flatten(1)])
            up = torch.cat([up, -start.up.to(up).flatten(1)], dim=1)
        return layer.scaling[start.adapter] ** 2 * low_rank_squared_norm(down, up)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any, **named: Any) -> None:
        saved = state_dict.get(f"{prefix}fingerprint")
        if saved is not None and not torch.allclose(saved.to(self.fingerprint), self.fingerprint, rtol=1e-5):
            raise ValueError(
                "The checkpoint was trained with L2SP from other starting weights than the model has now: the pull "
                "would go to a different point. Build the model from the same pretrained checkpoint as the first run "
                "(not from the checkpoint being resumed), then resume."
            )
        super()._load_from_state_dict(state_dict, prefix, *rest, **named)


def _keep(parameter: Tensor) -> Tensor:
    reference = compact(parameter.detach().cpu().clone())
    return reference.pin_memory() if parameter.is_cuda else reference


def _low_rank_factors(model: nn.Module, trainable: set[str]) -> list[tuple[str, str, Tensor, Tensor]]:
    """(layer, adapter, down, up) of every trainable PEFT layer whose weight moves by a product of two factors."""
    found = []
    for layer, module in model.named_modules():
        for adapter in getattr(module, "lora_A", ()):  # told by attribute: `peft` is no dependency
            if isinstance(cast(Any, module).lora_A[adapter], nn.Parameter):
                continue  # AdaLoRA has three factors, none of them a layer: held to their start like any weight
            down, up = (getattr(module, side)[adapter].weight for side in ("lora_A", "lora_B"))
            # In a grouped convolution the factors do not chain; they are then held to their start like any weight.
            if f"{layer}.lora_A.{adapter}.weight" in trainable and down.shape[0] == up.flatten(1).shape[1]:
                found.append((layer, adapter, down, up))
    return found
