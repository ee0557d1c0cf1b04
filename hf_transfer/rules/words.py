"""Finding whole words in token ids, on the device, for any tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


__all__ = ["WordFinder"]

_CONTINUES = "##"  # WordPiece: before a piece that goes on with a word
_BYTE_SPACE = "Ġ"  # byte-level BPE: a space, and like every byte that is no ASCII sign, written as a letter
_BEGINS = "▁"  # SentencePiece: before a piece that begins a word
_ENDS = "</w>"  # the first BPE: after a piece that ends one


class WordFinder:
    """
    Where words stand in a batch of token ids: as written, capitalised and in capitals, whole words only.

    "but" is found in "good but long" and in "But why?", not in "butter" or "tribute". The tokenizer is asked at
    construction for the pieces of each word at the start of a text, after a space and after a bracket, and for which
    pieces go on with a word; after that ids are compared with ids, and nothing is read back from the device.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            The tokenizer that made the data's `input_ids`.
        words (`Sequence[str]`):
            Words, or phrases of several.

    Raises:
        ValueError: without a word, for an empty one, and for one that the tokenizer does not know.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, words: Sequence[str]):
        self.words = [words] if isinstance(words, str) else list(words)
        if not self.words or not all(word.strip() for word in self.words):
            raise ValueError(
                f"`words={words!r}` has no word, or an empty one: it would be found nowhere, or everywhere. Give "
                'words such as `["excellent", "wonderful"]`.'
            )
        self._patterns = [torch.tensor(pattern) for pattern in _patterns(tokenizer, self.words)]
        goes_on, open_ended = _joints(tokenizer)
        self._goes_on, self._open_ended = torch.tensor(goes_on), torch.tensor(open_ended)

    def __call__(self, input_ids: Tensor) -> Tensor:
        """`(B, T)` bool: the tokens that belong to one of the words."""
        self._to(input_ids.device)
        length = input_ids.shape[1]
        known = input_ids.clamp(max=len(self._goes_on) - 1)  # embeddings may have been added behind the vocabulary
        # between each token and the one before it, with the two ends of the text: is this the inside of a word?
        inside = F.pad(self._goes_on[known][:, 1:] & self._open_ended[known][:, :-1], (1, 1))
        found = torch.zeros_like(input_ids, dtype=torch.bool)
        for pattern in self._patterns:
            size = len(pattern)
            if size > length:
                continue
            starts = (input_ids.unfold(1, size, 1) == pattern).all(-1)
            starts = starts & ~inside[:, : length - size + 1] & ~inside[:, size:]
            for offset in range(size):
                found = found | F.pad(starts, (offset, size - 1 - offset))
        return found

    def _to(self, device: torch.device) -> None:
        if self._goes_on.device != device:  # once
            self._goes_on, self._open_ended = self._goes_on.to(device), self._open_ended.to(device)
            self._patterns = [pattern.to(device) for pattern in self._patterns]


def _patterns(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> list[list[int]]:
    """The pieces of each word, in each spelling and place."""

    def pieces(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    found: dict[tuple[int, ...], None] = {}
    for word in words:
        known = False
        for spelling in (word, word.lower(), word.capitalize(), word.upper()):
            for before in ("", "a ", "("):
                prefix, whole = pieces(before.strip()) if before else [], pieces(before + spelling)
                pattern = tuple(whole[len(prefix) :])
                if not pattern or whole[: len(prefix)] != prefix or tokenizer.unk_token_id in pattern:
                    continue
                known = True
                found[pattern] = None
        if not known:
            raise ValueError(
                f"The tokenizer has no pieces for {word!r}: it reads the word as unknown, like many others, and it "
                "could not be found in any text. Give a word of its vocabulary, or the tokenizer of the model."
            )
    return [list(pattern) for pattern in found]


def _joints(tokenizer: PreTrainedTokenizerBase) -> tuple[list[bool], list[bool]]:
    """For each id: whether the piece goes on with a word begun before it, and whether a word may go on after it."""
    pieces = [piece or "" for piece in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))]
    special = set(tokenizer.all_special_ids)
    pieces = ["" if number in special else piece for number, piece in enumerate(pieces)]
    if any(piece.startswith(_CONTINUES) and len(piece) > 2 for piece in pieces):
        goes_on = [piece.startswith(_CONTINUES) and piece[2:3].isalnum() for piece in pieces]
    elif any(piece.startswith(_BYTE_SPACE) for piece in pieces):
        pieces = [tokenizer.convert_tokens_to_string([piece]) if piece else "" for piece in pieces]
        goes_on = [piece[:1].isalnum() for piece in pieces]
    elif any(piece.startswith(_BEGINS) or piece.endswith(_ENDS) for piece in pieces):
        goes_on = [piece[:1].isalnum() for piece in pieces]
    else:  # whole words
        goes_on = [False] * len(pieces)
    return goes_on, [piece[-1:].isalnum() for piece in pieces]
