"""Facts of a tokenizer from a folder of its own: rows it needs, tokens that are new."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmforge.compiler.facts.tokenizer import TokenizerFacts, look_at_tokenizer
from llmforge.schema.model import ModelSpec
from llmforge.schema.typed import section_spec


def tokenizer(folder: Path, vocabulary: Any, *added: tuple[int, str]) -> str:
    folder.mkdir(exist_ok=True)
    marks = [{"id": number, "content": text} for number, text in added]
    read = {"model": {"vocab": vocabulary}, "added_tokens": marks}
    (folder / "tokenizer.json").write_text(json.dumps(read), encoding="utf-8")
    return str(folder)


@pytest.fixture
def own(tmp_path: Path) -> ModelSpec:
    """A model whose own tokenizer has three tokens."""
    path = tokenizer(tmp_path / "own", {"a": 0, "b": 1}, (2, "</s>"))
    values = {"kind": "folder", "path": path, "attention": "sdpa", "trust_remote_code": False}
    spec = section_spec("model", values)
    assert spec is not None
    found = spec.model_construct(**values)
    assert isinstance(found, ModelSpec)
    return found


@pytest.mark.parametrize(
    ("vocabulary", "added", "expected"),
    [
        ({"a": 0, "b": 1}, ((2, "</s>"),), TokenizerFacts(3, ())),
        ({"a": 0, "b": 1}, ((2, "</s>"), (3, "<x>")), TokenizerFacts(4, ("<x>",))),
        # one that has changed its number looks up another's row
        ({"b": 0, "a": 1}, ((2, "</s>"),), TokenizerFacts(3, ("a", "b"))),
        # numbers may leave gaps: rows are counted up to the highest
        ({"a": 0, "b": 1}, ((9, "</s>"),), TokenizerFacts(10, ("</s>",))),
        # Unigram models hold pairs, numbered by their order
        ([["a", -1.0], ["b", -2.0]], ((2, "</s>"),), TokenizerFacts(3, ())),
        ({"a": 0}, (), TokenizerFacts(1, ())),
    ],
)
def test_what_a_file_says(vocabulary, added, expected, own, tmp_path: Path):
    other = tokenizer(tmp_path / "other", vocabulary, *added)

    assert look_at_tokenizer(other, own) == expected


@pytest.mark.parametrize("source", ["train", "model", "auto"])
def test_a_tokenizer_of_the_models_own_has_none(source, own):
    assert look_at_tokenizer(source, own) is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"model": 3}', '{"model": {"vocab": 3}}', "[" * 100_000, "\x00"]
)
def test_a_file_that_is_none(text, own, tmp_path: Path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/tokenizer.json").write_text(text, encoding="utf-8")

    assert look_at_tokenizer(str(tmp_path / "other"), own) is None
    assert look_at_tokenizer(str(tmp_path / "absent"), own) is None


def test_what_is_new_is_not_known_without_the_models_own(own, tmp_path: Path):
    other = tokenizer(tmp_path / "other", {"a": 0})
    (Path(own.path) / "tokenizer.json").unlink()  # type: ignore[attr-defined]

    assert look_at_tokenizer(other, own) == TokenizerFacts(1, None)


def test_odd_entries_are_passed_by(own, tmp_path: Path):
    other = tokenizer(tmp_path / "other", {"a": 0, "b": "one", "c": 2.5})

    assert look_at_tokenizer(other, own) == TokenizerFacts(1, ())
