"""LoRA presets in JSON files of Void-Trainer: an ordinary section, and every fault of a file."""

from __future__ import annotations

import json

import pytest

from llmforge.compiler.passes import check, compile_plan

LORA = {
    "bias": "none",
    "lora_alpha": 88,
    "lora_dropout": 0.05,
    "lora_r": 12,
    "peft_type": "Lora",
    "target_modules": ["q_proj", "v_proj"],
    "task_type": "CAUSAL_LM",
}
FILE = ["hardware=cpu", "model=folder", "model.path=tiny", "lora=file", "lora.path=preset.json"]


@pytest.fixture
def preset(work, checkpoint):
    """`preset({...})` writes preset.json beside a tiny Llama."""
    checkpoint(work / "tiny")

    def write(values: object) -> None:
        (work / "preset.json").write_text(json.dumps(values, indent=4), encoding="utf-8")

    return write


def faults(*more: str) -> list[tuple[str, str | None]]:
    return [(d.message, d.hint) for d in check([*FILE, *more]).diagnostics if d.code == "LF316"]


def test_it_becomes_an_ordinary_section(preset):
    preset(LORA)

    plan = compile_plan(FILE)

    assert plan.settings["lora"] == {
        "kind": "lora", "r": 12, "alpha": 88, "dropout": 0.05, "bias": "none",
        "targets": ["q_proj", "v_proj"], "init": "default", "rslora": False, "dora": False,
        "modules_to_save": [], "expect_modules": 0, "expect_bits": None,
    }  # fmt: skip
    assert plan.estimate["adapted"] == {"q_proj": 2, "v_proj": 2}
    assert plan.lowered["lora_config"]["r"] == 12


def test_origins_name_file_and_line(preset):
    preset(LORA)
    plan = compile_plan(FILE)

    for key, line in {"lora.r": 5, "lora.bias": 2, "lora.dropout": 4, "lora.targets": 7}.items():
        (origin,) = plan.origins.chain(key)
        assert (origin.place, origin.reason) == (
            f"preset.json:{line}",
            "chosen by lora.path=preset.json",
        ), key
    assert plan.origins.chain("lora.rslora")[-1].where == "conf/lora/small.yaml"
    leaves = dict(plan.leaves())
    assert all(plan.origins.chains[key][-1].value == value for key, value in leaves.items())
    assert set(plan.origins.chains) == set(leaves)


def test_ones_own_overrides_win(preset):
    preset(LORA)

    plan = compile_plan([*FILE, "lora.r=4"])

    assert plan.settings["lora"]["r"] == 4
    assert [o.place for o in plan.origins.chain("lora.r")] == ["preset.json:5", "command line"]


def test_the_same_numbers_are_the_same_run(preset):
    preset({**LORA, "lora_r": 8, "lora_alpha": 16, "target_modules": "all-linear"})

    shipped = compile_plan([*FILE[:3], "lora=small"])

    assert compile_plan(FILE).stages == shipped.stages


def test_both_presets_may_be_files(preset, work):
    preset(LORA)
    adamw = {
        "optimizer_name": "AdamW", "learning_rate": 3e-5, "weight_decay": 0.06,
        "gradient_clip": 0.5,
    }  # fmt: skip
    (work / "adamw.json").write_text(json.dumps(adamw), encoding="utf-8")

    found = compile_plan([*FILE, "optimizer=file", "optimizer.path=adamw.json"]).settings

    assert (found["optimizer"]["lr"], found["lora"]["r"]) == (3e-5, 12)


def test_the_placeholder_of_its_own_files_is_no_target(preset, checkpoint, work):
    """Every GPT-NeoX file of the system names a second module `xxx`, which nobody has."""
    checkpoint(work / "tiny", model_type="gpt_neox")
    preset(LORA | {"target_modules": ["query_key_value", "xxx"]})

    plan = compile_plan(FILE)

    assert plan.settings["lora"]["targets"] == ["query_key_value"]
    assert plan.estimate["adapted"] == {"query_key_value": 2}


def test_none_may_be_written_large_as_in_its_first_files(preset):
    preset(LORA | {"bias": "None"})

    assert compile_plan(FILE).settings["lora"]["bias"] == "none"


def test_a_file_of_another_architecture(preset):
    preset(LORA | {"target_modules": ["query_key_value"]})

    (found,) = (d for d in check(FILE).diagnostics if d.is_error)

    assert (found.code, found.key) == ("LF601", "lora.targets")
    assert found.origins[-1].place == "preset.json:7"


def without(values: dict[str, object], *names: str) -> dict[str, object]:
    return {name: value for name, value in values.items() if name not in names}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            without(LORA, "lora_alpha"),
            [("preset.json: no key `lora_alpha`", "add `lora_alpha` to preset.json")],
        ),
        (
            without(LORA, "peft_type"),  # there, and read by nobody
            [],
        ),
        (
            {**without(LORA, "lora_dropout"), "lora_droput": 0.1},
            [
                (
                    "preset.json:11: unknown key `lora_droput`",
                    "write `lora_dropout` for `lora_droput` in preset.json",
                )
            ],
        ),
        (
            LORA | {"lora_r": "12"},
            [('preset.json:5: `lora_r` is `"12"`; expected a whole number', None)],
        ),
        (
            LORA | {"target_modules": ["xxx"]},
            [
                (
                    'preset.json:7: `target_modules` is `["xxx"]`; expected a list of names of '
                    "modules",
                    None,
                )
            ],
        ),
        (
            LORA | {"bias": "lora"},
            [
                (
                    "preset.json:2: `bias` is `lora`; expected `none` or `all` or `lora_only`",
                    "write `lora_only` for `lora` in preset.json",
                )
            ],
        ),
        (
            LORA | {"task_type": "CASUAL_LM"},
            [
                (
                    "preset.json:11: `task_type` is `CASUAL_LM`; expected `CAUSAL_LM`",
                    "write `CAUSAL_LM` for `CASUAL_LM` in preset.json",
                )
            ],
        ),
        ([LORA], [("preset.json: not a JSON object of settings", None)]),
    ],
    ids=lambda v: str(v)[:60],
)
def test_faults(values, expected, preset):
    preset(values)

    assert faults() == expected


def test_a_file_that_is_not_there(preset):
    assert faults() == [("preset.json: cannot be read (no such file or directory)", None)]


def test_bounds_are_checked_as_in_any_section(preset):
    preset(LORA | {"lora_r": 0})

    (found,) = (d for d in check(FILE).diagnostics if d.is_error)

    assert (found.code, found.key) == ("LF104", "lora.r")
    assert found.origins[-1].place == "preset.json:5"


def test_everything_else_is_checked_as_well(preset):
    preset(without(LORA, "lora_r"))

    codes = {d.code for d in check([*FILE, "trainer.epoch=3"]).diagnostics}

    assert codes == {"LF316", "LF101"}


def test_a_path_that_is_not_given(preset):
    assert [d.code for d in check(FILE[:4]).diagnostics] == ["LF105"]
