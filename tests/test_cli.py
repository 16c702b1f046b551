"""The command line: verbs, exit codes, what goes to stdout and what to stderr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from llmforge.plan import Plan


def shell(command: str, folder, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command line as a user types it, pipes and all."""
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"  # noqa: PTH120
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


# -- check -------------------------------------------------------------------------------------


def test_check_says_so_when_there_is_nothing(llmforge):
    ran = llmforge("check hardware=cpu")

    assert (ran.code, ran.out, ran.err) == (0, "no findings\n", "")


def test_check_tells_three_mistakes_at_once(llmforge):
    ran = llmforge("check optimiser=adamw trainer.epoch=3 schedule=cosin")

    assert ran.code == 2
    assert [line for line in ran.err.splitlines() if line.startswith(("error", "hint"))] == [
        "error[LF102]: group `schedule` has no option `cosin`",
        "hint: schedule=cosine",
        "error[LF102]: no group `optimiser`",
        "hint: optimizer=adamw",
        "error[LF101]: unknown key `trainer.epoch`",
        "hint: trainer.epochs=3",
    ]
    assert ran.err.endswith("3 errors; nothing was started\n")
    assert ran.out == ""


def test_warnings_alone_are_accepted(llmforge):
    ran = llmforge("check lora=small")

    assert ran.code == 0
    assert ran.err.startswith("warning[LF604]")


def test_check_for_machines(llmforge):
    ran = llmforge("check --format json trainer.epoch=3")

    assert (ran.code, ran.err) == (2, "")
    assert json.loads(ran.out) == {
        "refused": True,
        "findings": [
            {
                "code": "LF101",
                "severity": "error",
                "message": "unknown key `trainer.epoch`",
                "key": "trainer.epoch",
                "origins": [{"kind": "override", "where": "trainer.epoch=3", "value": 3}],
                "notes": ["did you mean `trainer.epochs`?"],
                "hint": "trainer.epochs=3",
            }
        ],
    }


def test_check_for_machines_has_an_answer_when_there_is_nothing(llmforge):
    ran = llmforge("check --format json hardware=cpu")

    assert (ran.code, json.loads(ran.out)) == (0, {"refused": False, "findings": []})


def test_check_for_github(llmforge):
    ran = llmforge("check --format github lora=small data=jsonl")

    assert ran.code == 2
    assert ran.out.splitlines() == [
        "::error file=conf/data/jsonl.yaml,line=8,title=LF105::`data.train` has no value yet "
        "(`???`)%0Ahint: data.train=<value>",
        "::warning file=conf/lora/small.yaml,line=3,title=LF604::the adapter would train over "
        "random, frozen weights%0Ahint: lora=none",
    ]


# -- plan --------------------------------------------------------------------------------------


def test_plan_shows_values_and_who_set_them(llmforge):
    ran = llmforge("plan hardware=cpu trainer.micro_batch=8 trainer.global_batch=32")
    lines = [line.split() for line in ran.out.splitlines()]

    assert ran.code == 0
    assert ran.err == ""
    assert [">", "trainer.micro_batch", "8", "command", "line"] in lines
    assert ["optimizer.eps", "1e-08", "conf/optimizer/adamw.yaml:8"] in lines
    accumulation = next(line for line in ran.out.splitlines() if "trainer.accumulation" in line)
    assert accumulation.startswith("= ")
    assert accumulation.endswith("global batch / (micro batch x processes)")
    assert "!" not in {line[:1] for line in ran.out.splitlines()}  # a value nobody set


def test_plan_of_a_refused_configuration(llmforge):
    ran = llmforge("plan trainer.epoch=3")

    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error[LF101]")


def test_plan_as_json_is_the_plan(llmforge):
    ran = llmforge("plan --json hardware=cpu lora=small")

    assert ran.code == 0
    assert Plan.from_dict(json.loads(ran.out)).settings["lora"]["r"] == 8
    assert ran.err.startswith("warning[LF604]")  # beside the JSON, not in it


def test_plan_for_another_machine(llmforge):
    by_name, by_override = llmforge("plan --for h200"), llmforge("plan --for hardware=h200")

    assert "hardware   1 x NVIDIA H200" in by_name.out
    assert by_override.out == by_name.out


