"""`llmforge doctor --launch`: what every process finds, and what is wrong with that."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmforge.plan import Plan
from llmforge.run.starting.probing import findings, probe_nodes, report

Make = Callable[..., Plan]
TWO = ("tracking=none", "launch=torchrun", "launch.processes=2", "trainer.accumulation=1")


def test_two_processes_look_around(tiny: Make, work: Path) -> None:
    plan = tiny(*TWO)
    found, outcome = probe_nodes(plan)

    assert outcome.exit_code == 0, outcome.diagnostic
    assert found is not None
    assert [told["rank"] for told in found["ranks"]] == [0, 1]
    for told in found["ranks"]:
        assert told["bandwidth"] > 0
        assert told["shared"] is True
        assert told["gpus"] == 0
        assert told["driver"] is None
    assert found["differences"] == []
    assert not [finding for finding in findings(plan, found) if finding.is_error]
    assert report(found).count("GB/s") == 2
    assert not (plan.run_folder.parent / ".doctor").exists(), "nothing is left"
    assert not plan.run_folder.exists()


ENDS = """
import os, signal
how = os.environ.get("END_BY")
if how == "raise":
    raise ValueError("planted fault")
if how:
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("how", "words", "message", "left"),
    [
        # of several processes, the traceback of the first that failed was shown
        ("raise", TWO, "planted fault", []),
        ("raise", ("tracking=none",), "planted fault", ["log.txt"]),
        ("kill", ("tracking=none",), "killed by SIGKILL", ["log.txt"]),
    ],
)
def test_a_job_that_fails_leaves_logs_only_where_they_alone_can_tell(
    tiny: Make, bench_folder: Path, work: Path, monkeypatch: pytest.MonkeyPatch,
    how: str, words: tuple[str, ...], message: str, left: list[str],
) -> None:  # fmt: skip
    for folder in (bench_folder, work):
        (folder / "ending.py").write_text(ENDS, encoding="utf-8")
    plan = tiny(*words, "plugins=[ending]")
    monkeypatch.setenv("END_BY", how)
    found, outcome = probe_nodes(plan)

    assert (found, outcome.exit_code) == (None, 1)
    assert outcome.diagnostic
    assert message in outcome.diagnostic.message
    doctor = plan.run_folder.parent / ".doctor"
    assert [path.name for path in doctor.glob("*/*")] == left
    assert doctor.exists() == bool(left)
    for path in doctor.glob("*/*"):
        assert f"output in {path}" in outcome.diagnostic.notes
    assert left or not any(str(doctor) in note for note in outcome.diagnostic.notes)


def rank(number: int, **facts: Any) -> dict[str, Any]:
    told = {"rank": number, "host": f"node-{number}", "gpus": 8, "device": "H200"}
    told |= {"driver": "570.86", "shared": True, "free_runs_bytes": 2**40, "clock_offset": 0.0}
    return told | {"versions": {"llmforge": "1", "torch": "2.13.0"}, "bandwidth": 4e10} | facts


def told(*ranks: dict[str, Any], differences: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"ranks": list(ranks), "differences": list(differences)}


def test_the_table_has_what_decides() -> None:
    text = report(told(rank(0), rank(1, shared=False)))

    for words in ("8 x H200", "570.86", "2.13.0", "40.00 GB/s", "yes", "NO"):
        assert words in text


@pytest.mark.parametrize(
    ("found", "code", "words"),
    [
        (told(rank(0), rank(1), differences=("torch: 1 on a; 2 on b",)), "LF463", "not alike"),
        (told(rank(0), rank(1, shared=False)), "LF466", "node-1 does not see the run folder"),
        (told(rank(0), rank(1, clock_offset=60.0)), "LF463", "clock of node-1 is +60 s"),
        (told(rank(0), rank(1, free_runs_bytes=1)), "LF820", "free on node-1"),
    ],
    ids=["versions", "folder", "clock", "disk"],
)
def test_what_is_wrong(plan: Plan, found: dict[str, Any], code: str, words: str) -> None:
    [finding] = findings(plan, found)

    assert finding.code == code
    assert words in finding.message


ENDING = """
import atexit, os, sys, torch
from llmforge.run.starting.agreement import end
atexit.register(os._exit, 134)  # as threads of a broken group abort the interpreter's way out
if sys.argv[1] == "joined":
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
print("last words")
end(3)
"""


@pytest.mark.parametrize(("group", "code"), [("joined", 3), ("alone", 134)])
def test_a_standing_group_does_not_decide_how_a_process_ends(group: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDING, group],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert done.stdout in ("last words\n", "")
