"""Value types that several sections share, and what every section promises."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import TypeAdapter, ValidationError

from llmforge.registry import Component, component, kinds, register
from llmforge.schema import SECTIONS, SINGLE, Effect
from llmforge.schema.base import Interval, SecretRef, Spec, Warmup, share_of, spec_fields
from llmforge.schema.evaluation import EvaluationSpec
from llmforge.schema.optim import AdamW
from llmforge.schema.run import Scalars
from llmforge.schema.train import TrainerSpec


def accepts(kind: object, value: object) -> bool:
    try:
        TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("value", [1, 500, "10%", "0.5%", "100%", "epoch", None])
def test_intervals(value):
    assert accepts(Interval, value)


@pytest.mark.parametrize("value", [0, -1, "0%", "101%", "10 %", "-5%", "often", "", 1.5, "10"])
def test_no_intervals(value):
    assert not accepts(Interval, value)


@pytest.mark.parametrize("value", [0, 100, "0%", "3%", "100%"])
def test_warm_ups(value):
    assert accepts(Warmup, value)


@pytest.mark.parametrize("value", [-1, "200%", "epoch", None, 0.03])
def test_no_warm_ups(value):
    assert not accepts(Warmup, value)


@pytest.mark.parametrize("value", ["env:HF_TOKEN", "env:_x1"])
def test_secret_references(value):
    assert accepts(SecretRef, value)


@pytest.mark.parametrize(
    "value", ["hf_abc", "env:", "env:1X", "env:A B", " env:A", "env:A\n", "ENV:A"]
)
def test_plain_secrets(value):
    assert not accepts(SecretRef, value)


@pytest.mark.parametrize(
    ("text", "share"), [("5%", 0.05), ("0.5%", 0.005), ("100%", 1.0), (5, None), ("5", None),
                        ("epoch", None), (None, None)]
)  # fmt: skip
def test_share(text, share):
    assert share_of(text) == (pytest.approx(share) if share is not None else None)


def test_a_field_has_the_effect_of_its_class_unless_it_has_its_own():
    assert TrainerSpec.effect_of("epochs") is Effect.NUMERICS
    assert TrainerSpec.effect_of("log_every") is Effect.BOOKKEEPING
    assert EvaluationSpec.effect_of("samples") is Effect.EVALUATION
    assert dict(spec_fields(Scalars)) == {
        "name": Effect.BOOKKEEPING, "seed": Effect.NUMERICS, "plugins": Effect.BOOKKEEPING,
        "callbacks": Effect.BOOKKEEPING, "metrics": Effect.BOOKKEEPING,
        "deterministic": Effect.SPEED,
        "num_gpus": Effect.BOOKKEEPING,
    }  # fmt: skip


def test_specs_are_frozen_and_forbid_what_they_do_not_know():
    class Pair(Spec):
        left: int
        right: Annotated[int, Effect.SPEED]

    pair = Pair(left=1, right=2)

    with pytest.raises(ValidationError, match="frozen"):
        pair.left = 3
    with pytest.raises(ValidationError, match="Extra inputs"):
        Pair(left=1, right=2, middle=3)
    with pytest.raises(ValidationError, match="valid integer"):
        Pair(left="1", right=2)


def test_components_are_found_by_section_and_kind():
    assert component("optimizer", "adamw") == Component("optimizer", "adamw", AdamW)
    assert list(kinds("launch")) == ["local", "torchrun", "deepspeed", "ray", "slurm"]
    assert kinds("no such section") == {}
    with pytest.raises(KeyError):
        component("optimizer", "none")


def test_a_kind_is_registered_once():
    with pytest.raises(ValueError, match="optimizer kind `adamw` is already registered"):
        register("optimizer", "adamw")(AdamW)


def test_a_component_without_builder_says_so():
    with pytest.raises(LookupError, match="optimizer kind `adamw` has nothing to build"):
        component("optimizer", "adamw").load_builder()


def test_every_section_is_a_choice_or_of_one_shape():
    assert {s for s in SECTIONS if not kinds(s)} == set(SINGLE)


@pytest.mark.parametrize(
    "found", [c for s in SECTIONS for c in kinds(s).values()], ids=lambda c: f"{c.section}-{c.kind}"
)
def test_component_names_its_own_kind_and_says_what_it_is(found):
    assert found.spec.model_fields["kind"].annotation.__args__ == (found.kind,)
    assert found.spec.__doc__
