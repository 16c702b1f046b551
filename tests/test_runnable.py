"""A plan that Python users can run is the plan that the compiler made, and a saved one runs too."""

from pathlib import Path

import pytest

import llmforge
from llmforge.compiler.passes import compile_plan
from llmforge.diagnostics import ConfigRefused
from llmforge.plan import Plan

CPU = ["hardware=cpu", "tracking=none"]


def test_it_is_the_plan_and_nothing_beside_it_is_saved(work: Path):
    runnable = llmforge.compile(CPU, [work])

    assert isinstance(runnable, Plan)
    assert runnable == compile_plan(CPU)
    assert compile_plan(CPU) == runnable
    assert runnable != llmforge.compile([*CPU, "seed=7"])
    assert runnable.config_dirs == (str(work),)
    assert runnable.to_json() == compile_plan(CPU).to_json()


def test_a_saved_one_is_checked_before_it_runs(work: Path):
    packed = llmforge.compile([*CPU, "collator.packing=best_fit"])
    saved = packed.save(work / "plan.json")

    again = llmforge.RunnablePlan.load(saved)

    assert again == packed
    with pytest.raises(ConfigRefused) as refused:
        again.run(quiet=True)
    assert [found.code for found in refused.value.diagnostics] == ["LF513"]
    assert not Path("runs").exists(), "nothing was begun"
