"""Real runs of two processes on the CPU, by every launcher: the same losses, deaths, stops.

Two processes with half the micro batch each take the same optimizer steps as one; sums are rounded
in another order, so losses agree within 1e-4 (they are about 5).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmforge.plan import Plan
from llmforge.run.folder import RunFolder
from llmforge.run.journal import history, read
from llmforge.run.launch import Outcome, run_plan
from llmforge.run.starting.commands import free_port
from llmforge.run.status import Status

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

Make = Callable[..., Plan]
TWO = ("tracking=none", "launch.processes=2", "trainer.accumulation=1")
FOUR = ("tracking=none", "launch.processes=4", "trainer.accumulation=1", "trainer.micro_batch=2")
CLOSE = 1e-4
ROOT = str(Path(__file__).parents[2])

FAULT = """
import os, pathlib, signal
from transformers import TrainerCallback

class Fault(TrainerCallback):
    def __init__(self, rank, step, how):
        self.rank, self.step, self.how = rank, step, how

    def on_step_end(self, args, state, control, **kwargs):
        flag, own = pathlib.Path("fault.done"), int(os.environ["RANK"]) == self.rank
        if own and state.global_step == self.step and not flag.exists():
            flag.touch()
            if self.how == "raise":
                raise ValueError("planted fault")
            os.kill(os.getpid(), signal.SIGKILL)
"""
SPEC = """
import llmforge

@llmforge.register("callback", "fault", "faulty_parts:Fault")
class FaultSpec(llmforge.CallbackSpec):
    rank: int
    step: int
    how: str
