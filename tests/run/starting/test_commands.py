"""What the driver starts for each kind of launch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmforge.plan import Plan
from llmforge.run.environment import worker_environment
from llmforge.run.starting import commands, slurm

FOLDER = Path("/runs/x")
TWO = ("tracking=none", "launch.processes=2", "trainer.accumulation=1")
Make = Callable[..., Plan]


def value(command: list[str], flag: str) -> str:
    return command[command.index(flag) + 1]


def test_one_process(plan: Plan) -> None:
    command = commands.local_command(plan, FOLDER, "train")

    assert command[1:] == ["-m", "llmforge.run.worker", "/runs/x", "--stage", "train"]


def test_torchrun_on_one_node_meets_at_a_free_port(tiny: Make) -> None:
    command = commands.torchrun_command(tiny(*TWO, "launch=torchrun"), FOLDER, "train")

    assert command[1:3] == ["-m", "llmforge.run.starting.torchrun"]
    assert value(command, "--nproc-per-node") == "2"
    assert value(command, "--rdzv-backend") == "c10d"
    assert value(command, "--rdzv-endpoint").startswith("127.0.0.1:")
    assert value(command, "--max-restarts") == "0"


def test_torchrun_on_the_second_of_two_nodes(tiny: Make) -> None:
    nodes = ("launch.nodes=2", "launch.node_rank=1", "launch.rendezvous=node-a:29500")
    plan = tiny(*TWO, "launch=torchrun", *nodes)
    command = commands.torchrun_command(plan, FOLDER, "train")

    assert value(command, "--nproc-per-node") == "1"
    assert (value(command, "--nnodes"), value(command, "--node-rank")) == ("2", "1")
    assert (value(command, "--master-addr"), value(command, "--master-port")) == ("node-a", "29500")
    assert value(command, "--plan") == "/runs/x/plan.node1.json"
    assert value(command, "--rdzv-id") == plan.run_id, "the same on both nodes"


def test_nodes_that_may_come_back_meet_dynamically(tiny: Make) -> None:
    nodes = ("launch.nodes=2", "launch.node_rank=1", "launch.rendezvous=node-a:29500")
    plan = tiny(*TWO, "launch=torchrun", *nodes, "launch.max_restarts=3")
    command = commands.torchrun_command(plan, FOLDER, "train")

    assert value(command, "--rdzv-backend") == "c10d"
    assert "is_host=false" in value(command, "--rdzv-conf")
    assert value(command, "--max-restarts") == "3"


@pytest.mark.usefixtures("everything_installed")
def test_deepspeeds_launcher_here_and_on_hosts(tiny: Make, work: Path) -> None:
    here = commands.deepspeed_command(tiny(*TWO, "launch=deepspeed"), FOLDER, "train")
    assert here[3:5] == ["--here", "2"]

    hosts = work / "hosts.txt"
    hosts.write_text("node-a slots=4\nnode-b slots=4\n", encoding="utf-8")
    plan = tiny(*TWO, "launch=deepspeed", f"launch.hostfile={hosts}", "launch.ssh_port=2222")
    command = commands.deepspeed_command(plan, FOLDER, "train")
    assert plan.settings["launch"]["nodes"] == 2
    assert (value(command, "--num_nodes"), value(command, "--num_gpus")) == ("2", "1")
    assert value(command, "--hostfile") == str(hosts)
    assert value(command, "--ssh_port") == "2222"


@pytest.mark.parametrize(
    ("rendezvous", "meets"),
    [("node-a:29500", ("node-a", 29500)), ("[fe80::1]:29500", ("fe80::1", 29500))],
)
def test_meeting_points(rendezvous: str, meets: tuple[str, int]) -> None:
    assert commands.meeting_point(rendezvous) == meets


@pytest.mark.usefixtures("everything_installed")
def test_threads_are_those_of_a_process_on_its_node(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("llmforge.run.environment.cores", lambda: 8)
    open_threads = (*TWO, "launch.threads=0")
    nodes = ("launch.nodes=2", "launch.node_rank=1", "launch.rendezvous=node-a:29500")

    def threads(*words: str) -> str:
        return worker_environment(tiny(*open_threads, *words), 1)["OMP_NUM_THREADS"]

    assert threads("launch=torchrun") == "4"
    assert threads("launch=torchrun", *nodes) == "8", "one process on each node"
    assert threads("launch=ray", "launch.cpus=3") == "3", "what the worker claims of its node"


def test_a_job_script_says_what_slurm_is_asked_for(tiny: Make) -> None:
    pytest.importorskip("submitit")
    words = ("launch.partition=gpu", "launch.account=me", "launch.minutes=720", "launch.cpus=16")
    more = ("launch.setup=[module load cuda]", "launch.parameters={reservation: mine}")
    lines = slurm.script(tiny(*TWO, "launch=slurm", *words, *more)).splitlines()

    for asked in ("partition=gpu", "account=me", "time=720", "cpus-per-task=16", "requeue",
                  "reservation=mine", "nodes=1", "ntasks-per-node=1"):  # fmt: skip
        assert f"#SBATCH --{asked}" in lines
    assert any(line.startswith("#SBATCH --signal=USR2@") for line in lines)
    assert lines.index("module load cuda") < lines.index("# command")
