"""The seventeen optimizer presets of Void-Trainer: every number, as `llmforge plan` shows it."""

from __future__ import annotations

import json

import pytest

# name, rate, weight decay, clip, gamma of the milestones 4, 8, 12 (none: no schedule),
# Adafactor's decay rate and whether it scales, steps and warms up by itself
TABLE = """
adamw_s_ns       2e-5  0.04   1.0  -     -      -
adamw_m_ns       5e-5  0.08   1.0  -     -      -
adamw_l_ns       8e-5  0.10   1.0  -     -      -
adamw_xl_ns      9e-5  0.12   1.0  -     -      -
adamw_ms_1       2e-4  0.05   1.0  0.5   -      -
adamw_ms_2       2e-4  0.10   1.0  0.65  -      -
adafactor_s_ns   2e-5  0.04   1.0  -     -1.0   off
adafactor_m_ns   5e-5  0.08   1.0  -     -1.0   off
adafactor_l_ns   8e-5  0.10   1.0  -     -1.0   off
adafactor_xl_ns  9e-5  0.12   1.0  -     -1.0   off
adafactor_ms_1   2e-4  0.05   1.0  0.5   -1.0   off
adafactor_ms_2   2e-4  0.10   1.0  0.65  -1.0   off
adafactor_rs     -     0.001  1.0  -     -0.95  on
adamw8bit_s_ns   2e-5  0.04   1.0  -     -      -
adamw8bit_m_ns   5e-5  0.08   1.0  -     -      -
adamw8bit_l_ns   8e-5  0.10   1.0  -     -      -
adamw8bit_xl_ns  9e-5  0.12   1.0  -     -      -
"""
ROWS = [line.split() for line in TABLE.strip().splitlines()]


def number(text: str) -> float | None:
    return None if text == "-" else float(text)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_number_of_a_preset(row, llmforge, everything_installed):
    name, rate, decay, clip, gamma, decay_rate, switches = row

    ran = llmforge(f"plan hardware=cpu optimizer={name} trainer.accumulation=1 --json")

    assert ran.code == 0, ran.err
    plan = json.loads(ran.out)
    found, schedule = plan["settings"]["optimizer"], plan["settings"]["schedule"]
    assert found["lr"] == number(rate)
    assert found["weight_decay"] == number(decay)
    assert found["decay_norms"] is True  # it handed all weights to the optimizer as one group
    assert found["clip_norm"] is None
    if name.startswith("adafactor"):
        assert found["kind"] == "adafactor"
        assert (found["clip_threshold"], found["clip_value"]) == (number(clip), None)
        assert found["decay_rate"] == number(decay_rate)
        own = [found[key] for key in ("scale_parameter", "relative_step", "warmup_init")]
        assert own == [switches == "on"] * 3
    else:
        assert found["kind"] == ("adamw_8bit" if "8bit" in name else "adamw")
        assert (found["betas"], found["eps"]) == ([0.9, 0.999], 1e-8)
        assert found["clip_value"] == number(clip)
    if gamma == "-":
        assert schedule == {"kind": "constant", "warmup": 0}
        assert plan["lowered"]["schedule"] is None
    else:
        assert schedule == {
            "kind": "multistep", "milestones": [4, 8, 12], "gamma": number(gamma),
            "unit": "batches", "warmup": 0,
        }  # fmt: skip
        assert plan["lowered"]["schedule"]["milestones"] == [4, 8, 12]


def test_there_are_seventeen(llmforge):
    listed = llmforge("list optimizer").out

    assert len(ROWS) == 17
    assert [row[0] for row in ROWS if row[0] not in listed] == []


def test_the_schedule_says_who_brought_it(llmforge):
    told = llmforge("explain schedule.kind optimizer=adamw_ms_2").out

    assert "conf/schedule/ms_1.yaml:3  multistep" in told
    assert (
        "chosen by conf/optimizer/adamw_ms_2.yaml:5"
        in llmforge("explain schedule.gamma optimizer=adamw_ms_2").out
    )


def test_ones_own_schedule_wins_over_that_of_a_preset(compiled):
    plan = compiled("hardware=cpu", "optimizer=adamw_ms_1", "schedule=linear")

    assert plan.settings["schedule"]["kind"] == "linear"
    assert plan.settings["optimizer"]["lr"] == 2e-4


def test_a_preset_of_ones_own_is_a_file_in_a_folder(work, llmforge):
    (work / "mine/optimizer").mkdir(parents=True)
    (work / "mine/optimizer/gentle.yaml").write_text(
        "# Mine.\ndefaults:\n  - adamw_s_ns\n  - _self_\nlr: 1e-6\n", encoding="utf-8"
    )

    ran = llmforge("plan hardware=cpu --config-dir mine optimizer=gentle --json")

    plan = json.loads(ran.out)
    assert plan["settings"]["optimizer"]["lr"] == 1e-6
    assert plan["settings"]["optimizer"]["weight_decay"] == 0.04
    assert plan["settings"]["schedule"] == {"kind": "constant", "warmup": 0}
