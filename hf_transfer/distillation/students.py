"""The student of a recipe: cut out of the teacher, pretrained, or new."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import CONFIG_MAPPING

from hf_transfer.data.loading import TransferData
from hf_transfer.distillation.arguments import DistillationArguments
from hf_transfer.models import untrained_model
from hf_transfer.recipe_arguments import ModelArguments
from hf_transfer.students import student_from_teacher


__all__ = ["make_student"]


def make_student(
    recipe: DistillationArguments, data: TransferData, teacher: nn.Module, processor: Any
) -> tuple[nn.Module, Any]:
    """
    A student as the options say, with a head for the classes of `data`, and its processor. Random weights are drawn
    from the global generator.

    Args:
        recipe (`DistillationArguments`): names it.
        data (`TransferData`): whose classes.
        teacher (`nn.Module`): with these classes in their order; it stays as it is.
        processor (`PreTrainedTokenizerBase` or `BaseImageProcessor`): the teacher's.

    Raises:
        ValueError: if it cannot be cut out of the teacher, or there is no such model for the data.
    """
    if recipe.blocks is not None:
        return student_from_teacher(teacher, recipe.blocks), processor
    scratch = recipe.student_from_scratch
    options: dict[str, Any] = {"trust_remote_code": recipe.trust_remote_code}
    if scratch is None:
        name = recipe.student_name_or_path
        return ModelArguments(name, model_revision=recipe.student_revision, **options).load(data)
    if scratch in CONFIG_MAPPING:
        text = data.input_columns != ("image",)
        tokenizer = (recipe.student_tokenizer or recipe.teacher_name_or_path) if text else None
        arguments = ModelArguments(
            model_type=scratch, config_overrides=recipe.student_config, tokenizer_name=tokenizer
        )
        return arguments.load(data)
    if recipe.student_tokenizer is not None:
        raise ValueError(
            f"`--student_tokenizer {recipe.student_tokenizer}` with `--student_from_scratch {scratch}`: the "
            "vocabulary of a checkpoint is that of its own tokenizer. Leave it out, or name a type such as bert."
        )
    overrides: Any = recipe.student_config
    return untrained_model(scratch, data, overrides, revision=recipe.student_revision, **options)
