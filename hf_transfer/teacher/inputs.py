"""What a teacher is called with: what the student was, or its own form of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.language_models import pretrained_part
from hf_transfer.source import Source, accepted_inputs
from hf_transfer.teacher.images import ImageTranslation
from hf_transfer.teacher.tokens import PREFIX, load_processor, same_tokens


logger = logging.get_logger(__name__)

_SOUND = ("input_values", "input_features")
_OWN = ("input_ids", "attention_mask", "token_type_ids", "pixel_values")

__all__ = ["TeacherInputs"]


class TeacherInputs:
    """
    Chooses or makes the inputs of a teacher from a batch of the student's.

    Args:
        source (`Source`):
            The teacher's model.
        processor (image processor, tokenizer, `str` or path, *optional*):
            The teacher's; by default, where the student's is given, that of its checkpoint.
        student_processor (image processor, tokenizer, `str` or path, *optional*):
            The student's.

    Raises:
        ValueError: if only one is given and the other cannot be told, or image processors cannot be translated.
        TypeError: if they are of the wrong kind.
    """

    def __init__(self, source: Source, *, processor: Any = None, student_processor: Any = None):
        self.source = source
        self.main_input: str = getattr(pretrained_part(source.model)[1], "main_input_name", "input_ids")
        accepted = accepted_inputs(source.model)
        self.columns = tuple(f"{PREFIX}{name}" for name in _OWN if name in accepted)
        self.images: ImageTranslation | None = None
        self.tokens_agree: bool | None = None  # unknown
        self._reads_tokens = False
        self._look_at_ids = self._warn = False
        self._looked = False
        if processor is None and student_processor is not None and source.name:
            processor = source.name
        if (processor is None) != (student_processor is None):
            given, missing = ("processor", "student_processor")[:: 1 if student_processor is None else -1]
            raise ValueError(
                f"`{given}=` is given and `{missing}=` is not: how what the student reads becomes what the teacher "
                "reads takes both. Give both, or neither where they are the same."
            )
        if processor is None:
            return
        own, student = (load_processor(given, self.main_input) for given in (processor, student_processor))
        if self.main_input == "pixel_values":
            self.images = ImageTranslation(student, own)
        elif self.main_input in _SOUND:
            from hf_transfer.data.sound_extractors import same_sound

            if not same_sound(own, student):
                raise ValueError(
                    f"The feature extractors of the teacher, {type(own).__name__}, and of the student, "
                    f"{type(student).__name__}, make different inputs of a recording: what the student hears means "
                    "something else to the teacher. Give a student with the teacher's extractor."
                )
        elif hasattr(own, "get_vocab") and hasattr(student, "get_vocab"):
            self.tokens_agree = same_tokens(own, student)
        else:
            raise TypeError(
                f"`processor` is a {type(own).__name__} and `student_processor` a {type(student).__name__}, for a "
                f"teacher that reads `{self.main_input}`: they do not tell its inputs. Give the tokenizers of both "
                "models, or for images their image processors."
            )

    def bind(self, spec: ModelSpec) -> None:
        """
        Meet the student.

        Raises:
            ValueError: if it predicts something for each token, and the teacher has other tokens.
        """
        if spec.model is None:
            return
        student = pretrained_part(spec.model)[1]
        self._reads_tokens = type(student).__name__.endswith("ForTokenClassification")
        if self.tokens_agree is False and self._reads_tokens:
            raise ValueError(
                f"{self.source!r} has another tokenizer than the student, which predicts something for each token: a "
                "token of one is no token of the other. Give a teacher with the student's tokenizer."
            )
        own, theirs = (_vocabulary(model) for model in (student, pretrained_part(self.source.model)[1]))
        known = own is not None and theirs is not None and self.tokens_agree is None
        self._look_at_ids, self._warn = bool(known and own > theirs), bool(known and own != theirs)  # pyright: ignore
        self._looked = False

    def __call__(self, batch: TransferBatch) -> dict[str, Any]:
        """
        The inputs of the teacher by name.

        Raises:
            ValueError: if the teacher has another tokenizer and the batch none of its tokens; if there are tokens of
                its own where the student predicts for each; if rows were added or mixed that these do not have; if
                images have another size than the teacher takes.
        """
        own = {name.removeprefix(PREFIX): batch.columns[name] for name in self.columns if name in batch.columns}
        if own and not (self.tokens_agree and "input_ids" in own):
            self._check_own(own, batch)
            return own
        inputs = dict(batch.inputs)
        if self.tokens_agree is False:
            raise ValueError(
                f"{self.source!r} has another tokenizer than the student, and the batch holds no `teacher_input_ids`: "
                "the student's ids mean other words to it. Tokenise the data with `teacher_inputs(dataset, "
                "tokenizer)` and collate with `TeacherCollator(collator, tokenizer)`."
            )
        pixels = inputs.get("pixel_values")
        if isinstance(pixels, Tensor) and pixels.dim() == 4:
            if self.images is not None:
                inputs["pixel_values"] = self.images(pixels)
            else:
                self._check_size(pixels)
        if isinstance(inputs.get("input_ids"), Tensor):
            self._check_ids(inputs["input_ids"])
        return inputs

    def _check_own(self, own: dict[str, Any], batch: TransferBatch) -> None:
        names = ", ".join(f"`{PREFIX}{name}`" for name in own)
        if "input_ids" in own and self._reads_tokens:
            raise ValueError(
                f"The batch holds {names} and the student predicts something for each token: a token of one is no "
                "token of the other. Give a teacher with the student's tokenizer, and leave these columns out."
            )
        rows = len(next(iter(own.values())))
        if rows != len(batch.features) or "mixed_with" in batch.columns:
            raise ValueError(
                f"The batch holds {names} for {rows} rows, and an objective changed or added rows, of which the "
                f"student saw {len(batch.features)}: the teacher would look at others. Take that objective out, or "
                "give a teacher that reads what the student reads."
            )

    def _check_size(self, pixels: Tensor) -> None:
        config: Any = getattr(pretrained_part(self.source.model)[1], "config", None)
        wanted = getattr(config, "image_size", None)
        if not isinstance(wanted, int) or not getattr(config, "patch_size", None):
            return  # a convolutional model takes any size
        if tuple(pixels.shape[-2:]) != (wanted, wanted):
            height, width = pixels.shape[-2:]
            raise ValueError(
                f"The images are {height} x {width} pixels and {self.source!r} takes {wanted} x {wanted}: it has no "
                "positions for others. Give both image processors, `Teacher(..., processor=..., "
                "student_processor=...)`, and they are resized and normalised for it."
            )

    def _check_ids(self, ids: Tensor) -> None:
        if self._warn and not self._looked:
            logger.warning(
                f"{self.source!r} and the student have vocabularies of different sizes. Where one is only padded that "
                "is no matter; where they are different tokenizers, the teacher reads other words. Pass both "
                "tokenizers, `Teacher(..., processor=..., student_processor=...)`, to know."
            )
        # On an accelerator once: reading values back waits for it. On the CPU it costs nothing.
        look = self._look_at_ids and (ids.device.type == "cpu" or not self._looked)
        self._looked = True
        if not look or torch.compiler.is_compiling():
            return
        largest, size = int(ids.max()), _vocabulary(pretrained_part(self.source.model)[1])
        if size is not None and largest >= size:
            raise ValueError(
                f"The batch holds the token id {largest} and {self.source!r} has a vocabulary of {size}: it has "
                "another tokenizer than the student. Tokenise the data for it too with `teacher_inputs(dataset, "
                "tokenizer)` and collate with `TeacherCollator(collator, tokenizer)`."
            )


def _vocabulary(model: Any) -> int | None:
    config = getattr(model, "config", None)
    read = getattr(config, "get_text_config", None)
    return getattr(config if read is None else read(), "vocab_size", None)
