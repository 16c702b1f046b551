"""Batch arithmetic, length of the run, intervals: tables, and a property over all of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmforge.compiler.context import Context, Facts
from llmforge.compiler.derive.batch import (
    derive_batch,
    derive_intervals,
    derive_steps,
)
from llmforge.compiler.derive.evaluation import derive_evaluation_batch
from llmforge.compiler.derive.memory import derive_memory
from llmforge.compiler.facts.samples import Samples
from llmforge.compiler.rules.batch import batch_does_not_divide
from llmforge.origins import Origins

DATA = Facts(samples=Samples(1000, exact=True, what="rows"))


def solve(context: Context) -> Context:
    """The passes that solve batches; the model's size is not known here."""
    for solver in (derive_memory, derive_batch, derive_evaluation_batch):
        context = context.apply(solver(context), solver.__name__, Origins())
    return context


def batch_of(context: Context) -> tuple[int, int, int]:
    """Global batch, micro batch, accumulation after the passes."""
    trainer = solve(context).spec.trainer
    return trainer.global_batch, trainer.micro_batch, trainer.accumulation


def sizes(total, micro, passes, world=1, length=256):
    return {
        "trainer.global_batch": total,
        "trainer.micro_batch": micro,
        "trainer.accumulation": passes,
        "launch.processes": world,
        "collator.max_length": length,
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # one of the three is left to be solved
        (sizes("auto", 4, 2), (8, 4, 2)),
        (sizes("auto", 4, 2, world=8), (64, 4, 2)),
        (sizes(64, "auto", 4), (64, 16, 4)),
        (sizes(64, 16, "auto"), (64, 16, 4)),
        (sizes(64, 4, "auto", world=8), (64, 4, 2)),
        # the micro batch is as large as 16,384 tokens allow
        (sizes(32, "auto", "auto"), (32, 32, 1)),
        (sizes(256, "auto", "auto"), (256, 64, 4)),
        (sizes(256, "auto", "auto", length=2048), (256, 8, 32)),
        (sizes(256, "auto", "auto", length=32_768), (256, 1, 256)),
        (sizes(256, "auto", "auto", world=8), (256, 32, 1)),
        (sizes(7, "auto", "auto"), (7, 7, 1)),
        (sizes(97, "auto", "auto", length=512), (97, 1, 97)),
        # nothing is given
        (sizes("auto", "auto", "auto"), (64, 64, 1)),
        (sizes("auto", "auto", 2, world=4), (512, 64, 2)),
        # everything is given, rightly or wrongly: left as it is
        (sizes(64, 16, 4), (64, 16, 4)),
        (sizes(64, 16, 3), (64, 16, 3)),
    ],
)
def test_batch(given, expected, unsolved):
    assert batch_of(unsolved(given)) == expected


def test_evaluation_takes_twice_the_micro_batch(unsolved):
    solved = solve(unsolved(sizes(64, 16, 4)))

    assert solved.spec.evaluation.micro_batch == 32


@pytest.fixture(scope="module")
def anything(composed):
    """Contexts for hypothesis, which wants no function-scoped fixture."""
    from llmforge.compiler.parse import parse

    def make(changes):
        values = composed()
        for key, value in changes.items():
            section, name = key.split(".")
            values[section][name] = value
        return Context(parse(values)[0], Facts())

    return make


