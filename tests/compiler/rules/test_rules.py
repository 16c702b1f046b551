"""Rules beyond their gallery pages: where they must stay silent, and the corners of some."""

from __future__ import annotations

import re

import pytest

from llmforge.codes import FAMILIES
from llmforge.compiler.context import Context, Facts
from llmforge.compiler.facts.data import DataFacts
from llmforge.compiler.rules import MODULES, RULES
from llmforge.compiler.rules.base import rule

TINY = ("model=folder", "model.path=tiny")
ADAPTER = (*TINY, "lora=small")
EIGHT = ("hardware=h200", "hardware.count=8", "launch=torchrun")


def findings(context: Context) -> list[tuple[str, str | None]]:
    """Code and hint of what the rules say."""
    return [(d.code, d.hint) for r in RULES for d in r.check(context)]


@pytest.mark.parametrize("found", RULES, ids=lambda r: r.code)
def test_rule_is_documented(found):
    assert found.code[:3] in FAMILIES
    assert re.fullmatch(r"[a-zA-Z0-9].{8,59}[^.]", found.title)
    assert 60 < len(found.text) < 800


def test_rules_are_in_order_and_from_the_listed_modules():
    assert [r.code for r in RULES] == sorted(r.code for r in RULES)
    assert {r.check.__module__ for r in RULES} == {m.__name__ for m in MODULES}


def test_a_code_is_given_once():
    with pytest.raises(ValueError, match="LF204 exists already"):
        rule("LF204", "again")(lambda _: iter(()))


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("hardware=h200",),
        (*EIGHT, "deepspeed=stage3"),
        (*EIGHT, "deepspeed=stage3", "deepspeed.offload_parameters=true"),
        (*EIGHT, "fsdp=full_shard"),
        (*ADAPTER, "quantization=4bit", "hardware=rtx4090"),
        (*ADAPTER, "quantization=8bit", *EIGHT, "deepspeed=stage2"),
        (*ADAPTER, "lora.targets=[q_proj,k_proj]", "lora.expect_modules=4"),
        (*ADAPTER, "lora.targets=Q_PROJ|.*q_proj"),
        (*TINY, "precision=bfloat16"),
        ("hardware=t4", "precision=float16"),
        ("hardware=h200", "precision=bfloat16", "model.attention=flash_attention_2"),
        ("collator=lm",),  # reads rows of any shape
        ("collator.max_length=256",),
        ("checkpoint=best", "checkpoint.best=eval_perplexity"),
        ("checkpoint=best", "evaluation.every=50", "checkpoint.every=100"),
        ("tracking.uri=postgresql+psycopg://host/db",),
        ("tracking.uri=https://mlflow.example.org", "tracking.token=env:TOKEN"),
        ("tracking=none",),
        ("launch=torchrun", "launch.processes=2"),  # several processes may share a CPU
        ("schedule.warmup=0", "trainer.epochs=null", "trainer.max_steps=1", "evaluation=end",
         "checkpoint.every=null"),
        ("hub=push", "hub.repository=me/demo"),
        ("tokenizer.vocabulary=512", "model.vocabulary=600"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_nothing_to_say(overrides, solved):
    assert findings(solved(*overrides)) == []


def test_lora_without_targets(solved):
    assert findings(solved(*ADAPTER, "lora.targets=[]")) == [("LF601", "lora.targets=all-linear")]


def test_each_wrong_target_is_told(solved):
    found = findings(solved(*ADAPTER, "lora.targets=[q_prj,v_proj,dense]"))

    assert found == [
        ("LF601", "'lora.targets=[q_proj,v_proj,dense]'"),
        ("LF601", "lora.targets=all-linear"),
    ]


@pytest.mark.parametrize(
    ("family", "target", "hint"),
    [
        ("gpt2", "q_proj", "lora.targets=all-linear"),
        ("gpt_neox", "query_key", "'lora.targets=[query_key_value]'"),
        ("opt", "fc3", "'lora.targets=[fc2]'"),
    ],
)
def test_targets_of_another_family(family, target, hint, solved):
    context = solved(f"model.family={family}", "lora=small", f"lora.targets=[{target}]")

    assert ("LF601", hint) in findings(context)


def test_targets_of_an_unknown_architecture_are_not_judged(solved):
    context = solved("model=hub", "model.id=example/none", "lora=small", "lora.targets=[any]")

    assert findings(context) == []


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("mlruns", "LF702"),
        ("file:///tmp/mlruns", "LF702"),
        ("ftp://host", "LF702"),
        ("http://[::1", "LF702"),
        ("ftp://me:pw@host", "LF703"),  # told without repeating the password
        ("postgresql://me:pw@host:5432/db", "LF703"),
    ],
)
def test_tracking_addresses(uri, code, solved):
    context = solved({"tracking.uri": uri})

    found = [d for r in RULES for d in r.check(context)]

    assert [d.code for d in found] == [code]
    assert all("pw" not in str(d.to_dict()) for d in found)


@pytest.mark.parametrize(
    ("uri", "hint"),
    [
        ("https://me:pw@host:5000/x", "tracking.uri=https://host:5000/x "
         "tracking.token=env:MLFLOW_TRACKING_TOKEN"),
        ("postgresql://me:pw@host:5432/db", "tracking.uri=postgresql://me@host:5432/db"),
    ],
)  # fmt: skip
def test_address_without_its_password(uri, hint, solved):
    assert findings(solved({"tracking.uri": uri})) == [("LF703", hint)]


@pytest.mark.parametrize(("rows", "batch", "told"), [(31, 32, True), (32, 32, False), (1, 2, True)])
def test_batch_larger_than_the_data(rows, batch, told, unsolved):
    context = unsolved(
        {"trainer.global_batch": batch}, facts=Facts(data=DataFacts("messages", rows, 1))
    )

    found = [d for r in RULES if r.code == "LF207" for d in r.check(context)]

    assert bool(found) is told


def test_rules_that_need_facts_are_silent_without_them(unsolved):
    assert findings(unsolved(facts=Facts())) == []
