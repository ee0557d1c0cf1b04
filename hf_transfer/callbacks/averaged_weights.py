"""`AveragedWeights`: the weights of a run twice, raw and averaged, of which the model holds one."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hf_transfer.files import whole_file
from hf_transfer.functional.weight_average import update_average


class AveragedWeights:
    """
    The exponential average of what trains in a model, and the means to exchange it with the raw weights.

    The exchange moves no values: the tensors' storage is exchanged, their identity (which optimizer and DDP hold)
    stays. Averages are kept at least in float32, so that small updates are not lost to rounding. A parameter is
    averaged from the first optimizer step on in which it trains: what a schedule keeps frozen costs nothing.

    Args:
        model (`nn.Module`): the model as trained, not its DDP wrapper.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.averages: dict[str, Tensor] = {}
        self._raw: dict[str, Tensor] | None = None
        # Running statistics are averaged with the weights whose activations they describe.
        self._statistics: dict[str, Tensor] = {
            name: buffer
            for name, buffer in model.named_buffers()
            if name.rpartition(".")[2] in ("running_mean", "running_var")
        }
        # The counters beside them are only kept for resume.
        self._counters: dict[str, Tensor] = {
            name: buffer for name, buffer in model.named_buffers() if name.endswith(".num_batches_tracked")
        }
        for name, buffer in self._statistics.items():
            self._join(name, buffer)

    def _join(self, name: str, tensor: Tensor) -> None:
        wide = torch.promote_types(tensor.dtype, torch.float32)
        self.averages[name] = tensor.detach().to(wide, copy=True)

    def _present(self) -> dict[str, Tensor]:
        return {**dict(self.model.named_parameters()), **self._statistics}

    def _tensors(self) -> dict[str, Tensor]:
        present = self._present()
        return {name: present[name] for name in self.averages}

    @property
    def shows_average(self) -> bool:
        """Whether the model holds the average now."""
        return self._raw is not None

    def join(self) -> None:
        """Begin to average the parameters that train now, before the optimizer moves them."""
        for name, parameter in self.model.named_parameters():
            if name not in self.averages and parameter.requires_grad:
                self._join(name, parameter)

    def update(self, decay: float) -> None:
        """Take the raw weights, which the model must hold, into the average."""
        update_average(list(self.averages.values()), list(self._tensors().values()), decay=decay)

    def show_average(self) -> None:
        """Put the average into the model; harmless if it is there."""
        if self._raw is None:
            tensors = self._tensors()
            self._raw = {name: tensor.data for name, tensor in tensors.items()}
            for name, tensor in tensors.items():
                tensor.data = self.averages[name].to(tensor.dtype)

    def show_raw(self) -> None:
        """Put the raw weights into the model; harmless if they are there."""
        if self._raw is not None:
            for name, tensor in self._tensors().items():
                tensor.data = self._raw[name]
            self._raw = None

    def save(self, path: Path, metadata: dict[str, str]) -> None:
        """
        Write the raw weights while the model holds the average; atomic.

        The average itself is in the model's own file. Written too is what is not there exactly: averages of parameters
        in half precision, and statistics, which adapter checkpoints leave out.
        """
        assert self._raw is not None
        state = {f"raw.{name}": tensor for name, tensor in self._raw.items()}
        for name, average in self.averages.items():
            if average.dtype != self._raw[name].dtype or name in self._statistics:
                state[f"average.{name}"] = average
        state.update((f"counter.{name}", counter) for name, counter in self._counters.items())
        with whole_file(path) as unfinished:
            save_file(
                {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, unfinished, metadata
            )

    def load(self, path: Path) -> None:
        """
        Continue where `save` was called. The model holds the average, loaded from the checkpoint.

        Raises:
            ValueError: if the file holds other parameters than the model.
        """
        state = load_file(path)
        raw = {name.removeprefix("raw."): tensor for name, tensor in state.items() if name.startswith("raw.")}
        present = self._present()
        foreign = sorted(name for name in raw if name not in present or present[name].shape != raw[name].shape)
        if foreign:
            raise ValueError(
                f"{path} does not fit the model; they differ in {', '.join(foreign[:5])}. The average would go on "
                "from weights of another run. Build the model as in the first run."
            )
        self.averages = {}
        for name in raw:
            self._join(name, state.get(f"average.{name}", present[name]).to(device=present[name].device))
        for name, tensor in self._tensors().items():
            # In storage of torch's own: that of a safetensors file may start anywhere, and matrix products over
            # unaligned memory round differently.
            tensor.data = torch.empty_like(tensor).copy_(raw[name])
        for name, counter in self._counters.items():
            counter.copy_(state[f"counter.{name}"])
        self.show_average()


def read_metadata(path: Path) -> dict[str, str]:
    """What `AveragedWeights.save` was told to note; empty without the file."""
    if not path.is_file():
        return {}
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}