def test_verbose_plan_shows_facts_and_lowered_keywords_too(llmforge):
    short, long = llmforge("plan hardware=cpu"), llmforge("plan -v hardware=cpu")

    assert "lowered.training_arguments.max_steps" not in short.out
    assert "lowered.training_arguments.max_steps" in long.out
    assert "facts.model.family" in long.out


def test_saved_plan_is_run_exactly(llmforge, work, monkeypatch):
    """`train --plan` hands over what `plan -o` saved; the runner is a stand-in here."""
    handed = []

    def run_plan(plan: Plan, stage: str, quiet: bool) -> SimpleNamespace:
        assert not quiet
        handed.append((plan, stage))
        return SimpleNamespace(diagnostic=None, exit_code=0)

    monkeypatch.setattr("llmforge.run.ready.run_plan", run_plan)

    saved = llmforge("plan -o plans/small.json hardware=cpu trainer.global_batch=64")
    ran = llmforge("train --plan plans/small.json")

    assert saved.out.endswith(
        "saved to plans/small.json; run it: llmforge train --plan plans/small.json\n"
    )
    assert ran.code == 0
    assert handed == [(Plan.load("plans/small.json"), "train")]


@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_plan_for_another_machine_is_not_run_here(verb, llmforge, monkeypatch):
    here = {"device": "cpu", "count": 1}
    monkeypatch.setattr("llmforge.compiler.facts.hardware.probe_hardware", lambda: here)

    ran = llmforge(f"{verb} hardware=h200")

    assert ran.code == 2
    assert ran.err.startswith(
        "error[LF408]: the plan is for 1 x NVIDIA H200; this machine has no GPU"
    )


# -- diff, explain, list, schema, doctor -------------------------------------------------------


def test_diff_of_two_override_sets(llmforge):
    ran = llmforge("diff 'lora=small name=a' 'lora=medium name=b'")

    assert ran.code == 0
    assert ran.out.splitlines()[0] == "numerics:"
    assert ran.out.splitlines()[-1] == "stages that would run again: train, evaluate"


def test_diff_as_json(llmforge):
    found = json.loads(llmforge("diff --json seed=1 seed=2").out)

    assert found["changes"][0]["key"] == "seed"
    assert found["stages_that_would_run_again"] == ["train", "evaluate"]


def test_diff_of_refused_overrides(llmforge):
    ran = llmforge("diff lora=small lora=smal")

    assert (ran.code, ran.out) == (2, "")


def test_explain_a_key_and_a_code(llmforge):
    assert llmforge("explain trainer.micro_batch").out.startswith("trainer.micro_batch = ")
    assert llmforge("explain lf204").out.startswith("LF204: batch arithmetic")


def test_list(llmforge):
    groups, options = llmforge("list"), llmforge("list schedule")

    assert any(
        line.startswith("schedule ") and "linear" in line for line in groups.out.splitlines()
    )
    told = [" ".join(line.split()) for line in options.out.splitlines()]
    assert told[0] == "schedule what it is"
    assert "linear Warm-up, then a straight line to zero." in told
    assert told[1:] == sorted(told[1:])


def test_list_of_an_unknown_group(llmforge):
    ran = llmforge("list shedule")

    assert ran.code == 2
    assert "hint: llmforge list schedule" in ran.err


def test_options_of_my_own_and_those_that_shadow(llmforge, work):
    (work / "mine/schedule").mkdir(parents=True)
    (work / "mine/schedule/linear.yaml").write_text("# Mine.\nkind: linear\nwarmup: 10%\n")
    (work / "mine/schedule/slow.yaml").write_text("# Slow.\nkind: linear\nwarmup: 50%\n")

    listed = llmforge("list --config-dir mine schedule").out.splitlines()
    shadowed = llmforge("check --config-dir mine schedule=linear")
    added = llmforge("check --config-dir mine schedule=slow")

    told = [" ".join(line.split()) for line in listed]
    assert "linear Mine. (shadows the shipped one)" in told
    assert "slow Slow." in told
    assert (shadowed.code, added.code) == (0, 0)
    assert "warning[LF111]: mine/schedule/linear.yaml hides conf/schedule/linear.yaml" in (
        shadowed.err
    )
    assert added.err == ""


