"""Contexts without composing: the values of one composition, changed key by key."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

from llmforge.compiler.context import Context, Facts
from llmforge.compiler.facts.versions import PACKAGES
from llmforge.compiler.parse import parse
from llmforge.compiler.passes import run_passes
from llmforge.compose import compose
from llmforge.origins import Origins

Values = dict[str, Any]


def put(values: Values, key: str, value: Any) -> None:
    *parents, name = key.split(".")
    for part in parents:
        values = values[part]
    values[name] = value


@pytest.fixture(scope="session")
def composed(bench: Path) -> Callable[..., Values]:
    """`composed("lora=small")`: composed values, every `auto` unsolved; a copy of one's own."""
    known: dict[tuple[str, ...], Values] = {}

    def values(*overrides: str) -> Values:
        if overrides not in known:
            with chdir(bench):
                draft = compose(
                    ["hardware=cpu", *overrides]
                    if not any(o.startswith("hardware=") for o in overrides)
                    else overrides
                )
            assert draft.diagnostics == ()
            known[overrides] = draft.values
        return copy.deepcopy(known[overrides])

    return values


@pytest.fixture
def unsolved(composed: Callable[..., Values]) -> Callable[..., Context]:
    """`unsolved("lora=small", {"trainer.micro_batch": 4})`: a typed context before any pass."""

    def make(*overrides: str | Mapping[str, Any], facts: Facts | None = None) -> Context:
        values = composed(*(o for o in overrides if isinstance(o, str)))
        for changes in overrides:
            if not isinstance(changes, str):
                for key, value in changes.items():
                    put(values, key, value)
        spec, problems = parse(values)
        assert spec is not None, problems
        return Context(spec, facts or Facts(versions=dict.fromkeys(PACKAGES, "99.0")))

    return make


@pytest.fixture
def solved(
    unsolved: Callable[..., Context], bench: Path, everything_installed: dict[str, str]
) -> Callable[..., Context]:
    """As `unsolved`, after all passes, as if every optional package were installed."""

    def make(*overrides: str | Mapping[str, Any]) -> Context:
        with chdir(bench):
            return run_passes(unsolved(*overrides), Origins())[0]

    return make
