"""JSON presets of Void-Trainer: an ordinary section in the plan, and every fault of the file."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmforge.compiler.passes import check, compile_plan
from llmforge.compiler.preset_text import Preset, read_preset

ADAMW = {
    "optimizer_name": "AdamW",
    "learning_rate": 3e-5,
    "weight_decay": 0.06,
    "gradient_clip": 0.5,
}
ADAFACTOR = {
    "optimizer_name": "Adafactor",
    "learning_rate_scheduler": "Multistep",
    "milestone": [2, 5],
    "gamma": 0.3,
    "learning_rate": 2e-4,
    "weight_decay": 0.05,
    "decay_rate": -0.9,
    "gradient_clip": 0.7,
    "scale_parameter": "false",
    "relative_step": "false",
    "warmup_init": "false",
}
FILE = ["hardware=cpu", "optimizer=file", "optimizer.path=preset.json", "trainer.accumulation=1"]


@pytest.fixture
def preset(work):
    """`preset({...})` writes preset.json."""

    def write(values: object) -> None:
        (work / "preset.json").write_text(json.dumps(values, indent=4), encoding="utf-8")

    return write


def faults(*more: str) -> list[tuple[str, str | None]]:
    return [(d.message, d.hint) for d in check([*FILE, *more]).diagnostics if d.code == "LF316"]


def test_it_becomes_an_ordinary_section(preset):
    preset(ADAMW)

    found = compile_plan(FILE).settings

    assert found["optimizer"] == {
        "kind": "adamw", "lr": 3e-5, "weight_decay": 0.06, "clip_norm": None, "clip_value": 0.5,
        "betas": [0.9, 0.999], "eps": 1e-8, "fused": True, "decay_norms": True,
        "lora_plus_ratio": None, "embedding_lr": None, "layer_decay": None,
        "lr_scratch": 3e-3, "lr_finetune": 2e-5, "lr_adapter": 2e-4,
    }  # fmt: skip
    assert found["schedule"] == {"kind": "constant", "warmup": 0}


def test_it_brings_its_schedule(preset):
    preset(ADAFACTOR)

    plan = compile_plan(FILE)

    found = plan.settings["optimizer"]
    assert (found["kind"], found["clip_threshold"], found["decay_rate"]) == ("adafactor", 0.7, -0.9)
    assert found["scale_parameter"] is False
    assert plan.settings["schedule"] == {
        "kind": "multistep", "milestones": [2, 5], "gamma": 0.3, "unit": "batches", "warmup": 0,
    }  # fmt: skip


def test_a_relative_step_needs_no_rate(preset):
    """As the seed's own file has it: "none" for what is not given, text for what is true."""
    own = dict.fromkeys(("scale_parameter", "relative_step", "warmup_init"), "true")
    absent = dict.fromkeys(
        ("learning_rate_scheduler", "milestone", "gamma", "learning_rate"), "none"
    )
    preset(ADAFACTOR | own | absent)

    found = compile_plan(FILE).settings["optimizer"]

    assert (found["lr"], found["relative_step"], found["warmup_init"]) == (None, True, True)


def test_eight_bits_need_no_pages(preset):
    preset(ADAMW | {"optimizer_name": "AdamW8bit"})

    found = compile_plan(FILE).settings["optimizer"]

    assert (found["kind"], found["paged"]) == ("adamw_8bit", False)


def test_origins_name_file_and_line(preset):
    preset(ADAFACTOR)
    plan = compile_plan(FILE)

    for key, line in {
        "optimizer.kind": 2, "optimizer.weight_decay": 10, "schedule.gamma": 8,
        "schedule.kind": 3,
    }.items():  # fmt: skip
        (origin,) = plan.origins.chain(key)
        assert (origin.place, origin.reason) == (
            f"preset.json:{line}",
            "chosen by optimizer.path=preset.json",
        ), key
    assert plan.origins.chain("optimizer.clip_norm")[-1].where == "conf/optimizer/adafactor.yaml"
    leaves = dict(plan.leaves())
    assert all(plan.origins.chains[key][-1].value == value for key, value in leaves.items())
    assert set(plan.origins.chains) == set(leaves)


def test_ones_own_overrides_win(preset):
    preset(ADAFACTOR)

    plan = compile_plan([*FILE, "optimizer.lr=1e-5", "schedule.warmup=1"])

    assert plan.settings["optimizer"]["lr"] == 1e-5
    assert plan.settings["schedule"]["warmup"] == 1
    assert plan.settings["schedule"]["kind"] == "multistep"
    assert [o.place for o in plan.origins.chain("optimizer.lr")] == [
        "preset.json:9",
        "command line",
    ]


def test_ones_own_schedule_wins(preset):
    preset(ADAFACTOR)

    assert compile_plan([*FILE, "schedule=linear"]).settings["schedule"]["kind"] == "linear"


