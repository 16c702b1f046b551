"""LoRA presets: every number of the systems they come from, as `llmforge plan` states it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmforge.compose import options

# row: name of its file, rank, alpha, alpha / rank to three digits, dropout. Of each there were two
# files, one for Llama, OPT, GPT-Neo (and Mistral), one for GPT-NeoX; the modules stand below.
TABLE = """
VL01-02 | Lora_8bit_S  | 32  | 32  | 1     | 0.05
VL03-04 | Lora_8bit_M  | 64  | 32  | 0.5   | 0.05
VL05-06 | Lora_8bit_L  | 256 | 88  | 0.344 | 0.05
VL07-08 | Lora_8bit_XL | 384 | 128 | 0.333 | 0.05
VL09-10 | Lora_4bit_S  | 64  | 32  | 0.5   | 0.01
VL11-12 | Lora_4bit_M  | 80  | 32  | 0.4   | 0.01
VL13-14 | Lora_4bit_L  | 384 | 88  | 0.229 | 0.01
VL15-16 | Lora_4bit_XL | 512 | 128 | 0.25  | 0.01
"""
ROWS = [[cell.strip() for cell in line.split("|")] for line in TABLE.strip().splitlines()]

MODULES = {
    "llama": ["q_proj", "v_proj"],
    "opt": ["q_proj", "v_proj"],
    "gpt_neo": ["q_proj", "v_proj"],
    "mistral": ["q_proj", "v_proj"],
    "gpt_neox": ["query_key_value"],
}
CONFIGS = {
    "llama": {},
    "mistral": {"model_type": "mistral"},
    "opt": {"model_type": "opt", "ffn_dim": 32, "word_embed_proj_dim": 16},
    "gpt_neo": {"model_type": "gpt_neo", "num_layers": 2, "num_heads": 2,
                "attention_types": [[["global"], 2]]},
    "gpt_neox": {"model_type": "gpt_neox"},
}  # fmt: skip


def option_of(row: list[str]) -> str:
    return row[1].removeprefix("Lora_").lower()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
@pytest.mark.parametrize("family", MODULES)
def test_every_preset_on_every_architecture(row, family, llmforge, checkpoint, work: Path):
    _, _, rank, alpha, ratio, dropout = row
    option = option_of(row)
    bits = option.partition("_")[0]
    checkpoint(work / "base", **CONFIGS[family])

    ran = llmforge(
        "plan --json model=folder model.path=base hardware=rtx4090 "
        f"lora={option} quantization={bits}"
    )

    assert ran.code == 0, ran.err
    plan = json.loads(ran.out)
    lowered = plan["lowered"]["lora_config"]
    assert lowered["r"] == int(rank)
    assert lowered["lora_alpha"] == int(alpha)
    assert round(lowered["lora_alpha"] / lowered["r"], 3) == float(ratio)
    assert lowered["lora_dropout"] == float(dropout)
    assert lowered["bias"] == "none"
    assert lowered["task_type"] == "CAUSAL_LM"
    assert sorted(lowered["target_modules"]) == MODULES[family]
    assert plan["estimate"]["adapted"] == dict.fromkeys(MODULES[family], 2)
    assert f"load_in_{bits}" in plan["lowered"]["quantization_config"]


def test_no_preset_of_the_table_is_missing():
    named = {option.name for option in options("lora") if option.name.startswith(("4bit", "8bit"))}

    assert named == {option_of(row) for row in ROWS}
    assert len(ROWS) * 2 == 16


@pytest.mark.parametrize(
    ("option", "rank", "alpha", "dropout"), [("xllm", 8, 32, 0.1), ("superduper", 8, 16, 0.05)]
)
def test_defaults_of_the_other_two(option, rank, alpha, dropout, compiled):
    plan = compiled("model=folder", "model.path=tiny", f"lora={option}")

    lowered = plan.lowered["lora_config"]
    assert (lowered["r"], lowered["lora_alpha"], lowered["lora_dropout"]) == (rank, alpha, dropout)
    assert lowered["bias"] == "none"
    assert lowered["use_rslora"] is lowered["use_dora"] is False
    # every linear layer but the output head
    assert "lm_head" not in plan.estimate["adapted"]
    assert plan.estimate["adapted_modules"] == 14


def test_the_numbers_train_in_every_precision(compiled):
    """Not over a quantized base alone: one override says so."""
    for precision in ("float32", "bfloat16"):
        plan = compiled(
            "model=folder", "model.path=tiny", "lora=4bit_s", "lora.expect_bits=null",
            f"precision={precision}", "hardware=h200",
        )  # fmt: skip
        assert plan.lowered["quantization_config"] is None
        assert plan.lowered["lora_config"]["r"] == 64


FILES = {"Llama-OPT-GPTNeo": ["q_proj", "v_proj"], "GPTNeoX": ["query_key_value", "xxx"]}
"""The end of a file's name -> the modules that it lists."""


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
@pytest.mark.parametrize(("suffix", "family"), [("Llama-OPT-GPTNeo", "llama"),
                                                ("GPTNeoX", "gpt_neox")])  # fmt: skip
