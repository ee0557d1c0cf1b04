"""
Adapters in every architecture: a step of training changes only what should, and what is saved gives the same logits.

`python -m tests.contract.adapter_sweep [class names]` runs every architecture with every method and prints the table;
`tests/contract/test_every_adapter.py` runs the part of it for which the gate has time.
"""

from __future__ import annotations

import argparse
import copy
import functools
import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hf_transfer.adapters.add import adapted_anatomy, add_adapter
from hf_transfer.adapters.loading import load_adapter
from hf_transfer.adapters.saving import save_adapter
from hf_transfer.norms import has_statistics
from tests.architectures import Architecture
from tests.small_architectures import NOT_RUN, RUN, WITHOUT_LOSS, small_model, training_batch


# Options with which every weight of an adapter has a gradient in the first step (LoRA's B is 0 by default)
OPTIONS: dict[str, dict[str, Any]] = {
    "lora": {"r": 2, "lora_alpha": 1, "init_lora_weights": False},
    "ia3": {},
    "ln_tuning": {},
}
# What training may move beside parameters: running statistics of norms that are saved whole; I-BERT's ranges of
# activations, which nothing reads before it is quantised
MOVING_BUFFERS = r"\.modules_to_save\.|\.ln_tuning_layers\.|^base_model\.model\.ibert\..*\.x_(min|max)$"
LIBRARY = {True: "hf_transfer", False: "PEFT"}
ADAPTER_KEYS = {"lora": ".lora_", "ia3": ".ia3_l.", "ln_tuning": ".ln_tuning_layers."}


# What is refused, and with which words: by model type, and for which methods
REFUSED: dict[str, tuple[str, tuple[str, ...]]] = {
    # PEFT has no layer for the quantised `QuantLinear` of I-BERT
    "ibert": ("IBertFor.*Classification has none among all", ("lora",)),
    # its logits are those of two words of a language model: there is no head that could be trained or saved
    "shieldgemma2": ("ShieldGemma2ForImageClassification has no layer with 3 outputs", ("lora", "ia3", "ln_tuning")),
}
# What IA3 cannot adapt, so that layer-norm tuning takes its place: quantised layers, convolutions over one dimension
WITHOUT_IA3 = {"ibert", "squeezebert"}
# They pad by the stride of the next layer, which PEFT's layer around it does not have; we add it, PEFT's loader does
# not, see `hf_transfer.adapters.geometry`
LOADED_BY_US_ONLY = {"mobilenet_v1", "mobilenet_v2"}
# LoRA beside a convolution that standardises its weight when it is called is no change of that weight
NOT_MERGED = {"bit", "zamba2"}
# Modules that share a weight get an adapter each; of those in Zamba2 each uses only one item of a list, so that the
# others never train, and merged, all would be added to the weight
UNUSED_COPIES = {"zamba2": "_adapter_list."}


def tensors_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and every buffer, also those that are not saved."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors_of(model)}


def same(one: Tensor, other: Tensor) -> bool:
    """Bit for bit, NaN equal to NaN."""
    return one.dtype == other.dtype and one.shape == other.shape and bool(torch.equal(bits(one), bits(other)))


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.int32) if tensor.dtype == torch.float32 else tensor


def call(model: nn.Module, batch: Mapping[str, Tensor]) -> Any:
    """The output, with the same random numbers whenever it is called."""
    torch.manual_seed(1)
    np.random.seed(1)  # for the masks of wav2vec2
    return model(**batch)


def outputs(model: nn.Module, batch: Mapping[str, Tensor]) -> list[Tensor]:
    """Every tensor that the model returns in eval mode: logits or forecast, and loss."""
    with torch.no_grad():
        returned = call(model.eval(), batch)
    return [leaf for leaf in pytree.tree_leaves(dict(returned)) if isinstance(leaf, Tensor)]