def test_the_same_numbers_are_the_same_run(preset):
    preset({**ADAMW, "learning_rate": 2e-5, "weight_decay": 0.04, "gradient_clip": 1.0})

    shipped = compile_plan(["hardware=cpu", "optimizer=adamw_s_ns", "trainer.accumulation=1"])

    assert compile_plan(FILE).stages == shipped.stages


def test_an_override_that_its_optimizer_does_not_know_is_told(preset):
    preset(ADAFACTOR)

    (found,) = (d for d in check([*FILE, "optimizer.betas=[0.9,0.99]"]).diagnostics if d.is_error)

    assert (found.code, found.key) == ("LF101", "optimizer.betas")


def without(values: dict[str, object], *names: str) -> dict[str, object]:
    return {name: value for name, value in values.items() if name not in names}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            without(ADAMW, "weight_decay"),
            [("preset.json: no key `weight_decay`", "add `weight_decay` to preset.json")],
        ),
        (
            {**without(ADAMW, "weight_decay"), "weight_dacay": 0.12},
            [
                (
                    "preset.json:5: unknown key `weight_dacay`",
                    "write `weight_decay` for `weight_dacay` in preset.json",
                )
            ],
        ),
        (
            ADAMW | {"learning_rate": "3e-5"},
            [('preset.json:3: `learning_rate` is `"3e-5"`; expected a number', None)],
        ),
        (
            ADAMW | {"optimizer_name": "AdamW8bits"},
            [
                (
                    "preset.json:2: `optimizer_name` is `AdamW8bits`; expected `AdamW` or "
                    "`AdamW8bit` or `Adafactor`",
                    "write `AdamW8bit` for `AdamW8bits` in preset.json",
                )
            ],
        ),
        (
            ADAMW | {"decay_rate": -1.0},  # AdamW has none
            [("preset.json:6: unknown key `decay_rate`", None)],
        ),
        (
            ADAFACTOR | {"scale_parameter": "no", "milestone": 4},
            [
                ("preset.json:4: `milestone` is `4`; expected a list of whole numbers", None),
                ('preset.json:10: `scale_parameter` is `"no"`; expected true or false', None),
            ],
        ),
        (
            without(ADAFACTOR, "gamma"),
            [("preset.json: no key `gamma`", "add `gamma` to preset.json")],
        ),
        (
            ADAMW | {"learning_rate_scheduler": "multistep"},
            [
                (
                    "preset.json:6: `learning_rate_scheduler` is `multistep`; expected `Multistep`",
                    "write `Multistep` for `multistep` in preset.json",
                )
            ],
        ),
        (
            ADAMW | {"milestone": [4, 8]},  # no scheduler would read it: the rate would stay flat
            [
                (
                    "preset.json:6: `milestone` without `learning_rate_scheduler`, which would "
                    "read it",
                    'write `"learning_rate_scheduler": "Multistep"` into preset.json, or take '
                    "`milestone` out",
                )
            ],
        ),
        ([ADAMW], [("preset.json: not a JSON object of settings", None)]),
        ([], [("preset.json: not a JSON object of settings", None)]),
    ],
    ids=lambda v: str(v)[:60],
)
def test_faults(values, expected, preset):
    preset(values)

    assert faults() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON (Expecting property name"),
        ('{"learning_rate": NaN}', "not JSON (NaN is no number of JSON)"),
        ('{"gamma": 1,\n "gamma": 2}', "`gamma` stands there twice"),
        ("[" * 100_000, "not JSON (maximum recursion depth"),
        ("\xff", "not JSON"),
        (" " * 1_000_001, "larger than 1,000,000 bytes"),
    ],
    ids=lambda v: v[:20],
)
def test_files_that_are_none(text, message, work):
    (work / "preset.json").write_bytes(text.encode("latin-1"))

    ((found, _),) = faults()

    assert message in found


def test_a_file_that_is_not_there(work):
    assert faults() == [("preset.json: cannot be read (no such file or directory)", None)]


def test_bounds_are_checked_as_in_any_section(preset):
    preset(ADAMW | {"learning_rate": 20.0})

    (found,) = (d for d in check(FILE).diagnostics if d.is_error)

    assert (found.code, found.key) == ("LF104", "optimizer.lr")
    assert found.origins[-1].place == "preset.json:3"


def test_everything_else_is_checked_as_well(preset):
    preset(without(ADAMW, "weight_decay"))

    codes = {d.code for d in check([*FILE, "trainer.epoch=3"]).diagnostics}

    assert codes == {"LF316", "LF101"}


def test_a_path_that_is_not_given(work):
    assert [d.code for d in check(["hardware=cpu", "optimizer=file"]).diagnostics] == ["LF105"]


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=6),
        st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.lists(st.integers()),
        max_size=5,
    )
)
def test_any_flat_object_is_read_with_its_lines(tmp_path, values):
    path = tmp_path / "any.json"
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False), encoding="utf-8")

    found = read_preset("optimizer.path", str(path))

    assert isinstance(found, Preset)
    kept = {k: v for k, v in values.items() if v not in (None, "none", "None")}
    assert found.values == kept
    assert set(found.lines) == set(values)
