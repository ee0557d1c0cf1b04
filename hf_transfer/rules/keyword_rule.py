"""A rule on words: a text that contains them likely has a certain label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.rules.labels import LabelKey, label_number
from hf_transfer.rules.rule import LabelFactor, Rule
from hf_transfer.rules.text import text_of
from hf_transfer.rules.words import WordFinder


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


__all__ = ["KeywordRule"]


class KeywordRule(Rule):
    """
    A text that contains one of the words has the label; of token classifiers, each token of the word has it.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            The tokenizer that made the data's `input_ids`.
        words (`Sequence[str]`):
            Words or phrases; found as whole words, as written, capitalised or in capitals.
        label (`str` or `int`):
            Name or number of the label.
        confidence (`float`, *optional*, defaults to 0.9):
            In [0, 1], dimensionless: how sure the words are.

    Shape:
        - true for the label, false for the others; true for all where no word was found.
        - of a multi-label model: true where the label is on or no word was found.

    Raises:
        ValueError: for words that the tokenizer does not know; when a model is known, for a label it does not have;
            at the first batch without `input_ids`.

    Relations:
        [`ContrastClause`] asks the model for the clause that decides. A word that speaks against a label is a
        `Rule(lambda inputs, p: negate(p[:, 0]))` of your own.

    Example:
        >>> from transformers import PreTrainedTokenizerFast
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> words = Tokenizer(models.WordLevel({"?": 0, "superb": 1, "dull": 2}, unk_token="?"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?")
        >>> rule = KeywordRule(tokenizer, ["superb"], 1).build(ModelSpec(feature_dim=4, num_labels=2))
        >>> batch = TransferBatch(features=torch.zeros(2, 4), inputs={"input_ids": torch.tensor([[1, 0], [2, 0]])})
        >>> rule.class_truths(batch, torch.full((2, 2), 0.5))
        tensor([[0., 1.],
                [1., 1.]])
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        words: Sequence[str],
        label: LabelKey,
        *,
        confidence: float = 0.9,
    ):
        super().__init__(name=f"keywords_{label}", confidence=confidence)
        self.label = label
        self._find = WordFinder(tokenizer, words)
        self._number = -1

    def build(self, spec: ModelSpec) -> Self:
        """Find the label."""
        self._number = label_number(self.label, spec, rule=self.name)
        return self

    def class_truths(self, batch: TransferBatch, probabilities: Tensor) -> Tensor:
        """True for the label where a word was found, and for every class where none was."""
        found = self._found(batch, tokens=probabilities.dim() == 3)
        classes = torch.arange(probabilities.shape[-1], device=probabilities.device)
        return (~found.unsqueeze(-1) | (classes == self._number)).to(probabilities.dtype)

    def label_truths(self, batch: TransferBatch, probabilities: Tensor) -> list[LabelFactor]:
        """The label is on where a word was found."""
        off = (~self._found(batch, tokens=False)).to(probabilities.dtype)
        return [LabelFactor((self._number,), torch.stack([off, torch.ones_like(off)], -1))]

    def _found(self, batch: TransferBatch, tokens: bool) -> Tensor:
        input_ids, mask, _ = text_of(batch, self.name)
        found = self._find(input_ids) & mask
        return found if tokens else found.any(1)