def auto_or(largest: int) -> st.SearchStrategy[int | str]:
    return st.one_of(st.just("auto"), st.integers(1, largest))


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    changes=st.builds(
        sizes, auto_or(600), auto_or(64), auto_or(32), st.integers(1, 16), st.integers(8, 5000)
    )
)
def test_it_comes_out_or_is_refused_with_a_hint_that_is_accepted(changes, anything):
    """global = micro x accumulation x processes, or LF204 whose hint makes it so."""
    context = anything(changes)
    total, micro, passes = batch_of(context)
    solved = solve(context)

    assert min(total, micro, passes) >= 1
    assert changes["trainer.global_batch"] in ("auto", total)
    assert changes["trainer.micro_batch"] in ("auto", micro)
    assert changes["trainer.accumulation"] in ("auto", passes)

    findings = list(batch_does_not_divide(solved))
    assert (total == micro * passes * changes["launch.processes"]) == (findings == [])
    for finding in findings:
        pasted = dict(text.split("=") for text in finding.hint.split())
        mended = {key: value if value == "auto" else int(value) for key, value in pasted.items()}
        again = anything({**changes, **mended})
        assert not list(batch_does_not_divide(solve(again)))


@pytest.mark.parametrize(
    ("given", "per_epoch", "steps"),
    [
        ({"trainer.epochs": 2, "trainer.global_batch": 100}, 10, 20),
        ({"trainer.epochs": 2, "trainer.global_batch": 32}, 32, 64),  # 31.25: a small last batch
        ({"trainer.epochs": 0.5, "trainer.global_batch": 100}, 10, 5),
        ({"trainer.epochs": 0.01, "trainer.global_batch": 100}, 10, 1),
        ({"trainer.epochs": 1, "trainer.global_batch": 5000}, 1, 1),
        ({"trainer.epochs": None, "trainer.max_steps": 7}, 32, 7),
        ({"trainer.epochs": None, "trainer.max_steps": None}, 32, None),
    ],
)
def test_steps_of_a_thousand_rows(given, per_epoch, steps, unsolved):
    found = derive_steps(unsolved(given, facts=DATA)).facts

    assert (found["steps_per_epoch"], found["steps"]) == (per_epoch, steps)


def test_steps_are_known_without_data_when_they_are_given(unsolved):
    context = unsolved({"trainer.epochs": None, "trainer.max_steps": 7}, facts=Facts())

    assert derive_steps(context).facts == {"steps_per_epoch": None, "steps": 7}


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("evaluation.every", "25%", 50),
        ("evaluation.every", "epoch", 20),
        ("evaluation.every", 30, 30),
        ("evaluation.every", None, None),
        ("checkpoint.every", "0.1%", 1),  # never less than one step
        ("checkpoint.every", "33%", 66),
        ("trainer.log_every", "100%", 200),
        ("schedule.warmup", "3%", 6),
        ("schedule.warmup", "0.1%", 1),
        ("schedule.warmup", "3.5%", 7),  # 7.000000000000001 in floating point
        ("schedule.warmup", "0%", 0),
        ("schedule.warmup", 15, 15),
    ],
)
def test_shares_and_epochs_become_steps(key, given, expected, unsolved):
    """A run of 200 steps, 20 to the epoch."""
    context = unsolved({key: given}, facts=Facts(steps=200, steps_per_epoch=20))

    solved = context.apply(derive_intervals(context), "derive_intervals", Origins())

    section, name = key.split(".")
    assert getattr(getattr(solved.spec, section), name) == expected


@pytest.mark.parametrize("steps", range(4, 200))
def test_a_quarter_comes_four_times_a_run(steps, unsolved):
    context = unsolved({"evaluation.every": "25%"}, facts=Facts(steps=steps, steps_per_epoch=1))

    every = next(v.value for v in derive_intervals(context).values if v.key == "evaluation.every")

    assert steps // every >= 4


@pytest.mark.parametrize(("share", "warmup"), [("3%", 0), ("99%", 0), ("100%", 1)])
def test_a_share_of_warm_up_leaves_a_step_at_the_peak(share, warmup, unsolved):
    context = unsolved({"schedule.warmup": share}, facts=Facts(steps=1, steps_per_epoch=1))

    solved = context.apply(derive_intervals(context), "derive_intervals", Origins())

    assert solved.spec.schedule.warmup == warmup


def test_intervals_of_a_run_of_unknown_length_stay(unsolved):
    assert derive_intervals(unsolved(facts=Facts())).values == ()
