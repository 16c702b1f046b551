"""Processes of one run compare themselves before anything is loaded; two real ones, over gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmforge.plan import Plan
from llmforge.run.failures import diagnose
from llmforge.run.folder import RunFolder
from llmforge.run.starting.agreement import NodesDiffer, compare
from llmforge.run.starting.commands import free_port

RANK = """
import sys, json, os
from llmforge.run.starting import agreement
from llmforge.run.folder import RunFolder
from llmforge.plan import Plan
plan, run = Plan.load(sys.argv[1]), RunFolder(sys.argv[2])
real = agreement.versions
agreement.versions = lambda: real() | json.loads(sys.argv[3])
try:
    agreement.agree(plan, run)
    print(json.dumps(["agreed", []]))
except (agreement.NodesDiffer, agreement.FolderNotShared) as error:
    print(json.dumps([type(error).__name__, list(getattr(error, "notes", []))]))
"""


def two(plan: Plan, folders: tuple[Path, Path], versions: tuple[str, str]) -> list[list]:
    """What two processes say."""
    file = plan.save("plan.json")
    port, processes = str(free_port()), []
    for rank in (0, 1):
        variables = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        variables["PYTHONPATH"] = str(Path(__file__).parents[2])
        command = [sys.executable, "-c", RANK, str(file), str(folders[rank]), versions[rank]]
        processes.append(
            subprocess.Popen(command, env=os.environ | variables, stdout=subprocess.PIPE, text=True)
        )
    return [json.loads(process.communicate(timeout=120)[0]) for process in processes]


def test_equal_nodes_go_on_and_are_recorded(plan: Plan) -> None:
    run = RunFolder.create(plan)

    assert two(plan, (run.path, run.path), ("{}", "{}")) == [["agreed", []]] * 2
    record = run.read_json("nodes.json") or {}
    assert record["shared"] is True
    assert [told["rank"] for told in record["ranks"]] == [0, 1]
    assert not list(run.path.glob(".seen-*"))


def test_another_version_on_one_node_is_refused_by_both(plan: Plan) -> None:
    run = RunFolder.create(plan)

    told = two(plan, (run.path, run.path), ("{}", '{"peft": "0.1"}'))

    assert told[0] == told[1], "every rank ends for the same reason"
    assert told[0][0] == "NodesDiffer"
    [note] = told[0][1]
    assert note.startswith("peft: ")
    assert "0.1 on " in note


def test_a_folder_of_ones_own_is_refused(plan: Plan, tmp_path: Path) -> None:
    run = RunFolder.create(plan)
    (tmp_path / "elsewhere").mkdir()

    told = two(plan, (run.path, tmp_path / "elsewhere"), ("{}", "{}"))

    assert [name for name, _ in told] == ["FolderNotShared"] * 2


def facts(host: str, **changes: str) -> dict:
    told = {"host": host, "fingerprint": "a" * 64, "python": "3.11.7"}
    return told | {"versions": {"torch": "2.13.0"} | changes}


def test_a_difference_names_hosts_and_values() -> None:
    ranks = [facts("a"), facts("a"), facts("b", torch="2.12.0"), facts("c", peft="0.21.2")]

    assert list(compare(ranks)) == [
        "peft: not installed on a, b; 0.21.2 on c",
        "torch: 2.13.0 on a, c; 2.12.0 on b",
    ]


def test_another_plan_is_a_difference() -> None:
    ranks = [facts("a"), facts("b") | {"fingerprint": "b" * 64}]

    assert list(compare(ranks)) == [f"plan: {'a' * 10} on a; {'b' * 10} on b"]


@pytest.mark.parametrize("code", ["LF463"])
def test_the_diagnostic_has_the_differences(plan: Plan, code: str) -> None:
    found = diagnose(NodesDiffer("not alike", ["torch: 1 on a; 2 on b"]), plan)

    assert (found.code, found.notes) == (code, ("torch: 1 on a; 2 on b",))
