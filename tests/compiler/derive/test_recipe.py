"""Learning rate and passes that nobody chose: by what is trained, with the numbers of `conf/`."""

from __future__ import annotations

import pytest

from llmforge.compiler.context import Context
from llmforge.compiler.derive.recipe import derive_recipe
from llmforge.compose import options
from llmforge.plan import stage_fingerprints

TINY = ("model=folder", "model.path=tiny")


def rate(context: Context) -> object:
    return context.spec.optimizer.lr


def passes(context: Context) -> object:
    return context.spec.trainer.epochs


@pytest.mark.parametrize(
    ("overrides", "lr", "epochs"),
    [
        ((), 3e-3, 6),  # the built-in example, as it always was
        (("lora=small",), 3e-3, 6),
        (TINY, 2e-5, 3),
        ((*TINY, "lora=small"), 2e-4, 3),
        ((*TINY, "lora=small", "quantization=4bit", "hardware=h200"), 2e-4, 3),
        (("model=llama3_8b", "hardware=h200"), 2e-5, 3),
        ((*TINY, "optimizer=adamw_8bit"), 2e-5, 3),
        (("optimizer=adamw_8bit",), 2e-4, 6),
        ((*TINY, "optimizer=lion"), 5e-6, 3),
        ((*TINY, "optimizer=muon", "lora=small"), 2e-4, 3),
        ((*TINY, "optimizer=sgd"), 1e-3, 3),
    ],
    ids=str,
)
def test_a_plain_choice_of_model_gets_the_numbers_for_it(overrides, lr, epochs, solved):
    context = solved(*overrides)

    assert (rate(context), passes(context)) == (lr, epochs)


@pytest.mark.parametrize(
    ("overrides", "lr"),
    [
        (("optimizer.lr=1e-4",), 1e-4),
        (("optimizer=adamw_finetune", "lora=small"), 2e-5),
        (("optimizer=adamw_lora",), 2e-4),
        (("optimizer=adamw_ms_2",), 2e-4),
        (("optimizer.lr_finetune=7e-6",), 7e-6),
        (("optimizer=adafactor_relative",), None),
    ],
    ids=str,
)
def test_what_somebody_wrote_stays(overrides, lr, solved):
    assert rate(solved(*TINY, *overrides)) == lr


def test_relative_step_sets_its_own_rate(solved):
    assert rate(solved("optimizer=adafactor", {"optimizer.relative_step": True})) is None


def test_a_length_in_steps_needs_no_word_about_passes(solved):
    context = solved({"trainer.max_steps": 50})

    assert passes(context) is None
    assert context.facts.steps == 50


def test_the_reason_names_the_number_s_key(unsolved):
    [lr, epochs] = derive_recipe(unsolved(*TINY, "lora=small")).values

    assert (lr.key, lr.reads[0]) == ("optimizer.lr", "optimizer.lr_adapter")
    assert lr.reason == "an adapter over pretrained weights is trained"
    assert (epochs.key, epochs.reads[0]) == ("trainer.epochs", "trainer.epochs_finetune")


@pytest.mark.parametrize("option", [o.name for o in options("optimizer") if o.name != "file"])
def test_every_optimizer_goes_gentler_about_pretrained_weights(option, solved):
    spec = solved(f"optimizer={option}").spec.optimizer

    assert spec.lr_finetune <= spec.lr_adapter
    assert spec.lr_finetune <= spec.lr_scratch


def test_numbers_that_were_not_taken_are_no_part_of_the_run(solved):
    """`auto` and the number it became are the same run."""
    auto, written = solved(), solved({"optimizer.lr": 3e-3, "trainer.epochs": 6.0})
    other = solved({"optimizer.lr_adapter": 1e-3, "trainer.epochs_finetune": 9.0})

    one, *more = (stage_fingerprints(c.spec, c.facts.identity) for c in (auto, written, other))
    assert more == [one, one]