"""


_ALONE: list[tuple[float, float]] = []


def losses(outcome: Outcome) -> tuple[float, float]:
    assert outcome.exit_code == 0, outcome.diagnostic
    assert outcome.result
    return outcome.result["train_loss"], outcome.result["eval_loss"]


@pytest.fixture
def alone(tiny: Make) -> tuple[float, float]:
    """Losses of the same plan in one process, trained once for all tests."""
    if not _ALONE:
        _ALONE.append(losses(run_plan(tiny("tracking=none", "name=alone"), quiet=True)))
    return _ALONE[0]


@pytest.fixture
def faulty(tiny: Make, bench_folder: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """`faulty("raise", "launch=torchrun")`: rank 1 dies in step 6, once."""
    for folder in (bench_folder, work):
        (folder / "faulty.py").write_text(SPEC, encoding="utf-8")
        (folder / "faulty_parts.py").write_text(FAULT, encoding="utf-8")

    def make(how: str, *words: str) -> Plan:
        fault = f"+callbacks.fault={{kind: fault, rank: 1, step: 6, how: {how}}}"
        return tiny(*TWO, "plugins=[faulty]", fault, *words)

    return make


class TestEveryLauncher:
    @pytest.mark.parametrize(
        ("package", "words"),
        [
            ("torch", ("launch=torchrun",)),
            ("deepspeed", ("launch=deepspeed",)),
            ("ray", ("launch=ray",)),
            ("submitit", ("launch=slurm", "launch.executor=local", "launch.minutes=10")),
        ],
        ids=["torchrun", "deepspeed", "ray", "slurm"],
    )
    def test_two_processes_learn_what_one_does(
        self, tiny: Make, alone: tuple[float, float], package: str, words: tuple[str, ...]
    ) -> None:
        pytest.importorskip(package)
        outcome = run_plan(tiny(*TWO, *words, "name=two"), quiet=True)

        assert losses(outcome) == pytest.approx(alone, abs=CLOSE)
        run = RunFolder.open(outcome.folder)
        assert run.status() is Status.FINISHED
        assert run.log(1).is_file()
        assert len((run.read_json("nodes.json") or {})["ranks"]) == 2
        assert outcome.result
        held = outcome.result["memory_by_rank"]
        assert [told["rank"] for told in held] == [0, 1]
        assert all(told["measured_bytes"] > 0 and told["foretold_bytes"] > 0 for told in held)
        steps = [row.step for row, _ in read(run.journal) if "train_loss" in row.values]
        assert steps == sorted(set(steps)), "rank 0 alone writes"

    def test_two_nodes_meet(self, tiny: Make, alone: tuple[float, float]) -> None:
        nodes = ("launch=torchrun", "launch.nodes=2", f"launch.rendezvous=127.0.0.1:{free_port()}")
        plans = [tiny(*TWO, *nodes, "name=nodes", f"launch.node_rank={rank}") for rank in (0, 1)]
        assert plans[0].run_id == plans[1].run_id
        second = started(plans[1])
        first = run_plan(plans[0], quiet=True)

        assert losses(first) == pytest.approx(alone, abs=CLOSE)
        assert second.wait(120) == 0
        assert (first.folder / "plan.node1.json").is_file()

    def test_ray_brings_a_folder_back_from_its_storage(
        self, tiny: Make, work: Path, alone: tuple[float, float]
    ) -> None:
        pytest.importorskip("ray")
        storage = f"launch.storage={work / 'storage'}"
        outcome = run_plan(tiny(*TWO, "launch=ray", storage, "name=stored"), quiet=True)

        assert losses(outcome) == pytest.approx(alone, abs=CLOSE)
        kept = next((work / "storage").glob("*/finished"))
        assert (kept / "manifest.json").is_file()
        assert list((kept / "checkpoints").glob("checkpoint-*/checkpoint.json"))


class TestARankThatDies:
    def test_an_exception_ends_the_others_and_is_shown(
        self, faulty: Make, capfd: pytest.CaptureFixture[str]
    ) -> None:
        outcome = run_plan(faulty("raise", "launch=torchrun", "name=raises"))
        told = capfd.readouterr().err

        assert (outcome.exit_code, outcome.status) == (1, Status.FAILED)
        assert outcome.diagnostic
        assert outcome.diagnostic.message == "rank 1: ValueError: planted fault"
        assert "rank 1 on " in told
        assert "planted fault" in told
        first, last = died(outcome.folder, 1), died(outcome.folder, 0)
        assert 0 <= last - first < 15, "seconds between the first death and the last"

    def test_a_killed_one_is_named(self, faulty: Make) -> None:
        outcome = run_plan(faulty("kill", "launch=torchrun", "name=killed"), quiet=True)

        assert outcome.diagnostic
        assert outcome.diagnostic.message == "rank 1: the worker was killed by SIGKILL"

    def test_by_hand_it_goes_on(self, faulty: Make, alone: tuple[float, float]) -> None:
        plan = faulty("kill", "launch=torchrun", "name=again")
        assert run_plan(plan, quiet=True).exit_code == 1

        assert losses(run_plan(plan, quiet=True)) == pytest.approx(alone, abs=CLOSE)

    @pytest.mark.parametrize(
        ("package", "words"),
        [
            ("torch", ("launch=torchrun", "launch.max_restarts=1")),
            ("ray", ("launch=ray", "launch.max_failures=1")),
        ],
        ids=["torchrun", "ray"],
    )
    def test_the_launcher_starts_all_again(
        self, faulty: Make, alone: tuple[float, float], package: str, words: tuple[str, ...]
    ) -> None:
        pytest.importorskip(package)
        outcome = run_plan(faulty("kill", *words, "name=restarted"), quiet=True)

        assert losses(outcome) == pytest.approx(alone, abs=CLOSE)
        run = RunFolder.open(outcome.folder)
        assert run.record().attempts == 2
        assert not list(run.path.glob("failure-rank1.json"))


class TestAnotherNumber:
    """A run goes on with more processes or fewer, as one that was never disturbed."""

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (("launch=torchrun", *TWO), ("tracking=none",)),
            (("tracking=none",), ("launch=torchrun", *TWO)),
            (
                ("launch=torchrun", *TWO, "fsdp=full_shard"),
                ("launch=torchrun", *FOUR, "fsdp=full_shard"),
            ),
        ],
        ids=["2-1", "1-2", "fsdp2-4"],
    )
    def test_it_goes_on(
        self,
        tiny: Make,
        alone: tuple[float, float],
        before: tuple[str, ...],
        after: tuple[str, ...],
    ) -> None:
        first = run_plan(tiny(*before, "name=before"), quiet=True)
        assert first.exit_code == 0, first.diagnostic
        shutil.rmtree(first.folder / "checkpoints" / "checkpoint-12")  # as if it had died there
        words = (*after, "name=after", f"checkpoint.reshard={first.folder.name}")
        outcome = run_plan(tiny(*words), quiet=True)

        assert losses(outcome) == pytest.approx(alone, abs=CLOSE)
        curve = history(RunFolder(outcome.folder).journal)
        whole = history(RunFolder(first.folder).journal)
        assert list(curve["train_loss"]) == list(whole["train_loss"])
        assert outcome.result
        told = outcome.result["resharded"]
        assert told["from"] == first.folder.name
        assert list(curve["processes"]) == [0, told["step"]]
        assert first.result
        assert outcome.result["tokens"] == first.result["tokens"], "counted on, and none twice"

    def test_mlflow_has_where_the_number_changed(self, tiny: Make, work: Path) -> None:
        mlflow = pytest.importorskip("mlflow.tracking")
        place = f"sqlite:///{work}/mlflow.db"
        two = (*TWO[1:], "launch=torchrun", f"tracking.uri={place}", "name=wide")
        first = run_plan(tiny(*two), quiet=True)
        assert first.exit_code == 0, first.diagnostic
        shutil.rmtree(first.folder / "checkpoints" / "checkpoint-12")
        words = (f"tracking.uri={place}", "name=narrow", f"checkpoint.reshard={first.folder.name}")
        second = run_plan(tiny(*words), quiet=True)
        assert second.exit_code == 0, second.diagnostic

        client = mlflow.MlflowClient(place)
        known = [RunFolder(one.folder).read_json("mlflow.json") or {} for one in (first, second)]
        wide, narrow = (client.get_run(one["run_id"]) for one in known)
        told = {k: v for k, v in narrow.data.tags.items() if k.startswith("llmforge.resharded.")}
        assert told == {
            "llmforge.resharded.from": first.folder.name,
            "llmforge.resharded.step": "8",
            "llmforge.resharded.processes": "[2, 1]",
        }
        assert not [name for name in wide.data.tags if name.startswith("llmforge.resharded.")]

        def points(run: Any, name: str) -> list[tuple[int, float]]:
            found = client.get_metric_history(run.info.run_id, name)
            return sorted((point.step, point.value) for point in found)

        assert points(narrow, "processes") == [(0, 2.0), (8, 1.0)]
        before, after = points(wide, "train_loss"), points(narrow, "train_loss")
        assert [step for step, _ in after] == [step for step, _ in before], "one curve, no gap"
        assert after[:4] == before[:4], "up to step 8 they are the other run's"


class TestStopping:
    def test_control_c_and_on_by_the_same_command(self, tiny: Make) -> None:
        long = ("trainer.max_steps=60", "checkpoint.every=30", "evaluation.every=30")
        undisturbed = run_plan(tiny(*TWO, *long, "launch=torchrun", "name=whole"), quiet=True)
        plan = tiny(*TWO, *long, "launch=torchrun", "name=broken")
        driver = started(plan)
        after_step(plan, 4)
        driver.send_signal(signal.SIGINT)

        assert driver.wait(120) == 130
        run = RunFolder.open(plan.run_folder)
        assert run.status() is Status.INTERRUPTED
        assert "SIGINT" in (run.record().reason or "")
        stopped_at = run.checkpoints()[0].step
        assert 0 < stopped_at < 60
        assert losses(run_plan(plan, quiet=True)) == losses(undisturbed), "bit for bit"

    def test_ray_saves_before_it_ends(self, tiny: Make) -> None:
        pytest.importorskip("ray")
        plan = tiny(*TWO, "trainer.max_steps=400", "launch=ray", "name=rayed")
        driver = started(plan)
        after_step(plan, 4)
        driver.send_signal(signal.SIGTERM)

        assert driver.wait(180) == 130
        run = RunFolder.open(plan.run_folder)
        assert run.status() is Status.INTERRUPTED
        assert run.checkpoints()

    def test_a_warned_job_saves_and_is_queued_again(self, tiny: Make) -> None:
        pytest.importorskip("submitit")
        words = ("launch=slurm", "launch.executor=local", "launch.minutes=10")
        plan = tiny(*TWO, "trainer.max_steps=60", "checkpoint.every=30", *words, "name=queued")
        driver = started(plan)
        after_step(plan, 4)
        record = RunFolder.open(plan.run_folder).read_json("slurm.json") or {}
        # as Slurm does: to the tasks of the job, and to nobody else
        told = Path(f"/proc/{record['job']}/task/{record['job']}/children").read_text()
        for task in told.split():
            os.kill(int(task), signal.SIGUSR2)

        assert driver.wait(240) == 0
        run = RunFolder.open(plan.run_folder)
        assert run.status() is Status.FINISHED
        assert run.record().attempts == 2


def started(plan: Plan) -> subprocess.Popen[bytes]:
    """A driver of its own for the plan."""
    file = plan.save(Path(f"{plan.name}-{plan.settings['launch'].get('node_rank') or 0}.json"))
    command = [sys.executable, "-m", "llmforge", "train", "--plan", str(file)]
    return subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": ROOT},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def after_step(plan: Plan, step: int) -> None:
    """Wait until the journal has a loss of this step or a later one."""
    journal = RunFolder(plan.run_folder).journal
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if journal.is_file() and max(history(journal).get("train_loss", {0: 0.0})) >= step:
            return
        time.sleep(0.1)
    pytest.fail("it never got there")


def died(folder: Path, rank: int) -> float:
    told: dict[str, Any] = json.loads((folder / f"failure-rank{rank}.json").read_text())
    return float(told["time"])
