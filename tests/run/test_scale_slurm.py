"""A real Slurm of two nodes, started here: `apt-get install slurm-wlm` makes these tests run.

Both nodes are this machine, under names that only Slurm knows, with one process of the run each. It
keeps no accounts, as small clusters do, so `sacct` has no answer. The controller runs as root.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import psutil
import pytest
from test_scale import CLOSE, TWO, after_step, alone, losses, started

from llmforge.plan import Plan
from llmforge.run.folder import RunFolder
from llmforge.run.launch import run_plan
from llmforge.run.starting import slurm_queue
from llmforge.run.starting.commands import free_port
from llmforge.run.status import Status

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
HOST = socket.gethostname()
NODES = ("llmforge-test-1", "llmforge-test-2")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        os.getuid() != 0 or not all(map(shutil.which, PROGRAMS)),
        reason="no Slurm to start: apt-get install slurm-wlm, as root",
    ),
]

Make = Callable[..., Plan]
SLURM = (*TWO, "launch=slurm", "launch.nodes=2", "launch.minutes=10")
LONG = ("trainer.max_steps=60", "checkpoint.every=30", "evaluation.every=30")
__all__ = ["alone"]  # a fixture

CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
MpiDefault=none
KillWait=60
ReturnToService=2
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=8 State=UNKNOWN\n"


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """munged, a controller and two nodes, ended with the tests."""
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "key").write_bytes(os.urandom(128))
    (folder / "key").chmod(0o600)
    conf = folder / "slurm.conf"
    text = CONF.format(host=HOST, port=free_port(), folder=folder)
    nodes = [NODE.format(name=name, host=HOST, port=free_port()) for name in NODES]
    conf.write_text(text + "".join(nodes), encoding="utf-8")
    files = {
        name: folder / f"munge.{name}" for name in ("socket", "log-file", "pid-file", "seed-file")
    }
    munged = [f"--{name}={path}" for name, path in files.items()]
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("SLURM_CONF", str(conf))
        for command in (
            ["munged", "--foreground", "--force", f"--key-file={folder / 'key'}", *munged],
            ["slurmctld", "-D"],
            *(["slurmd", "-D", "-N", name] for name in NODES),
        ):
            with (folder / "out.txt").open("ab") as out:
                daemon = subprocess.Popen(command, stdout=out, stderr=out, cwd=folder)
            stack.callback(_ended, daemon)
            time.sleep(1)
        deadline = time.monotonic() + 60
        while _ask("sinfo", "--noheader", "--format=%D %T") != "2 idle":
            assert time.monotonic() < deadline, (folder / "out.txt").read_text()[-3000:]
            time.sleep(0.5)
        yield
        _ask("scancel", "--user=root")


def _ended(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(20)
    except subprocess.TimeoutExpired:
        daemon.kill()


def _ask(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _job(plan: Plan) -> str:
    record = RunFolder.open(plan.run_folder).read_json("slurm.json")
    assert record
    return str(record["job"])


def test_two_nodes_learn_what_one_process_does(tiny: Make, alone: tuple[float, float]) -> None:
    outcome = run_plan(tiny(*SLURM, "name=nodes"), quiet=True)

    assert losses(outcome) == pytest.approx(alone, abs=CLOSE)
    assert len((RunFolder.open(outcome.folder).read_json("nodes.json") or {})["ranks"]) == 2


def test_a_warned_job_saves_and_is_queued_again(tiny: Make) -> None:
    plan = tiny(*SLURM, *LONG, "name=warned")
    driver = started(plan)
    after_step(plan, 4)
    _ask("scancel", "--signal=USR2", _job(plan))

    assert driver.wait(300) == 0
    run = RunFolder.open(plan.run_folder)
    assert run.status() is Status.FINISHED
    assert run.record().attempts == 2


def test_a_cancelled_job_saves_and_stays_away(tiny: Make) -> None:
    plan = tiny(*SLURM, "trainer.max_steps=400", "name=cancelled")
    driver = started(plan)
    after_step(plan, 4)
    _ask("scancel", _job(plan))

    assert driver.wait(120) == 130
    run = RunFolder.open(plan.run_folder)
    assert run.status() is Status.INTERRUPTED
    assert run.checkpoints()
    assert not slurm_queue.in_queue(_job(plan))


def test_a_job_that_only_waits_is_taken_out(tiny: Make) -> None:
    _ask("sbatch", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 300")
    plan = tiny(*SLURM, "name=waiting")
    driver = started(plan)
    deadline = time.monotonic() + 60
    while not (plan.run_folder / "slurm.json").is_file():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert slurm_queue.in_queue(_job(plan))
    assert slurm_queue.state(_job(plan)).startswith("PENDING")
    driver.send_signal(signal.SIGINT)

    assert driver.wait(60) == 130
    assert not slurm_queue.in_queue(_job(plan))
    _ask("scancel", "--user=root")


def test_a_job_that_dies_without_a_word_has_failed(tiny: Make) -> None:
    plan = tiny(*SLURM, "trainer.max_steps=400", "name=killed")
    driver = started(plan)
    after_step(plan, 4)
    for process in psutil.process_iter():  # as where Slurm's memory limit is reached
        with suppress(psutil.Error):
            if process.environ().get("SLURM_JOB_ID") == _job(plan):
                process.kill()

    assert driver.wait(120) == 1
    run = RunFolder.open(plan.run_folder)
    assert run.status() is Status.FAILED
    assert run.record().code in ("LF801", "LF804"), "who is killed first, the other rank may see"
