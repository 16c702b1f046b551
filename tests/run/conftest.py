"""A run small enough to be repeated many times: twelve steps of a few thousand weights."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmforge.plan import Plan

if TYPE_CHECKING:
    from stand_in_hub import StandIn

# test folders are no packages, so the helpers beside this file are found by path
sys.path.insert(0, str(Path(__file__).parent))

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
        own_data = any(override.startswith("data=") for override in overrides)
        shipped = [each for each in TINY if not (own_data and each.startswith("data.rows="))]
        return compile_plan([*shipped, *overrides])


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


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A hub on the loopback, for this process and those it starts; `HF_TOKEN` is `me`'s."""
    from stand_in_hub import running

    with running() as found:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        monkeypatch.setenv("HF_TOKEN", "token-of-me")
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")  # its own protocol, which needs the real hub
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield found
