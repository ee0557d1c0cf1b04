"""
Methods that act on weights and layers, on one rank and on two: `python -m tests.callbacks.method_ranks NAME OUT`.

Every combination of method, model and adapter is trained straight, then killed and resumed, in one process: starting
processes takes longer than the runs. Each rank writes what it found to OUT.<rank>.json.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import Trainer

from hf_transfer import TransferArguments, TransferTrainer
from hf_transfer.callbacks.mixout import MixedLayer, Mixout
from hf_transfer.callbacks.stochastic_normalization import StochNorm
from hf_transfer.callbacks.weight_average import ExponentialMovingAverage
from tests.callbacks.harness import Crash, Rows, arguments, copy_of, seeded
from tests.models import batch_for, lora, tiny_bert, tiny_resnet, tiny_vit


WORLD, RANK = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
METHODS = {
    "mixout": lambda: Mixout(0.5),
    "stochnorm": lambda: StochNorm(0.5),
    "average": lambda: ExponentialMovingAverage(0.9),
}
MODELS = {"text": tiny_bert, "vision": tiny_vit, "convolutions": tiny_resnet}
TARGETS = {"text": ["query"], "vision": ["q_proj"], "convolutions": r".*encoder.*convolution"}
COMBINATIONS = [
    (method, model, adapters)
    for method in METHODS
    for model in MODELS
    for adapters in (False, True)
    # only convolutional networks have batch normalisation
    if method != "stochnorm" or model == "convolutions"
]


def build(model: str, adapters: bool) -> torch.nn.Module:
    made = seeded(MODELS[model])
    return lora(made, TARGETS[model], "classifier") if adapters else made


def trainer_for(folder: Path, method: str, model: str, adapters: bool, *callbacks, **options) -> Trainer:
    made = build(model, adapters)
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "per_device_train_batch_size": 2, **options}
    if WORLD > 1:
        settings |= {"ddp_backend": "gloo"}
    args = TransferArguments(**arguments(folder, **settings).to_dict())
    rows = Rows(made.get_base_model() if adapters else made)
    return TransferTrainer(made, args, train_dataset=rows, callbacks=[METHODS[method](), *callbacks])


def combination(root: Path, method: str, model: str, adapters: bool) -> dict[str, object]:
    """Train straight; kill and resume; compare the weights at the end, and those of the ranks."""
    name = f"{method}-{model}-{'lora' if adapters else 'full'}"
    before = copy_of(build(model, adapters))
    straight = trainer_for(root / name / "straight", method, model, adapters)
    straight.train()
    try:
        trainer_for(root / name / "killed", method, model, adapters, Crash(3)).train()
    except KeyboardInterrupt:
        pass
    again = trainer_for(root / name / "killed", method, model, adapters)
    again.train(resume_from_checkpoint=str(root / name / "killed" / "checkpoint-2"))
    end, resumed = copy_of(straight.model), copy_of(again.model)
    parameters = {key: value.detach().clone() for key, value in straight.model.named_parameters()}
    if WORLD > 1:
        for value in parameters.values():
            dist.broadcast(value, 0)
    buffers = dict(straight.model.named_buffers())
    # DDP gives the other ranks the statistics of rank 0 at the next forward: they have none of their own to resume
    # with. The files of adapters have none at all; the methods that depend on them keep them.
    loses_statistics = RANK > 0 or (adapters and method == "mixout")
    return {
        "moved": sum(not torch.equal(value, before[key]) for key, value in end.items()),
        "not resumed": [
            key
            for key, value in end.items()
            if not torch.equal(value, resumed[key]) and not (loses_statistics and key in buffers)
        ],
        "not in step": [
            key for key, value in straight.model.named_parameters() if not torch.equal(value, parameters[key])
        ],
    }


def matrix(out: str) -> None:
    """Every combination."""
    found = {}
    for method, model, adapters in COMBINATIONS:
        key = f"{method} {model} {'lora' if adapters else 'full'}"
        found[key] = combination(Path(out).parent, method, model, adapters)
    Path(f"{out}.{RANK}.json").write_text(json.dumps(found))


def end() -> None:
    """Leave together: gloo may wait for ever for a rank that has gone."""
    dist.barrier()
    dist.destroy_process_group()


def masks(out: str) -> None:
    """The gradient under DDP is the mean over ranks of gradients with the masks of each."""
    dist.init_process_group("gloo")
    layer = torch.nn.Linear(6, 5, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.arange(30.0).view(5, 6))
    override = MixedLayer(layer, torch.ones(5, 6), probability=0.5, rank=RANK)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Sequential(layer))
    torch.manual_seed(0)  # as the Trainer does on every rank
    override.put_on()
    model(torch.ones(1, 6, dtype=torch.float64)).sum().backward()
    Path(f"{out}.{RANK}.json").write_text(json.dumps(layer.weight.grad.tolist()))
    del model
    end()


def fsdp2(out: str) -> None:
    """Mixing sharded weights with probability so small that (nearly) all entries are kept is the plain model."""
    model = seeded(tiny_vit)
    callback = Mixout(float(sys.argv[3]))
    callback._remember(model)
    batch = {name: value for name, value in batch_for(model, 8).items() if name != "domain"}
    if WORLD > 1:
        dist.init_process_group("gloo")
        for block in model.vit.layers:
            fully_shard(block)
        fully_shard(model)
        batch = {name: value.chunk(WORLD)[RANK] for name, value in batch.items()}
    modules = dict(model.named_modules())
    layers = [
        MixedLayer(modules[name], start, probability=callback.probability, rank=0)
        for name, start in callback._start.items()
    ]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        torch.manual_seed(step)  # the same masks on every rank: two ranks must then do what one does
        for layer in layers:
            layer.put_on()
        model.train()(**batch).loss.backward()
        for layer in layers:
            layer.take_off()
        optimizer.step()
        optimizer.zero_grad()
    whole = {n: p.full_tensor() if isinstance(p, DTensor) else p for n, p in model.named_parameters()}
    if RANK == 0:
        torch.save({name: parameter.detach() for name, parameter in whole.items()}, out)
    if WORLD > 1:
        end()


def sharded(out: str) -> None:
    """`Mixout` in a Trainer under FSDP2."""
    made = seeded(tiny_bert)
    options = {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "transformer_layer_cls_to_wrap": ["BertLayer"],
            "state_dict_type": "FULL_STATE_DICT",
            "cpu_ram_efficient_loading": False,
        },
        "ddp_backend": "gloo",
        "max_steps": 4,
        "save_strategy": "steps",
        "save_steps": 2,
    }
    results = []
    for folder, resume in (("straight", None), ("again", "straight/checkpoint-2")):
        made = seeded(tiny_bert)
        args = arguments(Path(out).parent / folder, **options)
        trainer = Trainer(made, args, train_dataset=Rows(made), callbacks=[Mixout(0.5)])
        trainer.train(resume_from_checkpoint=None if resume is None else str(Path(out).parent / resume))
        results.append(trainer.accelerator.get_state_dict(trainer.model))
    if RANK == 0:
        torch.save(results, out)


if __name__ == "__main__":
    {"matrix": matrix, "masks": masks, "fsdp2": fsdp2, "sharded": sharded}[sys.argv[1]](sys.argv[2])
