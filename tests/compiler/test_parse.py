"""From composed values to typed ones: what is legal, and how the rest is told."""

from __future__ import annotations

import pytest

from llmforge.compiler.parse import override, parse
from llmforge.origins import Origin, Origins
from llmforge.schema.optim import AdamW


def refusals(values, origins=None):
    """`code key: message` of each finding."""
    spec, found = parse(values, origins)
    assert (spec is None) == bool(found)
    return [f"{d.code} {d.key}: {d.message}" for d in found]


@pytest.fixture
def values(composed):
    return composed()


def test_composed_values_fit(values):
    spec, found = parse(values)

    assert found == []
    assert isinstance(spec.optimizer, AdamW)
    assert spec.settings()["trainer"]["micro_batch"] == "auto"


@pytest.mark.parametrize(
    ("section", "key", "value", "told"),
    [
        ("trainer", "epochs", "3", 'is `"3"`; expected a number or `auto`'),
        ("trainer", "epochs", True, "is `true`; expected a number or `auto`"),
        ("trainer", "max_steps", 1.5, "is `1.5`; expected a whole number"),
        ("trainer", "micro_batch", 0, "is `0`; expected a whole number from 1 or `auto`"),
        ("trainer", "micro_batch", "full", 'is `"full"`; expected a whole number or `auto`'),
        ("trainer", "group_by_length", "yes", 'is `"yes"`; expected true or false or `auto`'),
        ("trainer", "label_smoothing", 1.5, "is `1.5`; expected a number up to 1"),
        ("optimizer", "lr", 0, "is `0`; expected a number above 0 or `auto`"),
        ("optimizer", "lr", None, None),
        ("optimizer", "betas", [0.9], "is `[0.9]`; expected a list of at least 2"),
        ("optimizer", "betas", [1, 0, 1], "is `[1, 0, 1]`; expected a list of at most 2"),
        ("optimizer", "betas", 0.9, "is `0.9`; expected a list"),
        ("optimizer", "eps", float("inf"), "is `Infinity`; expected a finite number"),
        ("trainer", "epochs", 1e308, "is `1e+308`; expected a number up to 100000 or `auto`"),
        ("schedule", "warmup", "fast",
         'is `"fast"`; expected a number of optimizer steps from 0, or a share of the run such as '
         "`3%`"),
        ("evaluation", "every", "110%",
         'is `"110%"`; expected a number of optimizer steps from 1, a share of the run such as '
         "`10%`, `epoch` or a part of it such as `0.5 epoch`, or null for never"),
        ("precision", "compute", "fp8",
         'is `"fp8"`; expected `float32`, `bfloat16`, `float16` or `auto`'),
        ("checkpoint", "max_shard_size", "big",
         r'is `"big"`; expected text matching `^\d+(\.\d+)?\s?[KMG]B$`'),
    ],
)  # fmt: skip
def test_values_that_are_not_allowed(section, key, value, told, values):
    values[section][key] = value

    expected = [] if told is None else [f"LF104 {section}.{key}: `{section}.{key}` {told}"]
    assert refusals(values) == expected


def test_list_item_is_told_as_its_key(values):
    values["optimizer"]["betas"] = [0.9, "x"]

    assert refusals(values) == [
        'LF104 optimizer.betas: `optimizer.betas` is `"x"`; expected a number'
    ]


def test_all_at_once(values):
    values["trainer"]["epoch"] = 3
    values["lora"] = {"kind": "lorra"}
    values["seed"] = 2**32
    values["colour"] = "red"
    del values["data"]["rows"]
    del values["tracking"]
    values["paths"] = "here"

    assert sorted(refusals(values)) == [
        "LF101 colour: unknown key `colour` at the top level",
        "LF101 trainer.epoch: unknown key `epoch` in `trainer`",
        "LF103 lora.kind: unknown kind `lorra` of `lora`",
        "LF104 paths: section `paths` must be a mapping, not `\"here\"`",
        "LF104 seed: `seed` is `4294967296`; expected a whole number up to 4294967295",
        "LF105 data.rows: `data.rows` has no value",
        "LF105 tracking: section `tracking` is missing",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"), [("token", "hf_s3cret"), ("token", "env:"), ("token", "${x}")]
)
def test_secrets_are_not_repeated(key, value, values):
    values["tracking"][key] = value
    origins = Origins({f"tracking.{key}": [Origin("override", f"tracking.{key}={value}", value)]})

    _, (found,) = parse(values, origins)

    assert found.code == "LF114"
    assert found.hint == "tracking.token=env:MLFLOW_TRACKING_TOKEN"
    assert value not in str(found.to_dict()).replace("env:MLFLOW_TRACKING_TOKEN", "")


@pytest.mark.parametrize(
    ("origins", "hint"),
    [
        ([], "epochs"),
        ([Origin("override", "trainer.epoch=3", 3)], "trainer.epochs=3"),
        (
            [Origin("file", "mine/trainer/long.yaml", 3, line=5)],
            "write `epochs` for `epoch` in mine/trainer/long.yaml:5",
        ),
    ],
)
def test_unknown_key_is_mended_where_it_was_written(origins, hint, values):
    values["trainer"]["epoch"] = 3

    _, (found,) = parse(values, Origins({"trainer.epoch": origins} if origins else {}))

    assert found.notes == ("did you mean `epochs`?",)
    assert found.hint.removeprefix("trainer.") == hint.removeprefix("trainer.")


def test_nested_unknown_key(values):
    values["data"] = {"kind": "jsonl", "fields": {"promt": "q"}}

    found = [line for line in refusals(values) if line.startswith("LF101")]

    assert found == ["LF101 data.fields.promt: unknown key `promt` in `data.fields`"]


def test_hint_is_the_replaced_value(values):
    values["optimizer"]["betas"] = [2, 2]
    chain = [Origin("file", "conf/optimizer/adamw.yaml", [0.9, 0.95], 7),
             Origin("override", "optimizer.betas=[2,2]", [2, 2])]  # fmt: skip

    _, (found,) = parse(values, Origins({"optimizer.betas": chain}))

    assert found.hint == "'optimizer.betas=[0.9,0.95]'"


@pytest.mark.parametrize(
    ("value", "text"),
    [(3, "key=3"), (None, "key=null"), (True, "key=true"), ("a b", "'key=a b'"),
     (["q_proj", "v_proj"], "'key=[q_proj,v_proj]'"), (1e-8, "key=1e-08")],
)  # fmt: skip
def test_override_is_ready_to_paste(value, text):
    assert override("key", value) == text
