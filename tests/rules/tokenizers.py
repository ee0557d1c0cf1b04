"""Small tokenizers of each family, made here: WordPiece, byte-level BPE, SentencePiece-like BPE, and whole words."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast


SENTENCES = [
    "the film is good but long and the cast is dull",
    "But why is a tribute to butter so dull , but ( but ) fine",
    "a butler is a good butcher however slow",
    "BUT however HOWEVER However",
]
BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def _fast(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def wordpiece() -> PreTrainedTokenizerFast:
    pieces = "the film is good but long and cast dull why a tri to so , ( ) fine however slow ##ute ##b ##ter ##ler"
    vocabulary = [*BERT_SPECIAL, *pieces.split(), "##cher"]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return _fast(tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


def byte_level(pieces: int = 300) -> PreTrainedTokenizerFast:
    """As GPT-2: no special token around a text; few pieces cut words into many."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=pieces, initial_alphabet=alphabet, special_tokens=["<|end|>"], show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES * 5, trainer)
    return _fast(tokenizer, eos_token="<|end|>", pad_token="<|end|>")


def metaspace() -> PreTrainedTokenizerFast:
    """As Llama: a mark before each word, a token that begins a text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES * 5, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return _fast(tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>")


def whole_words() -> PreTrainedTokenizerFast:
    words = ["[UNK]", "[PAD]", *sorted({word for text in SENTENCES for word in text.split()} - {"BUT"})]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return _fast(tokenizer, unk_token="[UNK]", pad_token="[PAD]")


TOKENIZERS = {
    "WordPiece": wordpiece,
    "byte-level": byte_level,
    "byte-level, short pieces": lambda: byte_level(265),
    "metaspace": metaspace,
    "whole words": whole_words,
}
