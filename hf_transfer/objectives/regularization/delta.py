"""Distance of feature maps to the starting point, weighted by channel (DELTA)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Self

from hf_transfer.anatomy import Anatomy
from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.fingerprint import fingerprint, whole
from hf_transfer.functional.source_knowledge import attention_of_increases, channel_distances
from hf_transfer.objective import Objective
from hf_transfer.objectives.regularization.channel_attention import loss_increases
from hf_transfer.schedules import Schedule
from hf_transfer.source import Source


class DELTA(Objective):
    r"""
    Feature maps held to those of the starting point, by channel (DELTA): let the weights move, keep the behaviour.

    With outputs $m_{jc}$ of block $j$ at channel $c$, those of the model as it started $m^0_{jc}$, and head $h$, the
    term is

    $$ L = \frac{1}{B} \sum_{i=1}^{B} \sum_j \sum_c a_{jc} \frac{1}{P_j} \lVert m_{jc}(x_i) - m^0_{jc}(x_i) \rVert_2^2
    + \tfrac{\beta}{2} \lVert h \rVert_2^2 $$

    over $P_j$ positions: pixels, patches or the tokens that count. The attention $a_{jc}$ is large where the starting
    model, with a linear head for the target task, loses most when the channel is zero:
    $a_j = C_j \operatorname{softmax}(z_j / 5)$ for standardised rises $z_j$ of its loss. It averages to 1 over the
    $C_j$ channels.

    Args:
        blocks (`str` or `Sequence[int]`, *optional*, defaults to `"stages"`):
            Whose outputs are held. `"stages"`: the last block of each stage, as in the paper; where all blocks stand
            in one list, 4 evenly spaced. `"last"`: the last block. Or numbers of blocks, negative ones from the end.
        attention (`bool`, *optional*, defaults to `True`):
            Whether to weigh channels by what they do for the target task; `False` weighs all with 1, without `fit`.
        attention_rows (`int`, *optional*, defaults to 32):
            Labelled rows, spread over the classes, on which the rise of the loss is measured.
        head_decay (`float`, *optional*, defaults to 0.0):
            $\beta$, the pull of the new head to zero relative to `weight` (dimensionless).
        weight (`float` or `Schedule`, *optional*, defaults to 0.01):
            Strength of the pull (dimensionless). The authors' 0.01 stands before half the sum over 64 rows of the
            smaller outputs of convolutions; 0.1 is strong here already.

    Shape:
        - `batch.hidden_states`: `(B, T, D)` or `(B, D, H, W)` by block, and `batch.inputs`, which the starting model
          sees too.
        - returns: scalar float32, in squared units of the hidden states.

    Degenerate batches:
        Needs no labels; one row is enough. A row without tokens counts as zero, and so does a block that the model
        leaves out in a step (LayerDrop).

    Deviations from the paper:
        Mean over rows and positions instead of sums, so that neither batch nor image size changes the weight. The
        output of a block after its residual sum is held, not that of its last convolution, for any block has one. The
        attention is that of the whole data set, standardised and with a temperature of 5 as in the authors' program:
        the rises themselves are thousandths and would give equal weights. The starting model runs in the mode of the
        model in training, with the same dropout masks and the statistics of the same batch, where theirs is in
        evaluation mode: the term is zero at the start and measures only what the weights have changed. Under
        `torch.compile` the masks are others, and dropout adds a constant to the term.

    Raises:
        ValueError: if an option is out of range; at attach time if a block does not exist or nothing before the head
            trains; at the first batch if `attention` was not fitted; on resume if the model was not started from the
            weights the run began with.

    Relations:
        [`L2SP`] holds the weights and needs no second forward. The starting model is kept on the device and costs one
        forward a step; under PEFT it shares the frozen weights. The attention costs, once, one forward of
        up to 2,048 rows and, for each channel, a forward of `attention_rows` rows through what follows the block.

    Example:
        >>> DELTA(blocks="last", attention=False, weight=0.1).config()
        {'blocks': 'last', 'attention': False, 'attention_rows': 32, 'head_decay': 0.0, 'weight': 0.1}

    Paper: Li et al., "DELTA: DEep Learning Transfer using Feature Map with Attention...", ICLR 2019, https://huggingface.co/papers/1901.09229
    """

    learns_from_data = True
    fingerprint: Tensor

    reads_inputs = True
    alters_rows = False

    def __init__(
        self,
        *,
        blocks: Literal["stages", "last"] | Sequence[int] = "stages",
        attention: bool = True,
        attention_rows: int = 32,
        head_decay: float = 0.0,
        weight: float | Schedule = 0.01,
    ):
        super().__init__(weight=weight)
        if blocks not in ("stages", "last") and (isinstance(blocks, str) or not blocks):
            raise ValueError(
                f'`blocks={blocks!r}` names no blocks: there would be nothing to hold. Give "stages", "last" or a '
                "list of numbers such as [3, 7, 11]."
            )
        if attention_rows < 1:
            raise ValueError(
                f"`attention_rows={attention_rows}`: the rise of the loss is measured on rows, and there would be "
                "none. Give a positive number such as 32, or `attention=False`."
            )
        if head_decay < 0:
            raise ValueError(
                f"`head_decay={head_decay}` is negative: the head would grow without bound. Give zero or a positive "
                "number, such as the paper's 0.01."
            )
        # with equal weights there is nothing to fit
        self.learns_from_data = attention
        self.blocks = blocks
        self.attention = attention
        self.attention_rows = attention_rows
        self.head_decay = head_decay
        self._random_state: list[Tensor] | None = None

    def build(self, spec: ModelSpec) -> Self:
        """Keep a frozen copy of the model as it is now."""
        model, anatomy = spec.model, spec.anatomy
        assert model is not None and anatomy is not None  # `attach` gives both
        part_of = anatomy.part_of()
        trains = [name for name, parameter in model.named_parameters() if parameter.requires_grad and name in part_of]
        if all(part_of[name] == "head" for name in trains):
            raise ValueError(
                "DELTA finds no trainable parameter before the head: the backbone was frozen before the objective was "
                "attached, and its feature maps never move. Drop DELTA, or freeze with `FreezeBackbone` / "
                "`UnfreezingSchedule`, which act when training starts."
            )
        self.hidden_states = _chosen(anatomy, self.blocks)
        self._head = [name for name in trains if part_of[name] == "head"]
        # A plain attribute: in no state, wrapped by nothing.
        self._source = Source(model, head=anatomy.head)
        self.register_buffer("fingerprint", _fingerprint(model, part_of))
        for name in [name for name in self._buffers if name.startswith("attention_")]:
            delattr(self, name)  # of a model attached to before
        if self.attention:
            for number in range(len(self.hidden_states)):
                # Empty until `fit` knows the widths, but there: `attach` notes now what `save_pretrained` leaves out.
                self.register_buffer(f"attention_{number}", torch.empty(0))
        return self

    def fit(self, model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> None:
        """Measure what each channel of the starting model does for the target task."""
        if not self.attention:
            return
        increases = loss_increases(
            self._source, self.hidden_states, batches, rows=self.attention_rows, device=self.fingerprint.device
        )
        for number, increase in enumerate(increases):
            self.register_buffer(f"attention_{number}", attention_of_increases(increase.float()))

    def transform(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Note the random numbers the model is about to draw its dropout masks from; the inputs stay as they are."""
        cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
        self._random_state = [torch.get_rng_state(), *cuda]
        return inputs

    def forward(self, batch: TransferBatch) -> Tensor:
        """The weighted squared distance of the feature maps from those the starting model has."""
        if self.attention and not self.get_buffer("attention_0").numel():
            raise RuntimeError(
                "DELTA has not seen the training data: which channels matter for the task is not known. Train with "
                "`TransferTrainer`, call `objective.fit(model, batches)` before the first step, or weigh all channels "
                "alike with `DELTA(attention=False)`."
            )
        reference = self._reference(batch)
        total = (0 * batch.features).sum()
        for number, name in enumerate(self.hidden_states):
            if name not in batch.hidden_states or name not in reference:
                continue  # dropped in this step, as wav2vec2 does with whole blocks
            distances = channel_distances(batch.hidden_states[name], reference[name], batch.attention_mask)
            if self.attention:
                distances = distances * self.get_buffer(f"attention_{number}").to(distances)
            total = total + distances.sum()
        if self.head_decay:
            assert batch.model is not None
            for name in self._head:
                total = total + self.head_decay / 2 * whole(batch.model.get_parameter(name)).float().square().sum()
        return total.float()

    def _reference(self, batch: TransferBatch) -> dict[str, Tensor]:
        dtypes = {maps.dtype for maps in batch.hidden_states.values()}
        # Where the model ran under autocast, its maps tell to which type.
        precision = next((dtype for dtype in dtypes if dtype in (torch.float16, torch.bfloat16)), None)
        devices = [tensor.device for tensor in batch.hidden_states.values() if tensor.is_cuda][:1]
        with torch.random.fork_rng(devices):
            if self._random_state is not None:
                torch.set_rng_state(self._random_state[0])
                for device, state in zip(devices, self._random_state[1:], strict=False):
                    torch.cuda.set_rng_state(state, device)
            output = self._source(
                batch.inputs, hidden_states=self.hidden_states, precision=precision, like=batch.model
            )
        return output.hidden_states

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any, **named: Any) -> None:
        saved = state_dict.get(f"{prefix}fingerprint")
        if saved is not None and not torch.allclose(saved.to(self.fingerprint), self.fingerprint, rtol=1e-5):
            raise ValueError(
                "The checkpoint was trained with DELTA from other starting weights than the model has now: its "
                "feature maps would be held to other ones. Build the model from the same pretrained checkpoint as the "
                "first run (not from the checkpoint being resumed), then resume."
            )
        for number in range(len(self.hidden_states) if self.attention else 0):
            attention = state_dict.get(f"{prefix}attention_{number}")
            if attention is not None:
                empty = torch.empty_like(attention, device=self.fingerprint.device)
                self.register_buffer(f"attention_{number}", empty)
        super()._load_from_state_dict(state_dict, prefix, *rest, **named)


