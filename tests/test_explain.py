"""`explain` and `list`: who set a value, what it means, who reads it."""

from __future__ import annotations

import pytest

from llmforge.codes import explain_code, known_codes
from llmforge.compiler.passes import check
from llmforge.diagnostics import ConfigRefused
from llmforge.explain import explain, readers_of


@pytest.fixture(autouse=True)
def here(work):
    return work


def refused(*args):
    with pytest.raises(ConfigRefused) as caught:
        explain(*args)
    return caught.value.diagnostics


def test_a_solved_value():
    overrides = ["hardware=cpu", "trainer.global_batch=32", "collator.max_length=256"]

    assert explain("trainer.micro_batch", overrides, ()).splitlines() == [
        "trainer.micro_batch = 32",
        "",
        "set by",
        "  now  derived by derive_memory     32   largest divisor of 32 samples per process within "
        "16,384 tokens per forward pass (from trainer.global_batch, launch.processes, "
        "hardware.memory_gib, facts.model, collator.max_length, precision, lora)",
        "  over conf/trainer/default.yaml:7  auto",
        "",
        "Samples per device and forward pass.",
        "type: whole number >= 1 or `auto`",
        "effect: numerics; changing it runs train, evaluate again",
        "",
        "read by: derive_memory, derive_batch, derive_evaluation_batch, LF204, lower",
        "handed on as: training_arguments.per_device_train_batch_size",
    ]


def test_a_value_that_an_option_brought():
    assert explain("lora.alpha", ["lora=small"], ()).splitlines() == [
        "lora.alpha = 16",
        "",
        "set by",
        "  now  conf/lora/small.yaml:5  16   chosen by lora=small on the command line",
        "",
        "Numerator of the scale: alpha / r, or alpha / sqrt(r) with `rslora`.",
        "type: whole number >= 1",
        "effect: numerics; changing it runs train, evaluate again",
        "",
        "read by: lower",
        "handed on as: lora_config.lora_alpha",
    ]


def test_every_writer_is_named_the_last_first():
    text = explain("lora.r", ["lora=medium", "lora.r=64"], ())

    places = [line.split()[1] for line in text.splitlines() if line.startswith("  ")]
    assert places == ["command", "conf/lora/medium.yaml:6", "conf/lora/small.yaml:4"]


def test_a_value_of_the_worker_alone():
    text = explain("card.license", [], ())

    assert "read by: the worker" in text
    assert "changing it runs nothing again" in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("estimate.steps", "7"),
        ("lowered.training_arguments.max_steps", "7"),
        ("facts.model.family", "llama"),
    ],
)
def test_facts_and_what_follows_have_origins_too(key, value):
    text = explain(key, ["trainer.epochs=null", "trainer.max_steps=7"], ())

    assert text.splitlines()[0] == f"{key} = {value}"
    assert "  now " in text


def test_a_section_shows_its_keys():
    assert explain("schedule", ["schedule=cosine", "schedule.warmup=5"], ()).splitlines() == [
        "schedule.kind    cosine",
        "schedule.warmup  5",
        "schedule.floor   0.1",
    ]


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("trainer.microbatch", "llmforge explain trainer.micro_batch"),
        ("optimiser.lr", "llmforge explain optimizer.lr"),
        ("epochs", "llmforge explain trainer.epochs"),
        ("xyzzy", None),
    ],
)
def test_unknown_keys(key, hint):
    (found,) = refused(key, [], ())

    assert (found.code, found.message, found.hint) == ("LF101", f"unknown key `{key}`", hint)


def test_refused_overrides_are_not_explained():
    assert [d.code for d in refused("seed", ["trainer.epoch=1"], ())] == ["LF101"]


def test_a_rule():
    text = explain("LF204", (), ())

    assert text.splitlines()[0] == (
        "LF204: batch arithmetic that does not come out (batch and schedule)"
    )
    assert "global batch = micro batch x accumulation x processes" in text
    assert max(map(len, text.splitlines())) <= 100


def test_an_unknown_code():
    (found,) = refused("LF999", (), ())

    assert found.message == "there is no code LF999"


@pytest.mark.parametrize("code", known_codes())
def test_every_code_is_explained(code):
    title, _, text = explain_code(code).partition("\n\n")

    assert title.startswith(f"{code}: {known_codes()[code]} (")
    assert len(text) > 60


def test_readers_are_traced_and_not_declared():
    checked = check(["hardware=cpu", "lora=small"])

    assert {"LF601", "lower", "foretell"} <= set(readers_of("lora.targets", checked))
    assert "derive_steps" in readers_of("trainer.epochs", checked)
    assert readers_of("paths.runs", checked) == []
