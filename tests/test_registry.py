"""Registering components of one's own: what works, and what is refused where it is written."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from llmforge import registry
from llmforge.registry import RegistrationRefused, component, kinds, register
from llmforge.schema.extension import CallbackSpec, MetricSpec
from llmforge.schema.train import LmTrainer, TrainerSpec


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {section: dict(found) for section, found in registry._components.items()}
    monkeypatch.setattr(registry, "_components", known)


def test_a_component_of_ones_own() -> None:
    @register("callback", "counter", "json:JSONDecoder")
    class CounterSpec(CallbackSpec):
        every: int

    found = component("callback", "counter")
    assert found.spec is CounterSpec
    assert found.is_own
    from json import JSONDecoder

    assert found.load_builder() is JSONDecoder


def test_shipped_components_are_not_own() -> None:
    assert not component("trainer", "lm").is_own
    assert [found for found in kinds("collator").values() if found.is_own] == []


def test_an_experiment_is_chosen_in_hooks() -> None:
    from llmforge.schema.experiment import ExperimentSpec

    @register("experiment", "mine", "my_pkg:Mine")
    class MineSpec(ExperimentSpec):
        pass

    assert component("hooks", "mine").spec is MineSpec


def refused(
    section: str, kind: Any, builder: Any, spec: type[Any] = CallbackSpec
) -> tuple[str, str]:
    class Mine(spec):  # type: ignore[misc]
        pass

    with pytest.raises(RegistrationRefused) as raised:
        register(section, kind, builder)(Mine)
    return raised.value.code, str(raised.value)


def test_an_unknown_section() -> None:
    code, said = refused("calback", "x", "a:b")
    assert (code, said) == ("LF122", "nothing can be registered as `calback`")
    assert "llmforge.dataset" in refused("dataset", "x", "a:b")[1]
    # sections that only llmforge fills
    assert refused("model", "x", "a:b")[0] == "LF122"


@pytest.mark.parametrize("kind", ["", "two words", "../up", 3, None])
def test_a_name_that_is_none(kind: Any) -> None:
    assert refused("callback", kind, "a:b")[0] == "LF122"


def test_another_spec_class() -> None:
    code, said = refused("trainer", "x", "a:b", MetricSpec)
    assert code == "LF124"
    assert "must be a class that inherits from TrainerSpec" in said


@pytest.mark.parametrize("builder", [None, "", "my_pkg.Mine", "my pkg:Mine", "a:b:c", "a:", len])
def test_a_builder_that_is_no_reference(builder: Any) -> None:
    code, said = refused("callback", "x", builder)
    assert code == "LF125"
    assert ("has no builder" in said) == (builder is None)


def test_a_name_that_is_taken() -> None:
    code, said = refused("trainer", "lm", "a:b", TrainerSpec)
    assert code == "LF123"
    assert said == (
        "trainer kind `lm` is already registered by llmforge.schema.train.LmTrainer; "
        "override=True replaces it"
    )
    assert component("trainer", "lm").spec is LmTrainer


def test_override_replaces_it() -> None:
    @register("trainer", "lm", "my_pkg:Mine", override=True)
    class Mine(LmTrainer):
        kind: Literal["lm"]

    assert component("trainer", "lm").spec is Mine


def test_a_module_that_is_loaded_again_replaces_itself() -> None:
    def define(builder: str) -> None:
        @register("callback", "again", builder)
        class Again(CallbackSpec):
            pass

    define("a:b")
    define("a:c")
    assert component("callback", "again").builder == "a:c"


def test_a_component_without_builder_builds_nothing() -> None:
    with pytest.raises(LookupError, match="nothing to build"):
        component("hooks", "none").load_builder()
