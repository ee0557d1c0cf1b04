"""`Pretrained`: a base model of a comparison, loaded once and copied for every run."""

from __future__ import annotations

import copy
import os
import tempfile
from functools import cached_property
from typing import Any

from torch import nn
from transformers.utils import logging

from hf_transfer.adapters.missing_weights import missing_weights
from hf_transfer.anatomy import anatomy
from hf_transfer.attach import CHILD
from hf_transfer.data.loading import TransferData
from hf_transfer.models import AUTO_MODELS, load_model
from hf_transfer.random_state import random_numbers_put_back
from hf_transfer.weights.reinitialization import draw_anew


logger = logging.get_logger(__name__)

__all__ = ["Pretrained"]


class Pretrained:
    """
    A base model of a comparison: loaded once onto the CPU, copied for every run.

    What its checkpoint does not hold is drawn anew for every seed: the head, mostly, and a pooler or another neck that
    is new. A head that fits the data stays as it is.

    Args:
        label (`str`): what tables call it.
        name_or_path (`str` or path, *optional*): Hub id, folder, or an embedded model such as `embedded:image`.
        data (`TransferData`): decides on the task and the classes.
        revision (`str`, *optional*, defaults to `"main"`): branch, tag or commit on the Hub.
        trust_remote_code (`bool`, *optional*, defaults to `False`): whether to run code from the model's repository.
        model (`nn.Module`, *optional*): a model of `transformers` in memory in place of `name_or_path`, which is then
            only its name: a classifier, or a base model without a head. It is copied. What was new when it was loaded
            is new in every run.
        processor (image processor or tokenizer, *optional*): of the model in memory.

    Raises:
        ValueError: if it is of no kind for the task, or a model in memory has no processor, adapters, or objectives
            attached to it.
        OSError: if there is no such model.

    Relations:
        [`Problem`] holds several of them and the data.

    Example:
        >>> from hf_transfer.data.loading import load_splits
        >>> data = load_splits("embedded:digits", samples_per_class=1)
        >>> base = Pretrained("digits", "embedded:image", data)
        >>> base.fresh(0) is base.fresh(0), base.name
        (False, 'embedded:image')
    """

    def __init__(
        self,
        label: str,
        name_or_path: str | os.PathLike[str] | None,
        data: TransferData,
        *,
        revision: str = "main",
        trust_remote_code: bool = False,
        model: nn.Module | None = None,
        processor: Any = None,
    ):
        self.label, self.data = label, data
        self.revision, self.trust_remote_code = revision, trust_remote_code
        self.in_memory = model is not None
        if model is None and name_or_path is None:
            raise ValueError(
                f"Neither a name nor a model is given for `{label}`: there is nothing to transfer from. Pass a Hub "
                "id, a folder, `embedded:image` or `embedded:text`, or `model=` with its `processor=`."
            )
        self.name = label if name_or_path is None else os.fspath(name_or_path)
        with random_numbers_put_back(seed=0):
            if model is None:
                options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
                self.model, self.processor = load_model(self.name, data, **options)
                lacking = missing_weights(self.model)
            else:
                self.model, self.processor, lacking = _taken_over(model, processor, data, label=label)
            # to look at, and not to train: runs have copies
            self.model.requires_grad_(True).cpu().eval()
            # what no checkpoint was found for is as it is in memory
            self.new: tuple[str, ...] = tuple(draw_anew(self.model, lacking or ()))
            """Names of the weights that are drawn by the seed."""

    @cached_property
    def head(self) -> str:
        """Name of the module of its head."""
        return anatomy(self.model).head

    @property
    def new_head(self) -> bool:
        """Whether the head is new."""
        return any(name.startswith(f"{self.head}.") for name in self.new)

    @property
    def new_neck(self) -> bool:
        """Whether something before the head is new: its features then depend on the seed."""
        return any(not name.startswith(f"{self.head}.") for name in self.new)

    @property
    def parameters(self) -> int:
        """Number of its weights."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @cached_property
    def digest(self) -> str:
        """Of its architecture, weights and processor, and of what is new in it."""
        from hf_transfer.features.cache.checksums import text_digest
        from hf_transfer.features.cache.digests import processor_digest, weights_digest

        parts = [type(self.model).__name__, weights_digest(self.model), processor_digest(self.processor), *self.new]
        return text_digest("\n".join(map(str, parts)))

    def fresh(self, seed: int) -> nn.Module:
        """The model as a run starts with it, on the CPU: a copy with its new parts drawn by the seed."""
        model = copy.deepcopy(self.model)
        if self.new:
            with random_numbers_put_back(seed):
                draw_anew(model, self.new)
        return model

    def scratch(self, seed: int) -> nn.Module:
        """A model of the same architecture, on the CPU, all weights of which are drawn by the seed."""
        config: Any = copy.deepcopy(self.model.config)
        kind = AUTO_MODELS[self.data.task]
        with random_numbers_put_back(seed):
            return kind.from_config(config, trust_remote_code=self.trust_remote_code).eval()

    def __repr__(self) -> str:
        return f"Pretrained({self.label!r}, {self.name!r})"


def _taken_over(
    model: nn.Module, processor: Any, data: TransferData, *, label: str
) -> tuple[nn.Module, Any, set[str] | None]:
    """A model in memory as a checkpoint would be loaded: with a head for the data, and what is new in it."""
    owner: Any = model
    if processor is None:
        raise ValueError(
            f"The model `{label}` is given without a processor: texts or images cannot be turned into its inputs. "
            "Pass its tokenizer or image processor too."
        )
    if hasattr(model, "peft_config"):
        raise ValueError(
            f"The model `{label}` carries adapters: strategies would add theirs to them, and train what was frozen. "
            "Pass `model.merge_and_unload()`."
        )
    if hasattr(model, CHILD):
        raise ValueError(
            f"Objectives are attached to the model `{label}`: every copy would bring them along. Call `detach()`."
        )
    if not hasattr(owner, "save_pretrained"):
        raise ValueError(
            f"The model `{label}` is a {type(model).__name__}, which is no model of transformers: neither its head "
            "nor its config can be told. Pass a `PreTrainedModel`, or the name of one."
        )
    before = missing_weights(model) or set()
    with tempfile.TemporaryDirectory() as folder:
        # by way of a file: the rules of `from_pretrained` decide on heads that do not fit, and base models
        owner.save_pretrained(folder)
        processor.save_pretrained(folder)
        loaded, processor = load_model(folder, data)
        lacking = missing_weights(loaded) or set()
    holder: Any = loaded
    holder.config._name_or_path = getattr(owner, "name_or_path", "")
    holder.name_or_path = getattr(owner, "name_or_path", "")
    names = {name for name, _ in (*loaded.named_parameters(), *loaded.named_buffers())}
    prefix = getattr(holder, "base_model_prefix", "")
    also = {name if name in names else f"{prefix}.{name}" for name in before}
    return loaded, processor, lacking | (also & names)
