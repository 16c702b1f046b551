"""What a reference on the command line names: a plan file, a run, a set of overrides."""

from __future__ import annotations

import argparse
import json

import pytest

from llmforge.diagnostics import ConfigRefused
from llmforge.plan import Plan
from llmforge.refs import (
    find_model,
    load_plan,
    plan_of,
    plan_to_run,
    run_of,
)
from llmforge.run.folder import RunFolder


@pytest.fixture(autouse=True)
def here(work):
    return work


@pytest.fixture
def plan(compiled) -> Plan:
    return compiled("hardware=cpu", "name=first")


def refused(function, *args):
    with pytest.raises(ConfigRefused) as caught:
        function(*args)
    (found,) = caught.value.diagnostics
    return found


def asked(**given) -> argparse.Namespace:
    return argparse.Namespace(**{"plan": None, "ref": None, "overrides": [], **given})


# -- plan files --------------------------------------------------------------------------------


def test_plan_file(plan):
    assert load_plan(plan.save("plan.json")) == plan


def test_plan_file_that_is_not_there(plan):
    plan.save("plan.json")

    found = refused(load_plan, "plam.json")

    assert (found.code, found.message) == ("LF116", "plan file plam.json does not exist")
    assert found.notes == ("did you mean `plan.json`?",)
    assert found.hint == "llmforge plan -o plam.json"


def test_folder_is_no_plan_file(here):
    (here / "plans").mkdir()

    assert refused(load_plan, "plans").message == "plans cannot be read: Is a directory"


def test_plan_of_other_settings_is_refused_before_it_runs(plan, here):
    data = json.loads(plan.to_json())
    del data["settings"]["seed"]
    (here / "old.json").write_text(json.dumps(data))

    found = refused(load_plan, "old.json")

    assert found.code == "LF116"
    assert "seed" in found.message


# -- plans, runs, overrides --------------------------------------------------------------------


def test_plan_of_a_file_a_run_and_overrides(plan):
    saved = str(plan.save("plan.json"))
    run = RunFolder.create(plan)

    assert plan_of(saved) == plan
    assert plan_of(str(run.path)).fingerprint == plan.fingerprint
    assert plan_of("last").fingerprint == plan.fingerprint
    assert plan_of("hardware=cpu name=first").stages == plan.stages
    assert plan_of("").name == "demo"


@pytest.mark.parametrize(
    ("ref", "code"), [("nothing.json", "LF116"), ("nothing", "LF809"), ("schedule=smal", "LF102")]
)
def test_plan_of_nothing(ref, code):
    assert refused(plan_of, ref).code == code


def test_run_by_a_part_of_its_name(plan):
    run = RunFolder.create(plan)

    assert run_of("first").path.resolve() == run.path.resolve()
    assert refused(run_of, "second").hint == "llmforge runs"


def test_run_without_a_model_yet(plan):
    run = RunFolder.create(plan)

    found = refused(find_model, "first")

    assert (found.code, found.hint) == ("LF863", "llmforge runs")
    assert found.message == f"run {run.run_id} is CREATED: it has no final model yet"


def test_plan_to_run(plan):
    saved = str(plan.save("plan.json"))
    RunFolder.create(plan)

    assert plan_to_run(asked()) is None
    assert plan_to_run(asked(plan=saved)) == plan
    assert plan_to_run(asked(ref="first")).fingerprint == plan.fingerprint


def test_overrides_cannot_change_a_saved_plan(plan):
    saved = str(plan.save("plan.json"))

    found = refused(plan_to_run, asked(plan=saved, overrides=["name=a b"]))

    assert (found.code, found.hint) == ("LF116", "llmforge plan 'name=a b' -o plan.json")


# -- the machine -------------------------------------------------------------------------------