def _chosen(anatomy: Anatomy, blocks: str | Sequence[int]) -> tuple[str, ...]:
    """Names of the blocks to hold."""
    names = anatomy.blocks
    if blocks == "last":
        return names[-1:]
    if blocks == "stages":
        holders = [name.rpartition(".")[0] for name in names]
        if len(set(holders)) > 1:
            last = {holder: name for holder, name in zip(holders, names, strict=True)}
            return tuple(last.values())
        count = min(4, len(names))
        return tuple(names[(number + 1) * len(names) // count - 1] for number in range(count))
    for number in blocks:
        if not -len(names) <= int(number) < len(names):
            raise ValueError(
                f"`blocks={list(blocks)}` names block {number}, but the model has {len(names)} blocks: there is no "
                f"such output. Give numbers from 0 to {len(names) - 1}."
            )
    return tuple(dict.fromkeys(names[int(number)] for number in blocks))


def _fingerprint(model: nn.Module, part_of: Mapping[str, str]) -> Tensor:
    """Two numbers that tell one starting point from another; of a PEFT model, of the weights below the adapters."""
    adapted = hasattr(model, "peft_config")
    return fingerprint(
        parameter
        for name, parameter in model.named_parameters()
        if part_of.get(name) not in (None, "neck", "head") and not (adapted and parameter.requires_grad)
    )
