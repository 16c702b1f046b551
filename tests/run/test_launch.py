"""The driver judges what becomes of a worker; a few lines of Python stand in for the worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llmforge.compiler.passes import compile_plan
from llmforge.plan import Plan
from llmforge.run import launch
from llmforge.run.folder import RunFolder
from llmforge.run.launch import run_answers, run_plan
from llmforge.run.starting import commands
from llmforge.run.status import Status

PRELUDE = """
import json, os, signal, sys, time
from llmforge.run.folder import RunFolder
from llmforge.run.status import Status
run = RunFolder.open(sys.argv[1])
run.set_running("train")
"""
FINISH = """
run.write_json("result.json", {"steps": 12})
run.set_status(Status.FINISHED, pid=None)
"""

Worker = Callable[[str], None]


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    """`worker("sys.exit(3)")`: what the next worker does once it has said that it runs."""

    def set_worker(body: str, prelude: str = PRELUDE) -> None:
        def command(_plan: Plan, folder: Path, _stage: str) -> list[str]:
            return [sys.executable, "-c", prelude + body, str(folder)]

        monkeypatch.setattr(commands, "local_command", command)

    return set_worker


def test_a_finished_run_and_the_same_again(plan: Plan, worker: Worker) -> None:
    worker(FINISH)
    first = run_plan(plan)
    assert (first.status, first.exit_code, first.reused) == (Status.FINISHED, 0, False)
    assert first.result == {"steps": 12}
    assert first.diagnostic is None
    worker("sys.exit(9)")
    again = run_plan(plan, quiet=True)
    assert (again.exit_code, again.reused, again.result) == (0, True, {"steps": 12})


def test_a_finished_run_says_so(
    plan: Plan, worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    worker(FINISH)
    run_plan(plan)
    capsys.readouterr()
    run_plan(plan)
    told = capsys.readouterr()
    assert "was finished at" in told.err
    assert "everything is in" in told.out


def test_the_reason_a_worker_gives_is_the_outcome(plan: Plan, worker: Worker) -> None:
    worker(
        'd = {"code": "LF802", "message": "loss is nan", "key": "optimizer.lr", "hint": "h",\n'
        '     "origins": [{"kind": "file", "where": "a.yaml", "value": 1, "line": 4}]}\n'
        'run.set_status(Status.FAILED, pid=None, code="LF802", reason="loss is nan",\n'
        "               diagnostic=d)\nsys.exit(1)"
    )
    outcome = run_plan(plan)
    assert outcome.exit_code == 1
    assert outcome.diagnostic
    assert outcome.diagnostic.code == "LF802"
    assert outcome.diagnostic.origins[0].place == "a.yaml:4"
    assert any("log.txt" in note for note in outcome.diagnostic.notes)


def test_a_killed_worker_leaves_a_folder_that_says_so(plan: Plan, worker: Worker) -> None:
    worker("os.kill(os.getpid(), signal.SIGKILL)")
    outcome = run_plan(plan)
    assert (outcome.status, outcome.exit_code) == (Status.FAILED, 1)
    assert outcome.diagnostic
    assert outcome.diagnostic.code == "LF804"
    assert "SIGKILL" in outcome.diagnostic.message
    assert "OOM killer" in " ".join(outcome.diagnostic.notes)
    record = RunFolder.open(outcome.folder).record()
    assert (record.status, record.code, record.pid) == (Status.FAILED, "LF804", None)


def test_the_kernels_oom_killer_is_named_when_it_counted(
    plan: Plan, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter((4, 5))
    monkeypatch.setattr(launch, "oom_kills", lambda: next(counts))
    worker("os.kill(os.getpid(), signal.SIGKILL)")
    outcome = run_plan(plan)
    assert outcome.diagnostic
    assert "by the kernel, out of main memory" in outcome.diagnostic.message


def test_a_segfault_is_not_blamed_on_memory(plan: Plan, worker: Worker) -> None:
    worker("os.kill(os.getpid(), signal.SIGSEGV)")
    outcome = run_plan(plan)
    assert outcome.diagnostic
    assert outcome.diagnostic.code == "LF804"
    assert "SIGSEGV" in outcome.diagnostic.message
    assert "OOM" not in " ".join(outcome.diagnostic.notes)


def test_a_worker_that_cannot_even_start(plan: Plan, worker: Worker) -> None:
    worker("import no_such_module", prelude="")
    outcome = run_plan(plan, quiet=True)
    assert outcome.exit_code == 1
    assert outcome.diagnostic
    assert outcome.diagnostic.code == "LF801"
    assert "exit code 1" in outcome.diagnostic.message


def test_a_failed_run_is_tried_again(plan: Plan, worker: Worker) -> None:
    worker("os.kill(os.getpid(), signal.SIGKILL)")
    assert run_plan(plan).exit_code == 1
    worker(FINISH)
    outcome = run_plan(plan)
    assert outcome.exit_code == 0
    assert RunFolder.open(outcome.folder).record().attempts == 2


def test_what_another_rank_says_is_the_cause(plan: Plan, worker: Worker) -> None:
    worker(
        'run.write_json("failure-rank1.json", {"code": "LF803", "message": "out of memory"})\n'
        'run.set_status(Status.INTERRUPTED, pid=None, reason="SIGTERM")\nsys.exit(1)'
    )
    outcome = run_plan(plan)
    assert outcome.status is Status.FAILED
    assert outcome.diagnostic
    assert outcome.diagnostic.code == "LF803"
    assert outcome.diagnostic.message == "rank 1: out of memory"


def test_measuring_again_never_spoils_a_finished_run(plan: Plan, worker: Worker) -> None:
    worker(FINISH)
    run = RunFolder(run_plan(plan).folder)
    run.write_json("manifest.json", {})
    quiet = PRELUDE.replace('run.set_running("train")', "")
    failure = 'run.write_json("failure-rank0.json", {"code": "LF803", "message": "no memory"})'
    worker(f"{failure}\nsys.exit(1)", prelude=quiet)
    outcome = run_plan(plan, "evaluate")
    assert (outcome.status, outcome.exit_code) == (Status.FINISHED, 1)
    assert outcome.diagnostic
    assert outcome.diagnostic.code == "LF803"
    worker("os.kill(os.getpid(), signal.SIGKILL)", prelude=quiet)
    outcome = run_plan(plan, "evaluate")
    assert outcome.diagnostic
    assert outcome.diagnostic.code == "LF804"
    assert RunFolder.open(outcome.folder).status() is Status.FINISHED
    worker("sys.exit(0)", prelude=quiet)
    assert run_plan(plan, "evaluate").exit_code == 0
    assert run.record().attempts == 1


def test_answers_are_given_by_one_process_whatever_has_trained(work: Path, worker: Worker) -> None:
    many = compile_plan(["hardware=cpu", "launch=torchrun", "launch.processes=2"])
    run = RunFolder.create(many)
    worker('open(run.path / "world", "w").write(os.environ.get("WORLD_SIZE", "one"))')
    assert run_answers(many, run, {}).exit_code == 0
    assert (run.path / "world").read_text() == "one"


def test_without_a_model_there_is_nothing_to_measure(plan: Plan) -> None:
    outcome = run_plan(plan, "evaluate")
    assert outcome.exit_code == 1
    assert outcome.diagnostic
    assert outcome.diagnostic.code == "LF809"
    assert not outcome.folder.exists()


def test_a_folder_in_use_is_refused(plan: Plan) -> None:
    run = RunFolder.create(plan)
    run.set_running("train")
    with run.lock():
        outcome = run_plan(plan)
    assert (outcome.exit_code, outcome.status) == (1, Status.RUNNING)
    assert outcome.diagnostic
    assert outcome.diagnostic.code == "LF808"
    assert str(os.getpid()) in outcome.diagnostic.message


PATIENT = """
def saved(*_):
    run.set_status(Status.INTERRUPTED, pid=None, reason="SIGTERM")
    sys.exit(130)
