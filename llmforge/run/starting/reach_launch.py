"""Before anything is started: can the launcher of the plan reach what it needs?

In: a plan that is to run now, on this machine. Out: nothing, or a refusal: nodes that do not know
where to meet (LF453), a program that is missing (LF455), a port in use (LF460), no Ray cluster at
the address (LF461), a host that cannot be reached (LF462), no Slurm (LF465), a job of the run that
is queued already (LF467). A plan for other nodes compiles without any of it.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmforge.diagnostics import ConfigRefused, Diagnostic
from llmforge.plan import Plan
from llmforge.run.folder import RunFolder

_PATIENCE = 5.0
"""Seconds until a host that does not answer counts as unreachable."""

_SSH, _RAY, _RAY_CLIENT = 22, 6379, 10001


def check_launch(plan: Plan) -> None:
    """Refuse a plan whose processes could not be started.

    Raises:
        ConfigRefused: LF453, LF455, LF460, LF461, LF462, LF465, LF467.
    """
    check = {"torchrun": _torchrun, "deepspeed": _deepspeed, "ray": _ray, "slurm": _slurm}
    launch = plan.settings["launch"]
    if launch["kind"] in check:
        found = list(check[launch["kind"]](plan, launch))
        if found:
            raise ConfigRefused(found)


def _torchrun(plan: Plan, launch: dict[str, Any]) -> Iterator[Diagnostic]:
    nodes, rank = int(launch["nodes"]), launch["node_rank"]
    if nodes > 1 and launch["rendezvous"] == "auto":
        yield _finding(
            plan,
            "LF453",
            f"{nodes} nodes, and no place to meet",
            "launch.rendezvous",
            f"launch.rendezvous={socket.gethostname()}:29500",
            "a free port of node 0, by the name that the other nodes know it under",
        )
        return
    if nodes > 1 and rank is None:
        yield _finding(
            plan,
            "LF453",
            f"{nodes} nodes, and not said which of them this is",
            "launch.node_rank",
            "launch.node_rank=0",
            "the same command on the other nodes, with the numbers from 1",
        )
        return
    if launch["rendezvous"] == "auto":
        return
    host, _, port = launch["rendezvous"].rpartition(":")
    host = host.strip("[]")
    if _address(host) is None:
        yield _finding(
            plan,
            "LF462",
            f"no host is called {host}",
            "launch.rendezvous",
            "launch.rendezvous=auto",
        )
    elif not rank and not _is_free(host, int(port)):
        yield _taken(plan, "launch.rendezvous", host, int(port), f"launch.rendezvous={host}:")


def _deepspeed(plan: Plan, launch: dict[str, Any]) -> Iterator[Diagnostic]:
    if launch["port"] != "auto" and not _is_free("127.0.0.1", int(launch["port"])):
        yield _taken(plan, "launch.port", "127.0.0.1", int(launch["port"]), "launch.port=")
    if launch["hostfile"] is None:
        return
    from llmforge.compiler.derive.launching import read_hosts

    if shutil.which(str(launch["ssh"])) is None and launch["ssh"] == "pdsh":
        yield _finding(
            plan, "LF455", "pdsh, which reaches the hosts, is not installed", "launch.ssh",
            "apt-get install pdsh",
        )  # fmt: skip
    hosts = read_hosts(launch["hostfile"])
    if hosts.fault is not None:  # the file was there when the plan was made
        yield _finding(plan, "LF454", f"hostfile: {hosts.fault}", "launch.hostfile", None)
    for host in list(hosts.slots)[: int(launch["nodes"])]:
        name, port = ssh_address(host, launch["ssh_port"])
        why = _unreachable(name, port) if name is not None else None
        if why:
            yield _finding(
                plan,
                "LF462",
                f"{host} of {launch['hostfile']} cannot be reached: {why}",
                "launch.hostfile",
                None,
                f"asked at port {port} of "
                + ("its SSH server" if name == host else f"{name}, as SSH knows it"),
            )


def ssh_address(host: str, port: int | None) -> tuple[str | None, int]:
    """Host and port that SSH would connect to, aliases of its configuration resolved.

    Where there is no SSH that could say it, the name stands for itself. A host behind another one
    (`ProxyJump`, `ProxyCommand`) has no address that could be asked from here: None.
    """
    own = host.rpartition("@")[2], int(port or _SSH)
    asked = ["ssh", "-G", *(("-p", str(port)) if port else ()), "--", host]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=_PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError):
        return own
    said = dict(line.split(" ", 1) for line in told.stdout.splitlines() if " " in line)
    if any(said.get(name, "none") != "none" for name in ("proxyjump", "proxycommand")):
        return None, own[1]
    return said.get("hostname", own[0]), int(said.get("port", own[1]))


def _ray(plan: Plan, launch: dict[str, Any]) -> Iterator[Diagnostic]:
    address, default = launch["address"], _RAY
    if address is None:
        return
    key, hint = "launch.address", "launch.address=null"
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or _running_here()
        if address is None:
            yield _finding(plan, "LF461", "no Ray cluster runs on this machine", key, hint)
            return
    if address.startswith("ray://"):
        address, default = address.removeprefix("ray://"), _RAY_CLIENT
    host, colon, port = address.rpartition(":")
    place = (host, int(port)) if colon and port.isdigit() else (address, default)
    why = _unreachable(*place)
    if why:
        yield _finding(plan, "LF461", f"no Ray cluster answers at {address}: {why}", key, hint)


def _running_here() -> str | None:
    """The address of the cluster that was started last on this machine, as Ray keeps it."""
    for folder in (os.environ.get("RAY_TMPDIR"), "/tmp/ray", "/tmp"):  # noqa: S108 - Ray's own place
        path = Path(folder or "/nowhere") / "ray_current_cluster"
        if path.is_file():
            return path.read_text(encoding="utf-8").strip() or None
    return None


def _slurm(plan: Plan, launch: dict[str, Any]) -> Iterator[Diagnostic]:
    if launch["executor"] == "local":
        return
    if shutil.which("sbatch") is None:
        yield _finding(
            plan, "LF465", "there is no Slurm here: no program `sbatch`", "launch.executor",
            "launch.executor=local",
        )  # fmt: skip
        return
    from llmforge.run.starting.slurm import queued

    job = queued(RunFolder(plan.run_folder))
    if job is not None:
        yield _finding(
            plan, "LF467", f"job {job} runs this plan, or waits to", "launch.kind", f"scancel {job}"
        )


def _finding(
    plan: Plan, code: str, message: str, key: str, hint: str | None, *notes: str
) -> Diagnostic:
    return Diagnostic(
        code, message, key=key, origins=plan.origins.chain(key), notes=notes, hint=hint
    )


def _taken(plan: Plan, key: str, host: str, port: int, start: str) -> Diagnostic:
    with socket.socket() as probe:
        probe.bind(("", 0))
        free = probe.getsockname()[1]
    message = f"port {port} of {host} is in use"
    return _finding(plan, "LF460", message, key, f"{start}{free}")


def _address(host: str) -> str | None:
    try:
        return str(socket.getaddrinfo(host, None)[0][4][0])
    except OSError:
        return None


def _is_free(host: str, port: int) -> bool:
    """Can this machine listen there? A host that is not this one: nothing answers there yet."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            return True
        except OSError as error:
            return error.errno == errno.EADDRNOTAVAIL  # another machine's address


def _unreachable(host: str, port: int) -> str | None:
    """Why nobody answers; None when somebody does."""
    try:
        with socket.create_connection((host, port), timeout=_PATIENCE):
            return None
    except OSError as error:
        return error.strerror or str(error)
