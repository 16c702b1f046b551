"""Places of tokens: by the widths of a byte-level vocabulary, or by the tokenizer's offsets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llmforge.build.encode import Encoder, _ByOffsets, _ByWidths

TEXTS = ["What comes after 1? yes no", "Grüße 🙂  und\n\nmehr", "the cat  sat on the mat"] * 4


def placed(tokenizer: Any, text: str) -> Any:
    encoder = Encoder(tokenizer)
    [encoding] = encoder.encode([text])
    return encoder.placed(text, encoding)


def tracked(tokenizer: Any, text: str) -> _ByOffsets:
    """As the tokenizer itself tells it."""
    backend = tokenizer.backend_tokenizer
    return _ByOffsets(text, backend.encode(text, add_special_tokens=False))


def byte_level(normalizer: Any = None, trim: bool = False, prefix: bool = False) -> Any:
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    backend.decoder = decoders.ByteLevel()
    if trim:
        backend.post_processor = processors.ByteLevel(trim_offsets=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<|e|>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|e|>")


def metaspace() -> Any:
    """As Llama 2, Mistral and Gemma have it: words with a mark for their space."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=120, special_tokens=["<unk>", "<|e|>"], show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|e|>", unk_token="<unk>")


PLAIN = byte_level()
COMPOSED = byte_level(normalizers.NFC())
KINDS = {
    "plain": PLAIN,
    "composed": COMPOSED,
    "trimmed": byte_level(trim=True),
    "prefixed": byte_level(prefix=True),
    "lowered": byte_level(normalizers.Lowercase()),
    "metaspace": metaspace(),
}


@pytest.mark.parametrize("kind", ["plain", "composed"])
def test_byte_level_vocabularies_need_no_offsets(kind: str):
    found = placed(KINDS[kind], "after <|e|> 🙂")
    assert isinstance(found, _ByWidths)
    assert found.ids.tolist() == tracked(KINDS[kind], "after <|e|> 🙂").ids.tolist()


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("prefixed", "yes"),
        ("lowered", "YES"),
        ("metaspace", "yes no"),
        ("composed", "Gru\u0308ße"),  # not composed, so the tokens are of another text
    ],
)
def test_offsets_are_tracked_where_tokens_are_not_the_texts_bytes(kind: str, text: str):
    found = placed(KINDS[kind], text)
    assert isinstance(found, _ByOffsets)
    assert found.ids.tolist() == tracked(KINDS[kind], text).ids.tolist()


@pytest.mark.parametrize("strip", ["lstrip", "rstrip"])
def test_a_mark_that_takes_white_space_with_it_is_left_to_offsets(strip: str):
    from tokenizers import AddedToken

    tokenizer = byte_level()
    assert isinstance(placed(tokenizer, "yes"), _ByWidths)
    tokenizer.add_tokens([AddedToken("<mark>", special=True, normalized=False, **{strip: True})])
    assert isinstance(placed(tokenizer, "yes  <mark>  no"), _ByOffsets)


def test_a_word_and_its_space_are_the_words():
    found = placed(PLAIN, "A: yes")
    word = found.first(2)
    assert PLAIN.decode(found.ids[word:]) == " yes"
    assert found.first(3) == word, "the border may stand behind the space as well"
    assert found.end(2) == word
    assert found.first(4) == word + 1, "the middle of a token is not its beginning"
    assert found.first(6) == found.end(6) == len(found.ids)


def test_white_space_that_offsets_leave_out_is_found():
    trimmed = KINDS["trimmed"]
    for text, place in (("A: yes", 2), ("A:   yes", 2), ("A: yes  ", 6)):
        found = tracked(trimmed, text)
        assert trimmed.decode(found.ids[found.first(place) :]) == text[place:]


def test_blank_tokens():
    found = placed(PLAIN, "yes\n\nü ")
    blanks = [found.blank(token) for token in range(len(found.ids))]
    assert any(blanks)
    assert not blanks[0]
    assert [tracked(PLAIN, "yes\n\nü ").blank(n) for n in range(len(blanks))] == blanks


def test_no_text_has_no_tokens():
    found = placed(PLAIN, "")
    assert found.ids.tolist() == []
    assert found.first(0) == found.end(0) == 0


def test_widths_are_taken_again_when_tokens_are_added():
    tokenizer = byte_level()
    placed(tokenizer, "yes")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|new|>"]})
    found = placed(tokenizer, "yes<|new|>no")
    assert isinstance(found, _ByWidths)
    new = tokenizer.convert_tokens_to_ids("<|new|>")
    assert found.ids[found.first(3)] == new
    assert found.end(10) == found.first(3) + 1


def test_a_loaded_tokenizer_is_measured_as_well(gpt2_like: Path, llama_like: Path):
    for folder in (gpt2_like, llama_like):
        found = placed(AutoTokenizer.from_pretrained(folder), "<s>yes")
        assert isinstance(found, _ByWidths)


pieces = st.sampled_from(
    [" ", "  ", "\n", "yes", "after", "ü", "🙂", "👩‍👧", "<|e|>", "u\u0308", "A"]
)
texts = st.one_of(
    st.lists(pieces, max_size=10).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)


@settings(max_examples=80, deadline=None)
@given(texts, st.sampled_from([PLAIN, COMPOSED]))
def test_widths_and_offsets_tell_the_same(text: str, tokenizer: Any):
    ours, theirs = placed(tokenizer, text), tracked(tokenizer, text)
    assert np.array_equal(ours.ids, theirs.ids)
    for place in range(len(text) + 1):
        assert ours.first(place) == theirs.first(place), (place, text)
        assert ours.end(place) == theirs.end(place), (place, text)