signal.signal(signal.SIGTERM, saved)
open("ready", "w").close()
time.sleep(30)
"""
STUBBORN = """
signal.signal(signal.SIGTERM, lambda *_: open("asked", "w").close())
open("ready", "w").close()
while True:
    time.sleep(30)
"""


def when(path: str, act: Callable[[], None]) -> None:
    """Do something once the worker has made a file."""

    def wait() -> None:
        while not Path(path).exists():
            time.sleep(0.02)
        act()

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_is_passed_on_and_waited_for(
    plan: Plan, worker: Worker, number: signal.Signals
) -> None:
    worker(PATIENT)
    before = signal.getsignal(number)
    when("ready", lambda: os.kill(os.getpid(), number))
    outcome = run_plan(plan)
    assert (outcome.status, outcome.exit_code) == (Status.INTERRUPTED, 130)
    assert outcome.diagnostic is None
    assert signal.getsignal(number) is before


def test_the_second_stop_kills(plan: Plan, worker: Worker) -> None:
    worker(STUBBORN)
    when("ready", lambda: os.kill(os.getpid(), signal.SIGINT))
    when("asked", lambda: os.kill(os.getpid(), signal.SIGINT))
    outcome = run_plan(plan)
    assert (outcome.status, outcome.exit_code) == (Status.INTERRUPTED, 130)
    reason = RunFolder.open(outcome.folder).record().reason
    assert reason == "the worker was killed by SIGKILL on request; the same command starts again"


def test_a_stop_before_the_worker_listens(plan: Plan, worker: Worker) -> None:
    worker('open("ready", "w").close()\ntime.sleep(30)')
    when("ready", lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert run_plan(plan).exit_code == 130


def test_a_grandchild_does_not_outlive_the_attempt(plan: Plan, worker: Worker) -> None:
    worker(
        "import subprocess\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "open('child', 'w').write(str(child.pid))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    run_plan(plan)
    pid = int(Path("child").read_text())
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("it lives")


def test_from_a_thread(plan: Plan, worker: Worker) -> None:
    worker(FINISH)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run_plan(plan).exit_code))
    thread.start()
    thread.join(30)
    assert codes == [0]


def test_the_driver_stays_light() -> None:
    code = (
        "import sys, llmforge.run.launch, llmforge.run.ledger, llmforge.track.ui\n"
        "heavy = ('torch', 'transformers', 'mlflow', 'hydra', 'omegaconf', 'numpy', 'rich')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_batch_systems_warning_stops_and_never_kills(
    plan: Plan, worker: Worker, number: signal.Signals
) -> None:
    # it comes twice, and the end of the job's time once more, before the worker has saved
    worker(
        'asked = lambda *_: open("asked", "w").close()\n'
        "signal.signal(signal.SIGTERM, asked)\n"
        'open("ready", "w").close()\n'
        'while not os.path.exists("asked"):\n    time.sleep(0.02)\n'
        "time.sleep(0.5)\n"
        'run.set_status(Status.INTERRUPTED, pid=None, reason="SIGTERM; state saved at step 4")\n'
        "sys.exit(130)"
    )
    when("ready", lambda: os.kill(os.getpid(), number))
    when("asked", lambda: [os.kill(os.getpid(), each) for each in (number, signal.SIGTERM)])
    outcome = run_plan(plan)
    assert (outcome.status, outcome.exit_code) == (Status.INTERRUPTED, 130)
    reason = RunFolder.open(outcome.folder).record().reason
    assert reason == f"{number.name}; state saved at step 4", "the signal that asked is named"
