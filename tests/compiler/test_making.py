"""A plan that makes something of a model: a run's own with other settings of how it is made."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

from llmforge.compiler.making import making, plan_of_folder
from llmforge.plan import Plan


def test_how_it_is_made_may_change_and_the_model_may_not(
    compiled: Callable[..., Plan], bench: Path
) -> None:
    plan = compiled("hardware=h200", "hardware.count=2", "launch=torchrun", "lora=small",
                    "model=folder", "model.path=tiny")  # fmt: skip
    with chdir(bench):
        made, found = making(plan, ["fuse.dtype=float16", "paths.runs=elsewhere"])
        assert [one for one in found if one.is_error] == []
        assert made.settings["fuse"]["dtype"] == "float16"
        assert made.settings["launch"]["kind"] == "local"
        assert made.settings["hardware"]["device"] == "cpu"
        assert made.settings["paths"] == plan.settings["paths"]
        assert made.run_id == plan.run_id
        assert made.stages["fuse"] != plan.stages["fuse"]
        assert made.origins.chain("fuse.dtype")[-1].place == "command line"
        assert Plan.from_dict(made.to_dict()).spec.fuse.dtype == "float16"

        _, found = making(plan, ["lora.r=3", "fused.dtype=float16"])
        told = {one.key: one for one in found}
        assert {one.code for one in found} == {"LF948"}
        assert told["lora.r"].hint == "llmforge train lora.r=3"
        assert any("fuse" in note for note in told["fused.dtype"].notes)
        _, (wrong,) = making(plan, ["fuse.dtype=float15"])
        assert wrong.key == "fuse.dtype"


def test_a_plan_whose_base_and_data_are_gone_can_still_be_made_from(
    compiled: Callable[..., Plan], tmp_path: Path
) -> None:
    plan = compiled("hardware=cpu", "lora=small", "model=folder", "model.path=tiny")
    with chdir(tmp_path):
        made, found = making(plan, [])
    assert [one for one in found if one.is_error] == []
    assert made.facts == plan.facts
    assert made.stages == plan.stages


def test_a_model_that_no_run_trained_has_a_plan_around_it(bench: Path) -> None:
    folder = bench / "tiny"
    with chdir(bench):
        plan, found = plan_of_folder(folder, folder, "alone", ["paths.runs=there", "lora=small"])
    assert plan is not None, found
    assert plan.settings["model"]["path"] == str(folder)
    assert plan.settings["lora"]["kind"] == "none"
    assert str(plan.run_folder).startswith("there/alone-")
