"""A kind that does not exist: the hint is an override that is accepted."""

from __future__ import annotations

import pytest

from llmforge.compiler.parse import parse
from llmforge.origins import Origin, Origins


@pytest.mark.parametrize(
    ("section", "kind", "hint"),
    [
        # the section's own values fit the kind
        ("optimizer", "adamww", "optimizer.kind=adamw"),
        ("trainer", "lmm", "trainer.kind=lm"),
        # they do not: the option brings its own
        ("collator", "chatt", "collator=chat"),
        ("optimizer", "lionn", "optimizer=lion"),
        ("schedule", "wsdd", "schedule=wsd"),
        ("fsdp", "fsdp3", "fsdp=full_shard"),  # named otherwise, but the only one
        # several options have it
        ("lora", "lorra", "lora=<option>"),
        # nothing is near
        ("optimizer", "zzzz", None),
    ],
)
def test_what_is_suggested(composed, section, kind, hint):
    values = composed()
    values[section]["kind"] = kind

    _, (found,) = parse(values)

    assert (found.code, found.key, found.hint) == ("LF103", f"{section}.kind", hint)
    if hint and not hint.endswith(">"):
        accepted, problems = parse(composed(hint))
        assert accepted is not None, problems


def test_options_of_the_kind_are_told(composed):
    values = composed()
    values["quantization"]["kind"] = "bitsandbyte"

    _, (found,) = parse(values)

    assert found.notes[-1] == "options of kind `bitsandbytes`: 4bit, 8bit"


def test_of_nothing_near_the_kind_that_was_replaced(composed):
    values = composed()
    values["optimizer"]["kind"] = "zzzz"
    chain = [Origin("file", "conf/optimizer/adamw.yaml", "adamw", 3),
             Origin("override", "optimizer.kind=zzzz", "zzzz")]  # fmt: skip

    _, (found,) = parse(values, Origins({"optimizer.kind": chain}))

    assert found.hint == "optimizer.kind=adamw"


def test_a_missing_kind(composed):
    values = composed()
    del values["lora"]["kind"]

    _, (found,) = parse(values)

    assert (found.code, found.hint) == ("LF105", "lora.kind=none")
