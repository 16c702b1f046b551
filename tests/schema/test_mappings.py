"""Which keys take names of the user's own."""

from __future__ import annotations

import pytest

from llmforge.schema.mappings import mapping_above


@pytest.mark.parametrize(
    ("key", "mapping"),
    [
        ("data.roles", "data.roles"),
        ("data.roles.bot", "data.roles"),
        ("data.parameters.since", "data.parameters"),
        ("data.options", "data.options"),
        ("data.evaluation.held", "data.evaluation"),
        ("data.weights.chat", "data.weights"),
        ("model.device_map", "model.device_map"),
        ("model.shape.rope.theta", "model.shape"),
        # names of the schema
        ("data.roles.bot.deeper", None),
        ("data.fields.prompt", None),
        ("data.rolls", None),
        ("trainer.epochs", None),
        ("seed", None),
        ("nothing.here", None),
    ],
)
def test_mapping_above_a_key(key, mapping):
    assert mapping_above(key) == mapping
