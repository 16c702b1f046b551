"""A plan runs where its hardware is, and nowhere else."""

from __future__ import annotations

import pytest

from llmforge.diagnostics import ConfigRefused
from llmforge.run.preflight import check_here


@pytest.mark.parametrize(
    ("plan_for", "gpus", "message"),
    [
        (("hardware=cpu",), 0, None),
        (("hardware=cpu",), 2, None),
        (("hardware=h200",), 1, None),
        (("hardware=h200",), 0, "the plan is for 1 x NVIDIA H200; this machine has no GPU"),
        (
            ("hardware=h200", "hardware.count=8", "launch=torchrun"),
            4,
            "the plan runs 8 processes; this machine has 4 GPUs",
        ),
    ],
)
def test_plan_runs_where_its_hardware_is(plan_for, gpus, message, compiled, monkeypatch):
    machine = {"device": "cuda" if gpus else "cpu", "count": gpus or 1}
    monkeypatch.setattr("llmforge.compiler.facts.hardware.probe_hardware", lambda: machine)
    plan = compiled(*plan_for)

    if message is None:
        check_here(plan)
    else:
        with pytest.raises(ConfigRefused) as refusal:
            check_here(plan)
        (found,) = refusal.value.diagnostics
        assert (found.code, found.message) == ("LF408", message)
