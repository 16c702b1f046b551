"""How many processes, where, and what `num_gpus` alone is enough for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmforge import compile as compile_plan
from llmforge.compiler.derive.launching import read_hosts
from llmforge.compiler.facts.versions import PACKAGES
from llmforge.plan import Plan

EIGHT = ("hardware=h200", "hardware.count=8")


@pytest.fixture
def launch(work: Path, everything_installed: dict[str, str]) -> Callable[..., dict]:
    """Section `launch` of a plan."""
    assert set(PACKAGES) <= set(everything_installed)
    return lambda *words: compile_plan(words).settings["launch"]


def test_num_gpus_alone_is_torchrun(work: Path) -> None:
    plan = compile_plan([*EIGHT, "num_gpus=2"])
    launch = plan.settings["launch"]

    assert (launch["kind"], launch["processes"], launch["nodes"]) == ("torchrun", 2, 1)
    chain = plan.origins.chain("launch.kind")
    assert chain[-1].reads == ("num_gpus",)
    assert "num_gpus=2" in chain[-1].reason
    assert plan.estimate["steps"] == compile_plan([*EIGHT]).estimate["steps"]


def test_what_was_said_of_the_launch_is_kept(launch: Callable[..., dict]) -> None:
    assert launch(*EIGHT, "num_gpus=2", "launch.threads=3")["threads"] == 3


def test_one_gpu_is_one_process(launch: Callable[..., dict]) -> None:
    assert launch(*EIGHT, "num_gpus=1")["kind"] == "local"


@pytest.mark.parametrize("kind", ["torchrun", "deepspeed", "ray", "slurm"])
def test_every_launcher_takes_num_gpus(launch: Callable[..., dict], kind: str) -> None:
    assert launch(*EIGHT, "num_gpus=4", f"launch={kind}")["processes"] == 4


def test_processes_of_all_nodes(launch: Callable[..., dict]) -> None:
    two = ("launch=torchrun", "launch.nodes=2")
    assert launch(*EIGHT, *two)["processes"] == 16
    assert launch(*EIGHT, *two, "num_gpus=4")["processes"] == 8


def test_a_plan_for_two_nodes_counts_all_of_their_processes(work: Path) -> None:
    plan: Plan = compile_plan([*EIGHT, "launch=torchrun", "launch.nodes=2"])
    trainer = plan.settings["trainer"]

    assert trainer["micro_batch"] * trainer["accumulation"] * 16 == trainer["global_batch"]
    alone = compile_plan(["hardware=h200"])
    assert plan.estimate["steps"] == alone.estimate["steps"]


def test_nodes_of_a_hostfile(launch: Callable[..., dict], work: Path) -> None:
    (work / "hosts.txt").write_text("# ours\na slots=8\n\nb slots=8 # new\n", encoding="utf-8")
    found = launch(*EIGHT, "launch=deepspeed", "launch.hostfile=hosts.txt")

    assert (found["nodes"], found["processes"]) == (2, 16)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a slots=8\na slots=8\n", "names a a second time"),
        ("a 8\n", "is not `host slots=N`"),
        ("# nobody\n", "names no host"),
        ("a slots=0\nb slots=8\n", "gives a no slot"),
    ],
)
def test_hostfiles_that_cannot_be_used(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "hosts.txt").write_text(text, encoding="utf-8")

    assert fault in (read_hosts(str(tmp_path / "hosts.txt")).fault or "")


def test_rank_0_is_on_node_0_unless_nodes_may_come_back(launch: Callable[..., dict]) -> None:
    two = (*EIGHT, "launch=torchrun", "launch.nodes=2")
    assert launch(*two)["rendezvous_backend"] == "static"
    assert launch(*two, "launch.max_restarts=1")["rendezvous_backend"] == "c10d"


def test_what_workers_claim_of_their_nodes(launch: Callable[..., dict]) -> None:
    assert launch(*EIGHT, "launch=ray")["gpus"] == 1
    assert launch("hardware=cpu", "launch=ray", "launch.processes=2")["gpus"] == 0
    whole = launch(*EIGHT, "launch=slurm")["cpus"]
    assert launch(*EIGHT, "launch=slurm", "num_gpus=2")["cpus"] == max(1, whole // 4)


def test_the_launcher_is_no_part_of_the_fingerprint(work: Path) -> None:
    plans = [compile_plan([*EIGHT, "num_gpus=2", *more]) for more in ((), ("launch=torchrun",))]
    assert plans[0].run_id == plans[1].run_id
    assert plans[0].run_id != compile_plan(EIGHT).run_id, "the number of processes is"
