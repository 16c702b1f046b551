"""JSON Schemas for editors."""

from __future__ import annotations

import json

import jsonschema
import pytest

from llmforge.registry import kinds
from llmforge.schema import APART, SECTIONS
from llmforge.schema.export import all_schemas, config_schema, group_schema, schemas_json


@pytest.mark.parametrize("name", sorted(all_schemas()))
def test_schema_is_valid_and_closed(name):
    schema = all_schemas()[name]

    jsonschema.Draft202012Validator.check_schema(schema)
    parts = schema.get("anyOf", [schema])
    assert all(part["additionalProperties"] is False for part in parts)


def test_one_per_group_and_one_for_whole_configs():
    assert set(all_schemas()) == {"config", *SECTIONS, *APART}
    assert json.loads(schemas_json()) == config_schema()


def test_a_group_of_kinds_is_a_choice():
    schema = group_schema("schedule")

    titles = [part["title"] for part in schema["anyOf"]]
    assert titles[:3] == ["Constant", "Linear", "Cosine"]
    assert len(titles) == len(kinds("schedule"))


def test_help_stands_beside_the_field():
    of_language_models, *_ = group_schema("trainer")["anyOf"]
    properties = of_language_models["properties"]

    assert properties["micro_batch"]["description"] == "Samples per device and forward pass."


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"kind": "cosine", "floor": 0.2},
        {"defaults": ["cosine", "_self_"], "warmup": "5%"},
        {"warmup": "${seed}"},
        {"warmup": "???"},
    ],
)
def test_partial_files_and_values_filled_in_later(values):
    jsonschema.validate(values, group_schema("schedule"))


@pytest.mark.parametrize("values", [{"flor": 0.2}, {"floor": 2}, {"kind": "parabola"}])
def test_mistakes_an_editor_can_mark(values):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, group_schema("schedule"))
