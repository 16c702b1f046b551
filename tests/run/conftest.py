"""A run small enough to be repeated many times: twelve steps of a few thousand weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pytest

from llmforge.plan import Plan

TINY = (
    "name=tiny",
    "data.max_cut_tokens=null",
    "model.layers=1",
    "model.hidden=16",
    "model.intermediate=32",
    "model.heads=2",
    "model.kv_heads=2",
    "model.context=128",
    "tokenizer.vocabulary=300",
    "data.rows=200",
    "data.max_train_rows=40",
    "data.max_eval_rows=8",
    "trainer.epochs=null",
    "trainer.max_steps=12",
    "trainer.log_every=2",
    "trainer.global_batch=8",
    "trainer.micro_batch=4",
    "trainer.accumulation=2",
    "checkpoint.every=4",
    "evaluation.every=4",
    "evaluation.exact_match_rows=2",
    "evaluation.samples=1",
    "generation.max_new_tokens=4",
    "hardware=cpu",
    "launch.threads=1",
)


@functools.cache
def _compile(folder: Path, overrides: tuple[str, ...]) -> Plan:
    from llmforge import compile as compile_plan

    with chdir(folder):
        return compile_plan([*TINY, *overrides])


@pytest.fixture(scope="session")
def bench_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where plans are compiled and prepared data are shared."""
    return tmp_path_factory.mktemp("plans")


@pytest.fixture
def tiny(work: Path, bench_folder: Path) -> Callable[..., Plan]:
    """`tiny("tracking=none")`: a plan that runs in the test's own folder."""

    def make(*overrides: str) -> Plan:
        places = (f"paths.runs={work / 'runs'}", f"paths.cache={bench_folder / 'cache'}")
        return _compile(bench_folder, (*places, *overrides))

    return make


@pytest.fixture
def plan(tiny: Callable[..., Plan]) -> Plan:
    """The tiny plan, recorded nowhere but in its folder."""
    return tiny("tracking=none")
