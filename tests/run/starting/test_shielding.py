"""A driver in two processes: the inner one gets folder and stage, the outer one its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from llmforge.plan import Plan
from llmforge.run.folder import RunFolder

DRIVER = """
import os, sys
from llmforge.run.starting import shielding

def drive(run, stage):
    print(run.run_id, stage, os.getpid() == os.getsid(0))
    return 7

sys.exit(shielding.main("stand_in", sys.argv[1:], drive))
"""


def test_the_inner_process_has_a_session_and_the_outer_one_its_exit_code(
    plan: Plan, tmp_path: Path
) -> None:
    (tmp_path / "stand_in.py").write_text(DRIVER, encoding="utf-8")
    folder = RunFolder.create(plan).path
    done = subprocess.run(
        [sys.executable, "-m", "stand_in", str(folder), "--stage", "evaluate"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.split()) == (7, [plan.run_id, "evaluate", "True"])
