"""Settings of a saved plan, typed again; what does not fit this version is named by its key."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from llmforge.plan import Plan
from llmforge.schema.extension import TokenAccuracyMetric
from llmforge.schema.optim import AdamW
from llmforge.schema.typed import section_spec, typed


@pytest.fixture
def settings(compiled: Callable[..., Plan]) -> dict[str, Any]:
    plan = compiled("hardware=cpu", "metrics={accuracy: {kind: token_accuracy}}")
    return copy.deepcopy(plan.settings)


def test_what_was_saved_is_typed(settings: dict[str, Any]) -> None:
    spec = typed(settings)

    assert spec.settings() == settings
    assert isinstance(spec.metrics["accuracy"], TokenAccuracyMetric)


@pytest.mark.parametrize(
    ("section", "values", "told"),
    [
        ("trainer", {"epochs": "x"}, r"^trainer\.epochs"),
        ("trainer", {"epoch": 3}, r"^trainer\.epoch: Extra inputs"),
        ("optimizer", {"kind": "adamx"}, "^optimizer: unknown kind `adamx`$"),
        ("metrics", {"f1": {"kind": "word_f1"}}, r"^metrics\.f1: unknown kind `word_f1`$"),
        ("seeds", 1, "^seeds: unknown$"),
        ("seed", "1", "^seed: "),
        ("data", None, "^data: missing$"),
    ],
)
def test_what_does_not_fit_is_named(
    settings: dict[str, Any], section: str, values: Any, told: str
) -> None:
    old = settings.get(section)
    settings[section] = {**old, **values} if isinstance(old, dict) and values else values

    with pytest.raises(ValueError, match=told):
        typed(settings)


def test_all_faults_are_told(settings: dict[str, Any]) -> None:
    del settings["data"]
    settings["seed"] = -1

    with pytest.raises(ValueError, match=r"data: missing; seed: .*greater"):
        typed(settings)


def test_schema_of_a_section() -> None:
    assert section_spec("optimizer", {"kind": "adamw"}) is AdamW
    assert section_spec("optimizer", {"kind": ["adamw"]}) is None
    assert section_spec("optimizer", {}) is None
