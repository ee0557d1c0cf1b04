"""
The command line, `python -m hf_transfer`:

- `schedule MODEL` writes the default unfreezing schedule of a model as YAML to edit;
- `cache list|prune|verify` shows, empties or checks the cache of features;
- `push FOLDER NAME` pushes what a run left in its folder to the Hub.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from hf_transfer import cache_commands
from hf_transfer.anatomy import anatomy
from hf_transfer.callbacks import GradualUnfreezing
from hf_transfer.hub.command import add_push_command, run_push_command


# In the order in which they are tried for a checkpoint without a classification head; `--task` picks one.
_AUTO_CLASSES = {
    "text": "AutoModelForSequenceClassification",
    "image": "AutoModelForImageClassification",
    "audio": "AutoModelForAudioClassification",
    "token": "AutoModelForTokenClassification",
}


def classifier_on_meta(config: PreTrainedConfig, task: str | None = None) -> PreTrainedModel:
    """
    The classifier that a configuration describes, without weights: built on the meta device in milliseconds.

    Args:
        config (`PreTrainedConfig`): the configuration.
        task (`str`, *optional*): `"text"`, `"image"`, `"audio"` or `"token"`; read off the configuration by default.

    Raises:
        ValueError: if transformers has no such classifier for this type of model.

    Example:
        >>> from transformers import BertConfig
        >>> type(classifier_on_meta(BertConfig(num_hidden_layers=1))).__name__
        'BertForSequenceClassification'
    """
    stored = (config.architectures or [""])[0]
    if task is None and "Classification" in stored and hasattr(transformers, stored):
        with torch.device("meta"):
            return getattr(transformers, stored)(config)
    for name in _AUTO_CLASSES.values() if task is None else [_AUTO_CLASSES[task]]:
        auto_class = getattr(transformers, name)
        if type(config) in auto_class._model_mapping:
            with torch.device("meta"):
                return auto_class.from_config(config)
    raise ValueError(
        f"A `{config.model_type}` model has no {task or 'classification'} head in transformers - a schedule needs one "
        "to start from - give a model that has, or another --task."
    )


def write_schedule(model: str, *, stages: int | None = None, order: str = "top_down", task: str | None = None) -> str:
    """
    The default schedule of a model as YAML, headed by its parts.

    Args:
        model (`str`): identifier on the Hub, or the path of a folder with a configuration.
        stages (`int`, *optional*): number of stages; 4 by default, or as many as the blocks allow.
        order (`str`, *optional*, defaults to `"top_down"`): see [`GradualUnfreezing`].
        task (`str`, *optional*): see [`classifier_on_meta`].
    """
    classifier = classifier_on_meta(AutoConfig.from_pretrained(model), task)
    parts = anatomy(classifier).parts()
    if stages is None:
        stages = max(min(4, 1 + sum(part.startswith("block.") for part in parts)), 2)
    schedule = GradualUnfreezing(stages, order=order)  # pyright: ignore[reportArgumentType]
    table = "\n".join(f"#   {line}" for line in schedule.summary(classifier).splitlines())
    return (
        f"# Unfreezing schedule of {type(classifier).__name__}. As written:\n{table}\n"
        "# `train` and `freeze` take parts, ranges (block.8-11, block.-1), `all`, or patterns over parameter names.\n"
        "# A phase begins at a `fraction`, `epoch` or `step`, or `when: {metric: loss, patience: 2}` holds.\n"
        "# `lr_scale: 0.5` multiplies the learning rates of a phase; `lr: 1.0e-5` replaces `learning_rate`.\n"
        '# Use it with callbacks=[UnfreezingSchedule("this file")].\n' + schedule.to_yaml(classifier)
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m hf_transfer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("schedule", help="write the default unfreezing schedule of a model as YAML to edit")
    command.add_argument("model", help="identifier on the Hub, or path of a folder with a config.json")
    command.add_argument("--stages", type=int, help="number of stages (default: 4, or as many as the blocks allow)")
    command.add_argument("--order", choices=["top_down", "bottom_up"], default="top_down")
    command.add_argument("--task", choices=list(_AUTO_CLASSES), help="kind of classifier (default: as stored)")
    command.add_argument("--out", type=Path, help="file to write (default: standard output)")
    cache_commands.add_commands(commands)
    add_push_command(commands)
    options = parser.parse_args(arguments)
    try:
        if options.command == "cache":
            text = cache_commands.run(options)
        elif options.command == "push":
            text = run_push_command(options)
        else:
            text = write_schedule(options.model, stages=options.stages, order=options.order, task=options.task)
    except (ImportError, OSError, ValueError) as error:
        parser.error(str(error))
    if getattr(options, "out", None) is None:
        sys.stdout.write(text)
    else:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
