"""The `lora` section: kinds, bounds, and that every field documents itself."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from llmforge import registry
from llmforge.compose import compose, options
from llmforge.schema.adapter import AdapterSpec, TargetedAdapter
from llmforge.schema.docs import field_doc

# a preset file becomes one of the others before its section is read
KINDS = {kind: found for kind, found in registry.kinds("lora").items() if kind != "file"}


@pytest.fixture(scope="module")
def shipped():
    """Values of an option, by the first option of each kind."""
    found = {}
    for option in (option for option in options("lora") if option.name != "file"):
        values = dict(compose(["hardware=cpu", f"lora={option.name}"]).values["lora"])
        found.setdefault(values["kind"], values)
    return found


def parsed(values: dict[str, object]) -> AdapterSpec:
    spec = KINDS[str(values["kind"])].spec.model_validate_json(json.dumps(values))
    assert isinstance(spec, AdapterSpec)
    return spec


def test_every_kind_ships_an_option(shipped):
    assert set(shipped) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_written_out_and_explained(kind, shipped):
    spec = parsed(shipped[kind])

    assert set(shipped[kind]) == set(type(spec).model_fields)
    for name in type(spec).model_fields:
        if name != "kind":
            assert len(field_doc(type(spec), [name])) > 15, name


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "none"])
def test_every_kind_names_its_paper_and_its_builder(kind):
    found = KINDS[kind]

    assert "arXiv" in (found.spec.__doc__ or "")
    assert found.builder is not None
    assert found.builder.startswith("llmforge.build.adapter:wrap_")


@pytest.mark.parametrize(
    ("kind", "field", "wrong"),
    [
        ("lora", "r", 0),
        ("lora", "alpha", 0),
        ("lora", "dropout", 1.5),
        ("lora", "bias", "some"),
        ("lora", "init", "corda"),
        ("lora", "expect_bits", 2),
        ("lora", "expect_modules", -1),
        ("lora", "targets", 3),
        ("eva", "similarity", 1.1),
        ("eva", "batches", 0),
        ("vera", "bias", "lora_only"),
        ("vera", "initial", -0.1),
        ("adalora", "warmup", "110%"),
        ("adalora", "interval", 0),
        ("adalora", "sensitivity_decay", -0.1),
        ("ia3", "r", 8),
        ("prompt", "tokens", 0),
        ("prompt", "init", "zero"),
        ("prefix", "init", "vocabulary"),
    ],
)
def test_what_is_refused(kind, field, wrong, shipped):
    with pytest.raises(ValidationError, match=field):
        parsed({**shipped[kind], field: wrong})


@pytest.mark.parametrize("targets", ["all-linear", "role:attention", ["q_proj"], ".*fc1"])
def test_every_form_of_target(targets, shipped):
    spec = parsed({**shipped["lora"], "targets": targets})

    assert isinstance(spec, TargetedAdapter)
    assert spec.targets == targets
