"""A tokenizer of a few words and their pieces, made without a file."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "salt", "##y", "sweet", "##er", "Anna", "Rome", "in"]


def word_tokenizer() -> Any:
    """`salty` and `sweeter` are two pieces each; [CLS] and [SEP] stand around a text."""
    model: Any = WordPiece({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = Whitespace()  # type: ignore[assignment]
    around = [("[CLS]", WORDS.index("[CLS]")), ("[SEP]", WORDS.index("[SEP]"))]
    processor: Any = TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=around)
    tokenizer.post_processor = processor
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