def loss_of(one: Architecture, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    if one.class_name not in WITHOUT_LOSS:
        return call(model, batch)["loss"]
    returned = call(model, inputs_of(one, batch))
    logits = returned["logits"] if "logits" in returned else returned[0]
    return nn.functional.cross_entropy(logits, batch["labels"] % logits.shape[-1])


def inputs_of(one: Architecture, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The batch as the model takes it in evaluation."""
    without = {"labels"} if one.class_name in WITHOUT_LOSS else set()
    return {name: value for name, value in batch.items() if name not in without}


def train(one: Architecture, model: nn.Module, batch: Mapping[str, Tensor]) -> None:
    """One step. With so small an `eps` a weight moves if its gradient is not exactly zero."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, eps=1e-30, weight_decay=0.0)
    loss_of(one, model.train(), batch).backward()
    optimizer.step()
    optimizer.zero_grad()


def settle(one: Architecture, model: nn.Module, batch: Mapping[str, Tensor]) -> None:
    """Give running statistics the values of a batch: with those of a new model, logits may be all but constant."""
    norms: list[Any] = [module for module in model.modules() if has_statistics(module)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            loss_of(one, model.train(), batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def reloaded(model: Any, folder: Path, *, from_disk: bool) -> Any:
    """The model as a checkpoint gives it, or a copy."""
    if not from_disk:
        return copy.deepcopy(model)
    model.save_pretrained(folder)
    fresh = type(model).from_pretrained(folder)
    # Tensors mapped from a file lie at odd addresses, where some kernels add in another order
    for _, tensor in tensors_of(fresh):
        tensor.data = tensor.data.clone()
    return fresh


def run(one: Architecture, method: str, *, from_disk: bool = True, ours: Sequence[bool] = (False, True)) -> bool:
    """Check one architecture with one method; False if it is refused as it should be."""
    if method == "ia3" and one.model_type in WITHOUT_IA3:
        method = "ln_tuning"
    if one.model_type in LOADED_BY_US_ONLY:
        ours = (True,)
    words, methods = REFUSED.get(one.model_type, ("", ()))
    if method not in methods:
        check(one, method, from_disk=from_disk, ours=ours)
        return True
    try:
        add_adapter(small_model(one), method)
    except ValueError as error:
        assert re.search(words, str(error)), f"refused with other words: {error}"
        return False
    raise AssertionError("is no longer refused")


def check(one: Architecture, method: str, *, from_disk: bool, ours: Sequence[bool]) -> None:
    """
    Everything this module claims of one architecture with one method.

    The base comes from the disk as a checkpoint, or is a copy. The adapter is saved and loaded by PEFT, or by ours.
    """
    torch.manual_seed(0)
    fresh = small_model(one)
    batch = training_batch(one, fresh)
    inputs = inputs_of(one, batch)
    settle(one, fresh, batch)
    heads = adapted_anatomy(fresh).modules("head")
    with tempfile.TemporaryDirectory() as folder:
        base = reloaded(fresh, Path(folder) / "base", from_disk=from_disk)
        before = outputs(base, inputs)
        assert all(map(same, before, outputs(fresh, inputs))), "the bare model is not what was saved of it"
        model = add_adapter(base, method, **OPTIONS[method])
        check_trainable(model, method, heads)
        start = snapshot(model)
        train(one, model, batch)
        check_changes(model, start, functools.partial(without_gradient, one), UNUSED_COPIES.get(one.model_type))
        model.requires_grad_(False)  # `torch.matmul` takes another path, which rounds differently, if a factor trains
        trained = outputs(model, inputs)
        assert all(bool(tensor.isfinite().all()) for tensor in trained), "the outputs are not finite"
        assert distance(before, trained) > 1e-4, "training changes nothing that can be seen"

        # Whoever loads the adapter has a new head at first
        for parameter in (parameter for name in heads for parameter in fresh.get_submodule(name).parameters()):
            nn.init.normal_(parameter)
        loaded: Any = None
        for number, by_us in enumerate(ours):
            onto = fresh if number == len(ours) - 1 else copy.deepcopy(fresh)
            loaded = saved_and_loaded(model, onto, Path(folder) / f"adapter-{number}", ours=by_us)
            again = outputs(loaded.requires_grad_(False), inputs)
            off = f"{distance(trained, again):.1e}"
            assert all(map(same, trained, again)), f"loaded by {LIBRARY[by_us]}, the outputs differ by {off}"
        if method == "lora" and one.model_type not in NOT_MERGED:
            off = distance(trained, outputs(loaded.merge_and_unload(), inputs))
            assert off < 1e-3, f"merged, the outputs differ by {off:.1e}"


def saved_and_loaded(model: Any, fresh: Any, folder: Path, *, ours: bool) -> Any:
    """The adapter of `model` on another base."""
    from peft import PeftModel

    if ours:
        save_adapter(model, folder)
        return load_adapter(folder, base_model=fresh).model
    model.save_pretrained(folder)
    return PeftModel.from_pretrained(fresh, folder)


def without_gradient(one: Architecture) -> set[str]:
    """Parameters that no gradient reaches if the whole model trains: here an adapter can learn nothing either."""
    torch.manual_seed(0)
    model = small_model(one)
    batch = training_batch(one, model)
    settle(one, model, batch)
    loss_of(one, model.train().requires_grad_(), batch).backward()
    return {name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()}


def distance(some: list[Tensor], others: list[Tensor]) -> float:
    """The largest difference of finite outputs, as a share of the largest value of each or of 1."""
    pairs = [(one, other) for one, other in zip(some, others, strict=True) if one.is_floating_point() and one.numel()]
    return max(float((one - other).abs().max() / one.abs().max().clamp(min=1.0)) for one, other in pairs)


def check_trainable(model: nn.Module, method: str, heads: Sequence[str]) -> None:
    """Trained are the adapter and the copies of whole modules, the head among them, and nothing else."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    strange = [name for name in names if ADAPTER_KEYS[method] not in name and ".modules_to_save." not in name]
    assert not strange, f"trained, but neither adapter nor saved: {strange}"
    assert any(ADAPTER_KEYS[method] in name for name in names), "there is no adapter"
    for head in heads:
        copies = [name for name in names if f"{original(name)}.".startswith(f"{head}.")]
        assert any(".modules_to_save." in name for name in copies), f"the head {head} is not saved"


def check_changes(
    model: nn.Module, start: Mapping[str, Tensor], unreached: Callable[[], set[str]], unused: str | None = None
) -> None:
    """All that trains has moved, running statistics of saved norms may have, and the rest is what it was."""
    wrong, still = [], []
    for name, tensor in tensors_of(model):
        moved = not same(start[name], tensor.detach())
        if isinstance(tensor, nn.Parameter) and tensor.requires_grad:
            if not moved:
                still.append(name)
        elif moved and (isinstance(tensor, nn.Parameter) or not re.search(MOVING_BUFFERS, name)):
            wrong.append(name)
    assert not wrong, f"changed although frozen: {wrong}"
    if still:
        allowed = unreached()
        still = [name for name in still if original(name) not in allowed and not (unused and unused in name)]
    assert not still, f"unchanged although trained: {still}"


def original(name: str) -> str:
    """The parameter of the bare model that a copy stands for, or the weight of the layer that has the adapter."""
    name = name.removeprefix("base_model.model.").replace(".modules_to_save.default", "")
    for key in ADAPTER_KEYS.values():
        if key in f"{name}.":
            return f"{name.partition(key)[0]}.weight"
    return name


def main() -> int:
    """Run every architecture that is named, or all of them, with every method, and print what became of them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="*", help="classes or model types; all by default")
    parser.add_argument("--methods", nargs="+", default=["lora", "ia3"], choices=list(OPTIONS))
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    chosen = [one for one in RUN if not arguments.names or {one.class_name, one.model_type} & {*arguments.names}]
    passed, refused, failed = Counter[str](), Counter[str](), 0
    for one in chosen:
        for method in arguments.methods:
            try:
                (passed if run(one, method) else refused)[method] += 1
            except Exception as error:  # the sweep goes on
                failed += 1
                print(f"FAILED {one.id} {method}: {type(error).__name__}: {str(error)[:500]}", flush=True)
    for method in arguments.methods:
        print(f"{method}: {passed[method]} of {len(chosen)} architectures pass, {refused[method]} are refused")
    print(f"{failed} failures")
    print(*(f"not run: {name}: needs the library {library}" for name, library in NOT_RUN.items()), sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
