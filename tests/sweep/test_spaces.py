"""Spaces: typed by the schema, tried at their ends."""

from __future__ import annotations

import shlex

import pytest

from llmforge.diagnostics import Diagnostic
from llmforge.sweep.axes import Axis
from llmforge.sweep.definition import define
from llmforge.sweep.proposing import axis_from, grid_of
from llmforge.sweep.spaces import survey


def surveyed(*overrides: str) -> list[Axis]:
    found = survey(define(["hardware=cpu", "tracking=none", "sweep=search", *overrides]))
    assert found.diagnostics == []
    return list(found.axes)


def refused(*overrides: str) -> Diagnostic:
    found = survey(define(["hardware=cpu", "tracking=none", "sweep=search", *overrides]))
    (told,) = found.diagnostics
    return told


def test_what_kind_of_number_a_key_is_decides(work):
    axes = surveyed(
        "optimizer.lr=tag(log,interval(1e-5,1e-3))",
        "optimizer.weight_decay=interval(0,1)",
        "trainer.global_batch=interval(8,64)",
        "lora=none,small",
    )
    assert [axis.kind for axis in axes] == ["float", "float", "int", "choice"]
    assert [axis.log for axis in axes] == [True, False, False, False]
    assert axes[2].ends() == ("8", "64")
    assert axes[1].ends() == ("0.0", "1.0")
    assert axes[0].text(0.00012345678901234) == "0.00012345678901234"


@pytest.mark.parametrize(
    ("override", "code", "message", "hint"),
    [
        (
            "seed=interval(1,1e30)",
            "LF720",
            "the interval of `seed`, 1 to 1e+30, whole, ends outside what it may be: "
            "1000000000000000019884624838656",
            "seed=interval(1,4294967295)",
        ),
        (
            "optimizer.lr=interval(1e-5,inf)",
            "LF720",
            "the interval of `optimizer.lr`, 1e-05 to inf, ends outside what it may be: inf",
            "optimizer.lr=interval(1e-05,10)",
        ),
        (
            "optimizer.lr=interval(-1,1e-2)",
            "LF720",
            "the interval of `optimizer.lr`, -1 to 0.01, ends outside what it may be: -1.0",
            "optimizer.lr=interval(1e-05,0.01)",
        ),
        (
            "trainer.global_batch=interval(0,64)",
            "LF720",
            "the interval of `trainer.global_batch`, 0 to 64, whole, ends outside what it may be: "
            "0",
            "trainer.global_batch=interval(1,64)",
        ),
        (
            "optimizer.lr=1e-4,fast,2e-4",
            "LF720",
            "`optimizer.lr` cannot be fast",
            "optimizer.lr=0.0001,0.0002",
        ),
        (
            "optimizer.lr=tag(log,interval(0,1e-2))",
            "LF721",
            "a logarithmic interval of `optimizer.lr` starts at 0",
            "optimizer.lr=tag(log,interval(1e-05,0.01))",
        ),
        (
            "seed=interval(0.5,7.5)",
            "LF721",
            "`seed` is a whole number, and its interval is not",
            "seed=interval(1,7)",
        ),
        ("lora=interval(1,2)", "LF721", "`lora` is no number", None),
        ("optimizer.betas=interval(0,1)", "LF721", "`optimizer.betas` is no number", None),
        (
            "optimizer.lrr=interval(1,2)",
            "LF101",
            "unknown key `optimizer.lrr`",
            "optimizer.lr=interval(1,2)",
        ),
        ("lora=small,smal", "LF720", "`lora` cannot be smal", "lora=small"),
    ],
)
def test_what_cannot_be_is_told_once(work, override, code, message, hint):
    told = refused(override)
    assert (told.code, told.message) == (code, message)
    # as a shell reads it, in which parentheses are syntax
    assert shlex.split(told.hint or "") == ([hint] if hint else [])


def test_a_key_that_only_one_choice_has_is_no_fault(work):
    axes = surveyed("lora=none,small", "lora.dropout=0,0.1")
    assert [axis.name for axis in axes] == ["lora", "lora.dropout"]


def test_a_space_that_cannot_work_at_all_is_refused_for_its_reason(work):
    told = refused(
        "trainer.global_batch=30", "trainer.micro_batch=16", "trainer.accumulation=1", "seed=1,2"
    )
    assert told.code.startswith("LF2")


def test_a_combination_that_a_rule_refuses_is_left_to_the_search(work):
    found = survey(
        define(
            ["hardware=cpu", "tracking=none", "sweep=search", "trainer.micro_batch=64",
             "trainer.global_batch=64,96"]
        )
    )  # fmt: skip
    assert found.diagnostics == []
    assert [probe.point.codes for probe in found.probes] == [(), ("LF204",)]


def test_the_size_of_a_space(work):
    found = survey(
        define(["sweep=search", "hardware=cpu", "seed=interval(1,5)", "lora=none,small"])
    )
    assert found.size == 10


@pytest.mark.parametrize(
    "axis",
    [
        Axis("lora", "choice", ("none", "small")),
        Axis("optimizer.lr", "float", (), 1e-5, 1e-3, True),
        Axis("seed", "int", (), 1, 9),
    ],
    ids=lambda axis: axis.kind,
)
def test_an_axis_comes_back_from_what_the_study_keeps(axis):
    assert axis_from(axis.to_dict()) == axis


def test_points_of_a_grid_over_an_interval():
    rates = grid_of(Axis("optimizer.lr", "float", (), 1e-5, 1e-1, True), 5)
    assert rates == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
    assert (rates[0], rates[-1]) == (1e-5, 1e-1)
    assert grid_of(Axis("seed", "int", (), 1, 3), 5) == [1, 2, 3]
