"""
One small training run in a process of its own, for the equivalences: `python -m tests.invariants.run --out DIR ...`.

Writes the final weights, objectives and optimizer state to DIR/result.safetensors, and the log to DIR/log.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
from pathlib import Path

import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformers import TrainerCallback, set_seed

from hf_transfer import L2SP, DomainAdversarial, GradualUnfreezing, TransferArguments, TransferTrainer, mix_domains
from tests import models


class KillAt(TrainerCallback):
    """SIGKILL in the middle of an optimizer step: no cleanup of any kind runs."""

    def __init__(self, step: int):
        self.step = step

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def rows(count: int, domain: int, labelled: bool, image: bool) -> Dataset:
    generator = torch.Generator().manual_seed(domain)
    if image:
        inputs = {"pixel_values": torch.randn(count, 3, 8, 8, generator=generator).add(domain).tolist()}
    else:
        inputs = {"input_ids": torch.randint(1, models.VOCABULARY, (count, 6), generator=generator).tolist()}
        inputs["attention_mask"] = [[1] * 6] * count
    labels = torch.randint(0, models.NUM_LABELS, (count,), generator=generator).tolist()
    return Dataset.from_dict({**inputs, **({"labels": labels} if labelled else {})})


def build(options: argparse.Namespace) -> TransferTrainer:
    set_seed(0)
    quiet = {} if options.dropout else {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = getattr(models, f"tiny_{options.model}")(**({} if options.model == "resnet" else quiet))
    if options.lora:
        model = models.lora(model, ["query", "value"], "classifier")
    image = options.model in ("vit", "resnet")
    source = rows(32, 0, True, image)
    if options.weights:
        source = source.add_column("sample_weight", [0.25 * (row % 9) for row in range(32)])
    data = mix_domains(source, rows(24, 1, False, image))
    objectives = [] if options.no_objectives else [DomainAdversarial(hidden_size=8), L2SP(weight=0.1)]
    callbacks = [GradualUnfreezing(stages=3)] if options.unfreeze else []
    if options.kill_at is not None:
        callbacks.append(KillAt(options.kill_at))
    args = TransferArguments(
        output_dir=str(options.out),
        per_device_train_batch_size=options.batch,
        gradient_accumulation_steps=options.accumulate,
        max_steps=options.steps,
        learning_rate=options.lr,
        head_lr=10 * options.lr,
        layer_decay=0.9,
        optim=options.optim,
        logging_steps=2,
        save_steps=2,
        save_strategy="steps" if options.save else "no",
        report_to="none",
        use_cpu=True,
        ddp_backend="gloo" if int(os.environ.get("WORLD_SIZE", 1)) > 1 else None,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        seed=3,
        torch_compile=options.compile is not None,
        torch_compile_backend=options.compile,
        activation_checkpointing=options.checkpointing,
        **(fsdp_options() if options.fsdp else {}),
    )
    return TransferTrainer(model, args, objectives=objectives, train_dataset=data, callbacks=callbacks)


def fsdp_options() -> dict:
    return {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "transformer_layer_cls_to_wrap": ["BertLayer"],
            "state_dict_type": "FULL_STATE_DICT",
            "cpu_ram_efficient_loading": False,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="bert")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--optim", default="adamw_torch")
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--compile", help="a backend of torch.compile")
    flags = "dropout lora no-objectives weights unfreeze save resume fsdp checkpointing"
    for flag in flags.split():
        parser.add_argument(f"--{flag}", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    gc.freeze()  # the Trainer collects garbage at every start: not of all that was imported
    trainer = build(options)
    trainer.train(resume_from_checkpoint=True if options.resume else None)
    state = trainer.accelerator.get_state_dict(trainer.model)  # gathers the shards under FSDP
    if trainer.is_world_process_zero():
        result = {key: value.detach().float().contiguous().clone() for key, value in state.items()}
        if not options.fsdp:
            result.update(optimizer_state(trainer))
        save_file(result, options.out / "result.safetensors")
        (options.out / "log.json").write_text(json.dumps(trainer.state.log_history))


def optimizer_state(trainer: TransferTrainer) -> dict[str, torch.Tensor]:
    """Optimizer state by group and position, so that runs can be compared bit for bit."""
    optimizer = trainer.optimizer.optimizer
    return {
        f"optimizer.{group}.{index}.{key}": value.detach().float().clone()
        for group, members in enumerate(optimizer.param_groups)
        for index, parameter in enumerate(members["params"])
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor)
    }


if __name__ == "__main__":
    main()
