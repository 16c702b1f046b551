"""A launcher that cannot reach what it needs is refused before anything is started."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmforge.diagnostics import ConfigRefused, Diagnostic
from llmforge.plan import Plan
from llmforge.run.folder import RunFolder
from llmforge.run.preflight import check_here
from llmforge.run.starting.commands import free_port
from llmforge.run.starting.reach_launch import check_launch, ssh_address

Make = Callable[..., Plan]
TWO = ("tracking=none", "launch.processes=2", "trainer.accumulation=1")


def refused(plan: Plan) -> list[Diagnostic]:
    with pytest.raises(ConfigRefused) as caught:
        check_launch(plan)
    return list(caught.value.diagnostics)


@pytest.fixture
def listening() -> Iterator[int]:
    """A port that somebody listens at."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_port_in_use(tiny: Make, listening: int) -> None:
    place = f"launch.rendezvous=127.0.0.1:{listening}"
    [found] = refused(tiny(*TWO, "launch=torchrun", place))

    assert found.code == "LF460"
    assert str(listening) in found.message
    assert found.hint
    check_launch(tiny(*TWO, "launch=torchrun", found.hint))


def test_a_meeting_point_by_ipv6(tiny: Make) -> None:
    with socket.socket(socket.AF_INET6) as server:
        server.bind(("::1", 0))
        port = server.getsockname()[1]
    check_launch(tiny(*TWO, "launch=torchrun", f'launch.rendezvous="[::1]:{port}"'))


@pytest.mark.usefixtures("everything_installed")
def test_a_port_in_use_by_deepspeeds_launcher(tiny: Make, listening: int) -> None:
    [found] = refused(tiny(*TWO, "launch=deepspeed", f"launch.port={listening}"))

    assert found.code == "LF460"


def test_the_second_node_does_not_listen(tiny: Make, listening: int) -> None:
    place = (f"launch.rendezvous=127.0.0.1:{listening}", "launch.nodes=2", "launch.node_rank=1")

    check_launch(tiny(*TWO, "launch=torchrun", *place))


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("launch.node_rank=0",), "launch.rendezvous"),
        (("launch.rendezvous=127.0.0.1:29999",), "launch.node_rank"),
    ],
)
def test_nodes_that_cannot_meet(tiny: Make, words: tuple[str, ...], key: str) -> None:
    [found] = refused(tiny(*TWO, "launch=torchrun", "launch.nodes=2", *words))

    assert (found.code, found.key) == ("LF453", key)


def test_a_meeting_point_that_does_not_exist(tiny: Make) -> None:
    place = ("launch.nodes=2", "launch.node_rank=0", "launch.rendezvous=no-such-host.invalid:29500")
    [found] = refused(tiny(*TWO, "launch=torchrun", *place))

    assert found.code == "LF462"


@pytest.mark.usefixtures("everything_installed")
def test_a_host_of_the_hostfile_that_does_not_exist(
    tiny: Make, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "llmforge.run.starting.reach_launch.shutil.which", lambda _: "/usr/bin/pdsh"
    )
    hosts = work / "hosts.txt"
    hosts.write_text("127.0.0.1 slots=1\nno-such-host.invalid slots=1\n", encoding="utf-8")
    with socket.socket() as server:  # in place of an SSH server
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        words = (f"launch.hostfile={hosts}", f"launch.ssh_port={port}")
        [found] = refused(tiny(*TWO, "launch=deepspeed", *words))

    assert found.code == "LF462"
    assert "no-such-host.invalid" in found.message


@pytest.fixture
def ssh_config(work: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`ssh_config("Host ...")`: the configuration of the installed ssh."""
    real = shutil.which("ssh")
    if real is None:
        pytest.skip("there is no ssh here")

    def write(text: str) -> None:
        config, program = work / "ssh.conf", work / "programs" / "ssh"
        config.write_text(text, encoding="utf-8")
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {real} -F {config} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    return write


@pytest.mark.usefixtures("everything_installed")
def test_a_host_that_ssh_knows_by_an_alias(
    tiny: Make,
    work: Path,
    listening: int,
    ssh_config: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "llmforge.run.starting.reach_launch.shutil.which", lambda _: "/usr/bin/pdsh"
    )
    hosts = work / "hosts.txt"
    hosts.write_text("node-a slots=1\nnode-b slots=1\n", encoding="utf-8")
    plan = tiny(*TWO, "launch=deepspeed", f"launch.hostfile={hosts}")
    ssh_config(
        f"Host node-a\n HostName 127.0.0.1\n Port {listening}\n"
        f"Host node-b\n HostName 127.0.0.1\n Port {free_port()}\n"
    )
    [found] = refused(plan)

    assert (found.code, found.message.split()[0]) == ("LF462", "node-b")
    assert "127.0.0.1, as SSH knows it" in found.notes[0]


def test_where_ssh_would_connect_to(ssh_config: Callable[[str], None]) -> None:
    ssh_config("Host far\n ProxyJump gate\nHost near\n HostName 10.1.2.3\n Port 2222\n")

    assert ssh_address("near", None) == ("10.1.2.3", 2222)
    assert ssh_address("me@near", 2200) == ("10.1.2.3", 2200)
    assert ssh_address("other", None) == ("other", 22)
    assert ssh_address("far", None) == (None, 22), "nobody here can ask it"


def test_without_ssh_a_name_stands_for_itself(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(work))

    assert ssh_address("me@near", None) == ("near", 22)


@pytest.mark.usefixtures("everything_installed")
def test_no_ray_at_the_address(tiny: Make) -> None:
    [found] = refused(tiny(*TWO, "launch=ray", f"launch.address=127.0.0.1:{free_port()}"))

    assert found.code == "LF461"
    assert found.hint == "launch.address=null"


@pytest.mark.usefixtures("everything_installed")
def test_a_ray_address_that_answers(tiny: Make, listening: int) -> None:
    check_launch(tiny(*TWO, "launch=ray", f"launch.address=ray://127.0.0.1:{listening}"))


def test_no_slurm_here(tiny: Make, monkeypatch: pytest.MonkeyPatch, work: Path) -> None:
    monkeypatch.setenv("PATH", str(work))
    [found] = refused(tiny(*TWO, "launch=slurm"))

    assert (found.code, found.hint) == ("LF465", "launch.executor=local")


def test_a_job_that_is_queued_already(
    tiny: Make, monkeypatch: pytest.MonkeyPatch, work: Path
) -> None:
    programs = work / "programs"
    programs.mkdir()
    for name, says in (("sbatch", ""), ("squeue", "4711 gpu tiny R")):
        (programs / name).write_text(f"#!{sys.executable}\nprint({says!r})\n", encoding="utf-8")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    plan = tiny(*TWO, "launch=slurm")
    check_launch(plan)
    run = RunFolder.create(plan)
    (run.path / "slurm.json").write_text(json.dumps({"job": "4711", "executor": "slurm"}))

    [found] = refused(plan)

    assert (found.code, found.hint) == ("LF467", "scancel 4711")


def test_hardware_of_other_machines_is_not_looked_for_here(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "llmforge.run.starting.reach_launch.shutil.which", lambda _: "/usr/bin/sbatch"
    )
    gpus = ("hardware.device=cuda", "hardware.count=2", "hardware.name=GPU")
    check_here(tiny(*TWO, *gpus, "launch=slurm"))
    with pytest.raises(ConfigRefused) as caught:
        check_here(tiny(*TWO, *gpus, "launch=torchrun"))
    assert caught.value.diagnostics[0].code == "LF408"
