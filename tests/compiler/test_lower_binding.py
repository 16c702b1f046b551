"""Every keyword that `lower` can produce is one that the installed library takes.

Over all shipped options of every group that lowers to something. Arguments that were renamed within
the supported versions go through `build/library_names.py`, as they do in a run.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import peft
import pytest
import transformers
import trl
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import PreTrainedModel, Trainer, TrainingArguments

from llmforge.build.groups import parameter_groups
from llmforge.build.library_names import current_names
from llmforge.compiler.lower import lower
from llmforge.compose import options
from llmforge.registry import component, kinds

TINY = ("model=folder", "model.path=tiny")
H200 = "hardware=h200"
EIGHT = (H200, "hardware.count=8", "launch=torchrun")
ALWAYS: dict[str, tuple[str, ...]] = {
    "deepspeed": EIGHT,
    "fsdp": EIGHT,
    "launch": (H200,),
    "lora": (*TINY, H200),
    "quantization": (*TINY, H200, "lora=small"),
}
"""What the options of a group need to mean something."""

NEEDS = {
    ("model", "folder"): ("model.path=tiny",),
    ("model", "hub"): ("model.id=acme/new",),
}
FROM_FILES = {("optimizer", "file"), ("lora", "file"), ("deepspeed", "file")}
"""They take their fields from a file; what they lower to is that of the kind in it."""

GROUPS = ("optimizer", "schedule", "lora", "quantization", "precision", "trainer", "evaluation",
          "checkpoint", "deepspeed", "fsdp", "launch", "collator")  # fmt: skip
OPTIONS = [
    (group, option.name)
    for group in GROUPS
    for option in options(group)
    if (group, option.name) not in FROM_FILES
] + [("model", name) for name in ("tiny_llama", "folder", "hub", "llama3_8b")]
"""Of models one of each kind, and one with a shape: the others differ in numbers alone."""
ADAPTERS = {
    "lora": peft.LoraConfig,
    "eva": peft.LoraConfig,
    "vera": peft.VeraConfig,
    "adalora": peft.AdaLoraConfig,
    "ia3": peft.IA3Config,
    "prompt": peft.PromptTuningConfig,
    "prefix": peft.PrefixTuningConfig,
}
QUANTIZATIONS = {
    "bitsandbytes": transformers.BitsAndBytesConfig,
    "gptq": transformers.GPTQConfig,
}

Bind = Callable[[str, Any, dict[str, Any]], None]


def taken_by_loading() -> set[str]:
    """Keywords of `from_pretrained`: of its signature, and those it takes out of the rest."""
    functions = (PreTrainedModel.from_pretrained, PreTrainedModel._from_config)
    named = {name for found in functions for name in inspect.signature(found).parameters}
    popped = {
        name
        for found in functions
        for name in re.findall(r'kwargs\.(?:pop|get)\(\s*"(\w+)"', inspect.getsource(found))
    }
    return named | popped


def bind_training_arguments(_: str, __: Any, keywords: dict[str, Any]) -> None:
    inspect.signature(TrainingArguments).bind(
        output_dir="here", **current_names(TrainingArguments, keywords)
    )


def bind_optimizer(kind: str, _: Any, keywords: dict[str, Any]) -> None:
    build, own = component("optimizer", kind).load_builder()(keywords)
    inspect.signature(build).bind([], **own)


def bind_groups(_: str, __: Any, keywords: dict[str, Any]) -> None:
    read = set(re.findall(r'keywords\["(\w+)"\]', inspect.getsource(parameter_groups)))
    read |= {"weight_decay", "matrices_apart"}  # read by `_group`, which it calls
    assert set(keywords) == read


def bind_clipping(_: str, __: Any, keywords: dict[str, Any]) -> None:
    assert set(keywords) == {"value"}


def bind_schedule(kind: str, _: Any, keywords: dict[str, Any]) -> None:
    inspect.signature(component("schedule", kind).load_builder()).bind(None, **keywords)


def bind_model(kind: str, _: Any, keywords: dict[str, Any]) -> None:
    unknown = set(keywords) - taken_by_loading()
    assert unknown <= ({"config"} if kind == "scratch" else set())


def bind_adapter(kind: str, _: Any, keywords: dict[str, Any]) -> None:
    inspect.signature(ADAPTERS[kind]).bind(**keywords)
    if "eva_config" in keywords:
        inspect.signature(peft.EvaConfig).bind(**keywords["eva_config"])


def bind_quantization(kind: str, _: Any, keywords: dict[str, Any]) -> None:
    made = QUANTIZATIONS[kind]
    inspect.signature(made).bind(**keywords)
    # these classes swallow what they do not know
    assert set(keywords) <= set(inspect.signature(made).parameters)


def bind_preference(_: str, __: Any, keywords: dict[str, Any]) -> None:
    inspect.signature(trl.DPOConfig).bind(output_dir="here", **keywords)


def bind_formats(_: str, __: Any, keywords: dict[str, Any]) -> None:
    inspect.signature(MixedPrecisionPolicy).bind(**keywords)


BINDS: dict[str, tuple[str, Bind]] = {
    "training_arguments": ("trainer", bind_training_arguments),
    "optimizer": ("optimizer", bind_optimizer),
    "parameter_groups": ("optimizer", bind_groups),
    "clipping": ("optimizer", bind_clipping),
    "schedule": ("schedule", bind_schedule),
    "model": ("model", bind_model),
    "lora_config": ("lora", bind_adapter),
    "quantization_config": ("quantization", bind_quantization),
    "trl": ("trainer", bind_preference),
    "fsdp": ("fsdp", bind_formats),
}
"""Part of `lowered` -> the section whose kind decides who takes it, and the check."""


def lowered(context: Any) -> dict[str, Any]:
    """Parts and their keywords, as a plan holds them."""
    parts: dict[str, Any] = {}
    for entry in lower(context):
        part, _, name = entry.key.partition(".")
        if name:
            parts.setdefault(part, {})[name] = entry.value
        else:
            parts[part] = entry.value
    return parts


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids="=".join)
def test_every_option_binds(group, option, solved):
    asked = (*ALWAYS.get(group, ("hardware=cpu",)), *NEEDS.get((group, option), ()))
    context = solved(*asked, f"{group}={option}")

    parts = lowered(context)
    for part, keywords in parts.items():
        section, bind = BINDS[part]
        if keywords is not None:
            bind(getattr(context.spec, section).kind, context, keywords)
    assert set(parts) >= {"training_arguments", "model", "optimizer"}


@pytest.mark.parametrize(
    "overrides",
    [
        ("trainer.neftune_alpha=5", "trainer.label_smoothing=0.1", "trainer.compile=true"),
        ("trainer.gradient_checkpointing=true", "trainer.group_by_length=true"),
        ("evaluation.every=null", "checkpoint.every=null", "trainer.log_every=null"),
        ("checkpoint=best", "deterministic=true"),
    ],
    ids=" ".join,
)
def test_what_no_option_turns_on_binds_too(overrides, solved):
    bind_training_arguments("lm", None, lowered(solved("hardware=cpu", *overrides))[
        "training_arguments"])  # fmt: skip


@pytest.mark.parametrize("part", BINDS)
def test_a_keyword_that_nobody_takes_is_found(part, solved):
    """Each check can fail."""
    overrides = {
        "optimizer": ("optimizer=sgd",),
        "schedule": ("schedule=multistep",),
        "quantization_config": ("quantization=4bit",),
        "fsdp": ("hardware.count=8", "launch=torchrun", "fsdp=full_shard"),
        "trl": ("trainer=dpo", "data=builtin_pairs", "collator=preference"),
    }
    context = solved(*TINY, H200, "lora=small", *overrides.get(part, ()))
    section, bind = BINDS[part]
    keywords = {**lowered(context)[part], "nonsense": 1}

    with pytest.raises((TypeError, AssertionError)):
        bind(getattr(context.spec, section).kind, context, keywords)


def test_every_kind_of_adapter_and_base_was_bound():
    """A kind that is added is bound by its class, or fails here."""
    assert set(ADAPTERS) == set(kinds("lora")) - {"none", "file"}
    assert set(QUANTIZATIONS) == set(kinds("quantization")) - {"none"}


def test_the_optimizers_that_transformers_builds_take_their_keywords(solved, tmp_path):
    for option in ("adamw", "adamw_8bit", "adamw_paged", "lion", "lion_8bit"):
        keywords = lowered(solved("hardware=cpu", f"optimizer={option}"))["training_arguments"]
        made = TrainingArguments(
            output_dir=str(tmp_path), **current_names(TrainingArguments, keywords)
        )
        build, own = Trainer.get_optimizer_cls_and_kwargs(made)
        inspect.signature(build).bind([], **own)
