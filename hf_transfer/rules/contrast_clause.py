"""The rule of contrast: in "A but B", the text has the label of B."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.modes import undisturbed
from hf_transfer.rules.rule import LabelFactor, Rule
from hf_transfer.rules.text import compact, text_of
from hf_transfer.rules.words import WordFinder


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


__all__ = ["ContrastClause"]


class ContrastClause(Rule):
    r"""
    The rule of contrast for sentiment: a text "A but B" has the label of clause B, by the model's own judgement of B.

    For class $c$ the truth is $p(c \mid B)$, which the model gives for clause B alone: in evaluation mode, without
    gradient, and with random numbers left as they were. Clause B is all that follows the last conjunction, between
    the special tokens that begin and end a text. Texts without the conjunction, or with nothing after it, satisfy the
    rule with any class.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            The tokenizer that made the data's `input_ids`.
        conjunction (`str`, *optional*, defaults to `"but"`):
            The word that clause B follows; found as a whole word, also capitalised.
        confidence (`float`, *optional*, defaults to 1.0):
            In [0, 1], dimensionless.

    Shape:
        - true to the degree $p(c \mid B)$ for each class; of a multi-label model one factor a label.

    Raises:
        ValueError: for a conjunction that the tokenizer does not know; at the first batch without `input_ids`, and
            for a token classifier, which gives no label to a clause.

    Relations:
        The whole batch goes through the model a second time, whatever it contains, so that shapes stay the same and
        every rank takes part; no gradient is kept. Under FSDP the weights are gathered once more. Made for one text a
        row: of a pair, clause B reaches to the end of the second text. [`KeywordRule`] costs no forward.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> words = Tokenizer(models.WordLevel({"?": 0, "but": 1, "dull": 2, "superb": 3}, unk_token="?"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> rule = ContrastClause(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?"))
        >>> inputs = {"input_ids": torch.tensor([[2, 1, 3]])}
        >>> rule.clause(TransferBatch(features=torch.zeros(1, 4), inputs=inputs))[0]["input_ids"]
        tensor([[3, 0, 0]])

    Paper: Hu et al., "Harnessing Deep Neural Networks with Logic Rules", ACL 2016, https://huggingface.co/papers/1603.06318
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        conjunction: str = "but",
        *,
        confidence: float = 1.0,
    ):
        super().__init__(name=f"after_{conjunction}", confidence=confidence)
        self.conjunction = conjunction
        self._find = WordFinder(tokenizer, [conjunction])
        # "unknown" stands for a word, though tokenizers count it among the special tokens
        special = [number for number in tokenizer.all_special_ids if number != tokenizer.unk_token_id]
        self._special = torch.tensor(special, dtype=torch.long)
        padding: Any = tokenizer.pad_token_id
        self._pad = 0 if padding is None else int(padding)

    def build(self, spec: ModelSpec) -> Self:
        """Take over what the model pads with, where it names it: decoders find the end of a text by it."""
        padding = getattr(getattr(spec.model, "config", None), "pad_token_id", None)
        self._pad = self._pad if padding is None else int(padding)
        return self

    def clause(self, batch: TransferBatch) -> tuple[dict[str, Any], Tensor]:
        """The inputs of clause B of every row, of the batch's shape, and `(B,)` bool: which rows have one."""
        input_ids, mask, types = text_of(batch, self.name)
        if self._special.device != input_ids.device:
            self._special = self._special.to(input_ids.device)
        place = torch.arange(1, input_ids.shape[1] + 1, device=input_ids.device)
        last = (place * (self._find(input_ids) & mask)).amax(1, keepdim=True)
        special = torch.isin(input_ids, self._special) & mask
        content = mask & ~special
        after = mask & (place > last)
        opening = special & (content.long().cumsum(1) == 0)
        applies = (last > 0).squeeze(1) & (after & content).any(1)
        # a row without a clause is asked as it is: no row may be empty
        keep = torch.where(applies.unsqueeze(1), after | opening, mask)
        inputs = {
            "input_ids": compact(input_ids, keep, self._pad),
            "attention_mask": compact(keep.long(), keep, 0),
        }
        if types is not None:
            inputs["token_type_ids"] = compact(types, keep, 0)
        return inputs, applies

    def class_truths(self, batch: TransferBatch, probabilities: Tensor) -> Tensor:
        """The probability of each class for clause B; 1 without one."""
        if probabilities.dim() != 2:
            raise ValueError(
                f"Rule `{self.name}` on a token classifier: it says that a text has the label of its last clause, and "
                "tokens have labels of their own. Use it with a sequence classifier."
            )
        logits, applies = self._asked(batch)
        return torch.where(applies.unsqueeze(1), logits.softmax(-1).to(probabilities.dtype), 1.0)

    def label_truths(self, batch: TransferBatch, probabilities: Tensor) -> list[LabelFactor]:
        """For each label, the probability that clause B has it, or has it not; 1 without a clause."""
        logits, applies = self._asked(batch)
        truths = torch.stack([torch.sigmoid(-logits), torch.sigmoid(logits)], -1).to(probabilities.dtype)
        truths = torch.where(applies.reshape(-1, 1, 1), truths, 1.0)
        return [LabelFactor((label,), truths[:, label]) for label in range(truths.shape[1])]

    def _asked(self, batch: TransferBatch) -> tuple[Tensor, Tensor]:
        """The model's logits for clause B, and which rows have one."""
        assert batch.model is not None  # `attach` gives it
        inputs, applies = self.clause(batch)
        return _logits_aside(batch.model, inputs), applies


def _logits(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """What the model says, asked aside: its modes and the random numbers cannot be put back in compiled code."""
    with undisturbed(model):
        output = model(**inputs)
    return (output["logits"] if isinstance(output, dict) else output[0]).float()


_logits_aside: Callable[[nn.Module, dict[str, Tensor]], Tensor] = torch.compiler.disable(_logits)  # pyright: ignore