def test_schema_to_read_and_to_write(llmforge, work):
    shown, written = llmforge("schema"), llmforge("schema -o schemas")

    assert json.loads(shown.out)["title"] == "config"
    assert "schemas/trainer.json" in written.out.splitlines()
    kinds = json.loads((work / "schemas/trainer.json").read_text())["anyOf"]
    assert all("micro_batch" in kind["properties"] for kind in kinds)


def test_doctor(llmforge):
    ran = llmforge("doctor")

    assert ran.code == 0
    assert ran.out.splitlines()[0].split() == ["what", "found", "note"]
    assert ran.out.splitlines()[-1] == "ready"


# -- the rest ----------------------------------------------------------------------------------


def test_help_names_every_verb(llmforge):
    bare, asked = llmforge(""), llmforge("--help")

    assert (bare.code, asked.code) == (0, 0)
    assert bare.out == asked.out
    for verb in ("plan", "check", "explain", "diff", "prepare", "train", "evaluate", "generate",
                 "runs", "ui", "list", "schema", "doctor"):  # fmt: skip
        assert f"\n    {verb} " in bare.out


def test_version(llmforge):
    from llmforge import __version__

    assert llmforge("--version").out == f"llmforge {__version__}\n"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("plam", "invalid choice: 'plam'"),
        ("check --formt json", "unknown flag --formt; see llmforge check --help"),
        ("check --format xml", "invalid choice: 'xml'"),
        ("list lora extra", "unexpected argument extra"),
        ("explain", "the following arguments are required: KEY|CODE"),
    ],
)
def test_wrong_usage_is_2_as_well(line, told, llmforge):
    ran = llmforge(line)

    assert ran.code == 2
    assert told in ran.err


def test_flags_may_stand_between_overrides(llmforge):
    ran = llmforge("check hardware=cpu --format json trainer.epoch=3 seed=1")

    assert [f["code"] for f in json.loads(ran.out)["findings"]] == ["LF101"]


def test_interrupted_is_130(llmforge, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llmforge.compiler.passes.check", interrupt)

    assert llmforge("check").code == 130


def test_the_ui_needs_mlflow(llmforge):
    ran = llmforge("ui tracking=none")

    assert ran.code == 2
    assert "hint: tracking=mlflow" in ran.err


def test_a_reader_that_closes_the_pipe(tmp_path):
    """`llmforge plan --json | head` ends quietly, whoever writes."""
    ran = shell("llmforge plan --json hardware=cpu | head -n 1", tmp_path)

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "{\n", "")


def test_colour_only_on_a_terminal(tmp_path):
    told = shell("llmforge check seed=x 2>&1 | cat", tmp_path).stdout

    assert "\x1b" not in told
    assert told.startswith("error[LF104]")


# -- Hydra's own flags -------------------------------------------------------------------------


def test_hydra_shows_the_composed_job(tmp_path):
    ran = shell("llmforge train --cfg job schedule=linear seed=7", tmp_path)

    assert ran.returncode == 0, ran.stderr
    assert "seed: 7\n" in ran.stdout
    assert "schedule:\n  kind: linear\n" in ran.stdout
    assert list(tmp_path.iterdir()) == []  # Hydra writes nothing


def test_hydra_shows_where_files_come_from(tmp_path):
    ran = shell("llmforge train --info defaults", tmp_path)

    assert ran.returncode == 0, ran.stderr
    assert "| optimizer/adamw " in ran.stdout


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("llmforge train optimi", ["optimizer.", "optimizer="]),
        ("llmforge train schedule=cosine_r", ["schedule=cosine_restarts"]),
        ("llmforge check paths.", ["paths.cache=", "paths.env_file=", "paths.runs="]),
    ],
)
def test_shell_completion(line, words, tmp_path):
    ran = shell("llmforge -sc query=bash", tmp_path, COMP_LINE=line, COMP_POINT=str(len(line)))

    assert ran.stdout.split() == words


def test_a_command_line_that_hydra_cannot_compose_is_refused(tmp_path):
    ran = shell("llmforge train -m optimizer=adamv seed=1,2 tracking=none", tmp_path)

    assert ran.returncode == 2
    assert "adamv" in ran.stderr
