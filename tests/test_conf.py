"""`conf/`: every option compiles, documents itself and fits its editor schema; no number hides."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from omegaconf import OmegaConf

from llmforge.compose import config_root, groups, options
from llmforge.schema import SECTIONS, Spec
from llmforge.schema.export import FOLDER, write_schemas

CONF = config_root()
FILES = sorted(CONF.rglob("*.yaml"))
OPTIONS = [(group, option) for group in groups() for option in options(group)]

# what an option cannot know by itself, and what it makes no sense without
PAIRS = (
    "model=folder",
    "model.path=tiny",
    "data=builtin_pairs",
    "collator=preference",
    "trainer=dpo",
)
NEEDS: dict[tuple[str, str], tuple[str, ...]] = {
    ("model", "folder"): ("model.path=tiny",),
    ("model", "hub"): ("model.id=example/none",),
    ("model", "trained"): ('model.overrides=["name=base"]',),
    ("collator", "completion"): (
        "data=jsonl",
        "data.train=qa.jsonl",
        "data.fields.prompt=question",
        "data.fields.completion=answer",
    ),
    ("experiment", "gsm8k"): ("data.train=qa.jsonl", "data.evaluation=held_out.jsonl"),
    ("experiment", "qlora"): ("model.path=tiny", "hardware=rtx4090"),
    ("experiment", "dpo"): ("model.path=tiny",),
    ("collator", "preference"): PAIRS,
    ("data", "builtin_pairs"): PAIRS,
    ("trainer", "dpo"): PAIRS,
    ("evaluation", "early_stopping"): ("checkpoint=best", "checkpoint.every=5%"),
    ("hub", "push"): ("hub.repository=owner/name",),
    **{
        ("quantize", name): ("quantize.group_size=32",)  # the small model's widths are 128 and 352
        for name in ("gptq", "gptq_8bit", "int4")
    },
    **{
        ("experiment", name): ("hardware=a100_80gb",)
        for name in (
            "superduper_deepspeed",
            "superduper_qlora",
            "xllm_production",
            "xllm_qlora",
            "xllm_recommended",
        )
    },
    **{
        ("fsdp", name): ("hardware=h200", "hardware.count=2", "launch=torchrun")
        for name in ("full_shard", "shard_grad_op", "offload", "shard_grad_op_offload")
    },
    ("deepspeed", "file"): ("deepspeed.path=deepspeed.json",),
    ("optimizer", "file"): ("optimizer.path=optimizer.json",),
    ("precision", "float16"): ("hardware=t4",),
    ("quantization", "gptq"): ("model=folder", "model.path=tiny_gptq", "lora=small"),
    **{
        ("quantization", name): ("model=folder", "model.path=tiny", "lora=small")
        for name in ("4bit", "4bit_fp4", "4bit_late", "4bit_single", "8bit", "8bit_fp16")
    },
    **{
        ("lora", f"{bits}bit_{size}"): (
            "model=folder",
            "model.path=tiny",
            f"quantization={bits}bit",
        )
        for bits in (4, 8)
        for size in ("s", "m", "l", "xl")
    },
    ("lora", "file"): ("model=folder", "model.path=tiny", "lora.path=lora.json"),
    ("lora", "loftq"): ("model=folder", "model.path=tiny", "quantization=4bit"),
    ("lora", "olora"): ("model=folder", "model.path=tiny"),
    ("lora", "pissa"): ("model=folder", "model.path=tiny"),
}


PRESET = {
    "optimizer_name": "AdamW",
    "learning_rate": 2e-5,
    "weight_decay": 0.04,
    "gradient_clip": 1.0,
}


@pytest.fixture(scope="module", autouse=True)
def base_of_gptq(bench: Path, checkpoint) -> None:
    checkpoint(bench / "tiny_gptq", quantization_config={"quant_method": "gptq", "bits": 4})


LORA_PRESET = {
    "lora_r": 8,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "bias": "none",
    "target_modules": ["q_proj", "v_proj"],
    "task_type": "CAUSAL_LM",
}


@pytest.fixture(scope="module", autouse=True)
def preset_files(bench: Path) -> None:
    (bench / "optimizer.json").write_text(json.dumps(PRESET), encoding="utf-8")
    (bench / "lora.json").write_text(json.dumps(LORA_PRESET), encoding="utf-8")
    zero = {"zero_optimization": {"stage": 2}}
    (bench / "deepspeed.json").write_text(json.dumps(zero), encoding="utf-8")


def is_overlay(file: Path) -> bool:
    return file.read_text(encoding="utf-8").startswith("# @package _global_\n")


def schema_of(file: Path) -> Path:
    """The schema named in the file's first lines."""
    lines = file.read_text(encoding="utf-8").splitlines()
    found = re.fullmatch(
        r"# yaml-language-server: \$schema=(\S+)", lines[1 if is_overlay(file) else 0]
    )
    assert found, f"{file} names no schema"
    return (file.parent / found[1]).resolve()


def shown(file: Path) -> str:
    return file.relative_to(CONF).as_posix()


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=lambda o: getattr(o, "name", o))
def test_option_compiles(group, option, compiled, every_kind):
    needed = (*every_kind[option.name][1:],) if group == "data" else ()
    if group == "model":  # a machine that holds every one of them whole
        needed = ("hardware=h200", "hardware.memory_gib=2000")
    plan = compiled(f"{group}={option.name}", *needed, *NEEDS.get((group, option.name), ()))

    assert plan.estimate["steps"] > 0


def test_self_comes_first_in_the_primary_config():
    assert OmegaConf.load(CONF / "config.yaml").defaults[0] == "_self_"


def test_every_section_is_a_group():
    assert set(SECTIONS) <= set(groups())


@pytest.mark.parametrize("file", FILES, ids=shown)
def test_file_names_its_schema(file):
    group = file.parent.name if file.parent != CONF else "config"
    expected = "config" if is_overlay(file) else group

    assert schema_of(file) == FOLDER / f"{expected}.json"


@pytest.mark.parametrize("file", FILES, ids=shown)
def test_file_fits_its_schema(file):
    values = OmegaConf.to_container(OmegaConf.load(file))

    jsonschema.validate(values, json.loads(schema_of(file).read_text(encoding="utf-8")))


def test_schemas_refuse_what_the_compiler_refuses():
    schema = json.loads((FOLDER / "trainer.json").read_text(encoding="utf-8"))

    for wrong in ({"epoch": 3}, {"epochs": "many"}, {"micro_batch": 0}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)
    jsonschema.validate({"epochs": "${seed}", "micro_batch": "???"}, schema)


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=lambda o: getattr(o, "name", o))
def test_option_says_what_it_is(group, option):
    assert option.doc
    assert option.doc.endswith((".", "?", "5000"))  # a whole sentence, or an example


def test_checked_in_schemas_are_those_of_the_code(tmp_path):
    """`make generate` writes them."""
    fresh = {path.name: path.read_text(encoding="utf-8") for path in write_schemas(tmp_path)}

    assert fresh == {p.name: p.read_text(encoding="utf-8") for p in FOLDER.glob("*.json")}


def specs(root: type[Spec] = Spec) -> Iterator[type[Spec]]:
    for spec in root.__subclasses__():
        yield spec
        yield from specs(spec)


@pytest.mark.parametrize("spec", list(specs()), ids=lambda spec: spec.__name__)
def test_numbers_live_in_conf_and_not_in_the_schema(spec):
    assert [name for name, field in spec.model_fields.items() if not field.is_required()] == []