def test_its_own_files_by_path_are_the_shipped_presets(
    row, suffix, family, llmforge, checkpoint, work: Path
):
    _, name, rank, alpha, _, dropout = row
    option = option_of(row)
    checkpoint(work / "base", **CONFIGS[family])
    preset = {
        "bias": "none", "lora_alpha": int(alpha), "lora_dropout": float(dropout),
        "lora_r": int(rank), "peft_type": "Lora", "target_modules": FILES[suffix],
        "task_type": "CAUSAL_LM",
    }  # fmt: skip
    (work / f"{name}_{suffix}.json").write_text(json.dumps(preset), encoding="utf-8")
    base = f"model=folder model.path=base hardware=rtx4090 quantization={option.partition('_')[0]}"

    by_path = json.loads(
        llmforge(f"plan --json {base} lora=file lora.path={name}_{suffix}.json").out
    )
    shipped = json.loads(llmforge(f"plan --json {base} lora={option}").out)

    assert by_path["lowered"]["lora_config"] == shipped["lowered"]["lora_config"]
    assert by_path["estimate"] == shipped["estimate"]


def test_a_preset_of_ones_own_is_a_file_in_a_folder(work: Path, llmforge, checkpoint):
    checkpoint(work / "base")
    (work / "mine/lora").mkdir(parents=True)
    (work / "mine/lora/wide.yaml").write_text(
        "# Mine.\ndefaults:\n  - small\n  - _self_\nr: 24\ntargets: role:mlp\n", encoding="utf-8"
    )

    ran = llmforge(
        "plan --json model=folder model.path=base hardware=cpu --config-dir mine lora=wide"
    )

    assert ran.code == 0, ran.err
    plan = json.loads(ran.out)
    assert (plan["settings"]["lora"]["r"], plan["settings"]["lora"]["alpha"]) == (24, 16)
    assert plan["estimate"]["adapted"] == {"gate_proj": 2, "up_proj": 2, "down_proj": 2}
    assert "Mine." in llmforge("list lora --config-dir mine").out


def test_a_mistyped_key_of_ones_own_is_told(work: Path, llmforge, checkpoint):
    checkpoint(work / "base")
    (work / "mine/lora").mkdir(parents=True)
    (work / "mine/lora/wide.yaml").write_text(
        "# Mine.\ndefaults:\n  - small\n  - _self_\ndropuot: 0.1\n", encoding="utf-8"
    )

    ran = llmforge("check model=folder model.path=base hardware=cpu --config-dir mine lora=wide")

    assert ran.code == 2
    assert "error[LF101]" in ran.err + ran.out
    assert "dropout" in ran.err + ran.out
