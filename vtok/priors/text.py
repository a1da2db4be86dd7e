"""Captions to tokens: byte-pair encoding (https://arxiv.org/abs/1508.07909), as TATS's text condition uses CLIP's.

A tokenizer is a `tokenizer.json` of the `tokenizers` library. It comes from a file, CLIP's own list of merges included,
or is trained on the captions of a dataset. Every caption becomes the same number of tokens: start, text, end, then 0s,
as in CLIP (https://arxiv.org/abs/2103.00020).
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer

from schemas.errors import UsageError

FILE_NAME = "tokenizer.json"
START, END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"
_CLIP_MERGES = 49_152 - 256 - 2
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class TextTokenizer:
    """Captions to tokens of a fixed number.

    Args:
        data: a `tokenizer.json`.
        at: where it is from, for errors.

    Raises:
        UsageError: it is none, or has no tokens for start and end.
    """

    def __init__(self, data: bytes, at: str = FILE_NAME) -> None:
        self.data = data
        try:
            self._tokenizer = Tokenizer.from_str(data.decode())
        except Exception as error:  # the library raises bare exceptions
            raise UsageError(f"not a tokenizer.json: {str(error).splitlines()[0]}", at=at) from None
        found = {name: self._tokenizer.token_to_id(name) for name in (START, END)}
        self._ends = {name: number for name, number in found.items() if number is not None}
        missing = sorted(set(found) - set(self._ends))
        if missing:
            raise UsageError(
                f"the text tokenizer has no token {' or '.join(missing)}", at=at, hint="CLIP's has; or leave it out"
            )
        self.sha256 = hashlib.sha256(data).hexdigest()

    @property
    def vocabulary(self) -> int:
        """Different tokens."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, captions: Iterable[str], length: int) -> Int64[np.ndarray, "b n"]:
        """Tokens of captions, cut to `length`, the end token included."""
        rows = []
        for caption in captions:
            tokens = self._tokenizer.encode(caption, add_special_tokens=False).ids
            tokens = [self._ends[START], *tokens[: max(0, length - 2)], self._ends[END]][:length]
            rows.append(tokens + [0] * (length - len(tokens)))
        return np.array(rows, dtype=np.int64).reshape(-1, length)


def train_text_tokenizer(captions: Iterable[str], vocabulary: int) -> TextTokenizer:
    """A byte-pair encoding of at most about `vocabulary` tokens, learnt from captions and by nothing else decided."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = _cleaning()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # a space begins a word: no byte is lost
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, special_tokens=[], show_progress=False)
    tokenizer.train_from_iterator(sorted(captions), trainer)
    tokenizer.add_special_tokens([START, END])
    return TextTokenizer(tokenizer.to_str().encode())


def read_text_tokenizer(path: str | Path) -> TextTokenizer:
    """A `tokenizer.json`, or CLIP's `bpe_simple_vocab_16e6.txt.gz`.

    Raises:
        UsageError: there is no such file, or it is neither.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        if path.name.endswith((".txt.gz", ".txt")):
            text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
            return TextTokenizer(_from_merges(text, str(path)), str(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(f"cannot read the text tokenizer: {reason}", at=str(path)) from None
    return TextTokenizer(data, str(path))


def _from_merges(text: str, at: str) -> bytes:
    """CLIP's vocabulary: bytes, bytes that end a word, the merges in their order, start, end."""
    lines = text.split("\n")[1 : _CLIP_MERGES + 1]
    merges = [tuple(line.split()) for line in lines if line.strip()]
    if any(len(merge) != 2 for merge in merges):
        raise UsageError("a list of merges has two words a line", at=at)
    letters = _byte_letters()
    words = [*letters, *(letter + _WORD_END for letter in letters), *("".join(merge) for merge in merges), START, END]
    vocabulary = {word: number for number, word in enumerate(words)}
    pairs = [(first, second) for first, second in merges]
    model = models.BPE(vocab=vocabulary, merges=pairs, end_of_word_suffix=_WORD_END)
    tokenizer = _clip_shaped(model)
    tokenizer.add_special_tokens([START, END])
    return bytes(tokenizer.to_str().encode())


def _cleaning() -> normalizers.Normalizer:
    return normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip(), normalizers.Lowercase()]
    )


def _byte_letters() -> list[str]:
    """A printable letter a byte, in CLIP's order: printable bytes first, then the rest from code point 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(len(others))]


def _clip_shaped(model: models.BPE) -> Tokenizer:
    """A tokenizer that cleans and cuts text as CLIP does: lower case, single spaces, words by CLIP's pattern."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = _cleaning()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
