"""Text to tokens with places: which token stands where in the text.

In: texts. Out: ids, and the numbers of the tokens at a character. Special tokens that the text
spells are recognised, none is added, nothing is cut. What carries loss is decided in `tokenize.py`.

Two things make this as fast as the tokenizer alone. A tokenizer works on all cores and without
Python's lock, so it is kept busy in a thread while the caller lays out the next texts and masks the
last ones. And tracking offsets is a good part of its work: the tokens of a byte-level
vocabulary, one behind the other, are the bytes of the text, so their places follow from their
widths. Whether they do is checked for every text; for other tokenizers and texts, offsets are
tracked.
"""

from __future__ import annotations

import os
import unicodedata
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from tokenizers import decoders, normalizers

from llmforge.build.sample import Ids

_thread: ThreadPoolExecutor
"""One is enough: the tokenizer's own threads do the work."""


def _new_thread() -> None:
    global _thread
    _thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode")


_new_thread()
# a forked process has the pool but not its thread, and would wait for it for ever
os.register_at_fork(after_in_child=_new_thread)


class Encoded(Protocol):
    """One text in tokens."""

    @property
    def ids(self) -> Ids: ...

    def first(self, begin: int) -> int:
        """Number of the first token of what begins at character `begin`.

        A token that reaches over `begin` belongs to what stands before it, and is not taken, unless
        it holds nothing but white space of it: many vocabularies write a space and the word behind
        it as one token, which is the word's.
        """

    def end(self, end: int) -> int:
        """One past the last token of what ends before character `end`.

        A token that reaches over `end` belongs to what stands behind it, and is not counted.
        """

    def blank(self, token: int) -> bool:
        """Does the token stand for white space only?"""


class Encoder:
    """A tokenizer that is asked for ids and places."""

    def __init__(self, tokenizer: Any) -> None:
        self._backend = tokenizer.backend_tokenizer
        # a tokenizer.json may carry a length of its own, which would cut samples silently
        # (asked first: changing the tokenizer waits until nobody encodes with it)
        if self._backend.truncation is not None:
            self._backend.no_truncation()
        if self._backend.padding is not None:
            self._backend.no_padding()
        self._widths = _widths(tokenizer)
        self._composed = self._backend.normalizer is not None

    def encode(self, texts: list[str]) -> list[Any]:
        """First step, all cores, may run in a thread: one `tokenizers.Encoding` for each text."""
        batch = self._backend.encode_batch
        if self._widths is not None:
            batch = self._backend.encode_batch_fast
        found: list[Any] = batch(texts, add_special_tokens=False)
        return found

    def encode_in_thread(self, texts: list[str]) -> Future[list[Any]]:
        """The first step begun; the caller can work on something else until it asks for it."""
        return _thread.submit(self.encode, texts)

    def placed(self, text: str, encoding: Any) -> Encoded:
        """Second step: the text's tokens and their places."""
        if self._widths is None:
            return _ByOffsets(text, encoding)
        ids = encoding.ids
        tokens = np.fromiter(ids, np.int32, len(ids))
        ends = self._widths[tokens].cumsum()
        ascii_only = text.isascii()
        raw = None if ascii_only else text.encode()
        size = len(text) if raw is None else len(raw)
        same = ascii_only or not self._composed or unicodedata.is_normalized("NFC", text)
        if same and (int(ends[-1]) if len(ends) else 0) == size:
            return _ByWidths(text, raw, tokens, ends)
        return _ByOffsets(text, self._backend.encode(text, add_special_tokens=False))


class _ByWidths:
    """Places in bytes, summed up from the widths of the tokens."""

    __slots__ = ("_ends", "_raw", "_text", "ids")

    def __init__(self, text: str, raw: bytes | None, ids: Ids, ends: NDArray[np.int64]) -> None:
        self._text, self._raw, self.ids, self._ends = text, raw, ids, ends

    def first(self, begin: int) -> int:
        place = self._byte(begin)
        token = int(self._ends.searchsorted(place, "right"))
        if token == len(self.ids) or self._start(token) >= place:
            return token
        return token if self._is_blank(self._start(token), place) else token + 1

    def end(self, end: int) -> int:
        return int(self._ends.searchsorted(self._byte(end), "right"))

    def blank(self, token: int) -> bool:
        return self._is_blank(self._start(token), int(self._ends[token]))

    def _start(self, token: int) -> int:
        return int(self._ends[token - 1]) if token else 0

    def _byte(self, place: int) -> int:
        return place if self._raw is None else len(self._text[:place].encode())

    def _is_blank(self, begin: int, end: int) -> bool:
        if self._raw is None:
            return not self._text[begin:end].strip()
        # a part of a character is no white space that could be told, so it is not blank
        return not self._raw[begin:end].decode("utf-8", "replace").strip()


class _ByOffsets:
    """Places in characters, as the tokenizer tracked them.

    `Encoding.char_to_token` answers without handing every offset to Python. It knows nothing of
    characters that no token stands for, such as a space that the tokenizer trims from its offsets.
    """

    __slots__ = ("_encoding", "_text", "ids")

    def __init__(self, text: str, encoding: Any) -> None:
        self._text, self._encoding = text, encoding
        ids = encoding.ids
        self.ids: Ids = np.fromiter(ids, np.int32, len(ids))

    def first(self, begin: int) -> int:
        token, start = self._at(begin)
        return token + 1 if start < begin and self._text[start:begin].strip() else token

    def end(self, end: int) -> int:
        return self._at(end)[0]

    def blank(self, token: int) -> bool:
        begin, end = self._encoding.token_to_chars(token)
        return not self._text[begin:end].strip()

    def _at(self, place: int) -> tuple[int, int]:
        """The first token that reaches beyond a character, and the character it begins at."""
        token, start = len(self.ids), len(self._text)
        if place >= start:
            return token, start
        for at in range(place, len(self._text)):
            found = self._encoding.char_to_token(at)
            if found is not None:
                token, start = found, self._encoding.token_to_chars(found)[0]
                break
        while token and start >= place:  # tokens of trimmed white space stand for no character
            before = self._encoding.token_to_chars(token - 1)[0]
            if before < place:
                break
            token, start = token - 1, before
        return token, start


_known: WeakKeyDictionary[Any, tuple[int, NDArray[np.int64] | None]] = WeakKeyDictionary()


def _widths(tokenizer: Any) -> NDArray[np.int64] | None:
    """Bytes of each id of a byte-level vocabulary; None for any other.

    Kept for each tokenizer, until tokens are added: a large vocabulary takes a tenth of a second.
    """
    size = len(tokenizer)
    if tokenizer not in _known or _known[tokenizer][0] != size:
        _known[tokenizer] = size, _measured(tokenizer)
    return _known[tokenizer][1]


def _measured(tokenizer: Any) -> NDArray[np.int64] | None:
    backend = tokenizer.backend_tokenizer
    if not isinstance(backend.decoder, decoders.ByteLevel):
        return None
    if not (backend.normalizer is None or isinstance(backend.normalizer, normalizers.NFC)):
        return None
    vocabulary = backend.get_vocab(with_added_tokens=True)
    widths = np.zeros(max(vocabulary.values(), default=-1) + 1, dtype=np.int64)
    for token, id_ in vocabulary.items():
        widths[id_] = len(token)  # byte-level tokens are spelt with one character for each byte
    for id_, added in backend.get_added_tokens_decoder().items():
        if added.lstrip or added.rstrip or (added.normalized and backend.normalizer):
            return None  # it takes in white space, or is looked for in another text
        widths[id_] = len(added.content.encode())
    return widths
