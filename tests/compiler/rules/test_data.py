"""Streaming refuses what must be known whole, each with a way out."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from llmforge.compiler.passes import check, compile_plan
from llmforge.diagnostics import Diagnostic

STREAMED = (
    "model=folder", "model.path=tiny", "data=jsonl", "data.train=rows.jsonl", "hardware=cpu",
    "data.streaming=true", "data.eval_fraction=0", "evaluation.every=null",
    "trainer.epochs=null", "trainer.max_steps=100",
)  # fmt: skip


@pytest.fixture
def refused(work: Path, checkpoint: Callable[..., Path]) -> Callable[..., list[Diagnostic]]:
    """`refused("data.fold=part")`: what LF519 says of a stream with this."""
    checkpoint(work / "tiny")
    row = '{"prompt": "How many legs has a spider?", "completion": "8", "part": "train"}\n'
    (work / "rows.jsonl").write_text(row * 300, encoding="utf-8")

    def told(*words: str) -> list[Diagnostic]:
        return [d for d in check([*STREAMED, *words]).diagnostics if d.code == "LF519"]

    return told


def test_a_stream_with_steps_and_no_held_out_share_is_accepted(refused):
    assert refused() == []


def test_several_processes_may_read_a_stream(refused):
    assert refused("launch=torchrun", "launch.processes=2") == []


def test_each_process_reads_a_stream_by_itself(refused):
    assert refused() == []
    streamed, whole = (
        compile_plan([*STREAMED, f"data.streaming={flag}"]).lowered["training_arguments"]
        for flag in ("true", "false")
    )

    assert streamed["accelerator_config"] == {"dispatch_batches": False}
    assert "accelerator_config" not in whole


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("trainer.max_steps=null", "trainer.max_steps"),
        ("data.eval_fraction=0.1", "data.eval_fraction"),
        ("data.fold=part", "data.fold"),
        ("tokenizer.source=train", "tokenizer.source"),
        ("checkpoint.every=epoch", "checkpoint.every"),
    ],
)
def test_what_is_refused_is_accepted_with_its_hint(refused, word: str, key: str):
    (found,) = refused(word)

    assert found.key == key
    assert found.hint
    if "<" not in found.hint:
        assert refused(word, *shlex.split(found.hint)) == []
