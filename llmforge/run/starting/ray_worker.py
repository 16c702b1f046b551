"""What runs inside a Ray worker: it starts our ordinary worker and looks after it.

In: the plan as text, the run folder's path, variables, and an actor (`Link`) on the driver's side.
Out: the worker's end; a rank that failed raises, upon which Ray ends the others and, as often as
`launch.max_failures` says, starts all of them again. With `launch.storage`, every sealed checkpoint
and the finished folder are reported to Ray, which keeps them there.

The worker is a process of its own, as under every other launcher: signals, logs and exit codes are
the same, and what it does to the device ends with it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from llmforge.plan import Plan
from llmforge.run import environment, processes
from llmforge.run.folder import RunFolder
from llmforge.run.starting.commands import worker_arguments
from llmforge.run.starting.ranks import RESTART
from llmforge.run.starting.ray_storage import bring_back, send

_TICK = 1.0
"""Seconds between two agreements of the ranks on whether to stop."""


class NoRunFolder(RuntimeError):
    """A node that does not see the driver's run folder, and no storage to bring it there."""


class RankFailed(RuntimeError):
    """The worker of this rank ended with a failure; its log says which."""


class Link:
    """An actor: what rank 0 says goes to the driver, and a stop comes from it."""

    def __init__(self) -> None:
        self._said: list[tuple[str, str]] = []
        self._reason: str | None = None
        self._starts = 0

    def say(self, stream: str, text: str) -> None:
        """Keep what was written to `out` or `err`."""
        self._said.append((stream, text))

    def take(self) -> list[tuple[str, str]]:
        """Everything said since the last time."""
        said, self._said = self._said, []
        return said

    def stop(self, reason: str) -> None:
        """Ask for a stop."""
        self._reason = reason

    def asked(self) -> str | None:
        """Why to stop, if somebody asked."""
        return self._reason

    def start(self) -> int:
        """How often the ranks were started before."""
        self._starts += 1
        return self._starts - 1


def shared_devices() -> Any:
    """Ray's settings under which each worker sees all GPUs of its node, numbered by local rank."""
    from ray.train.backend import Backend, BackendConfig

    class Shared(Backend):  # type: ignore[misc]
        share_cuda_visible_devices = True

    class SharedConfig(BackendConfig):  # type: ignore[misc]
        @property
        def backend_cls(self) -> type[Shared]:
            return Shared

    return SharedConfig()


def train_loop(config: Mapping[str, Any]) -> None:
    """One rank. Called by Ray, in each of its workers."""
    import ray
    from ray import train
    from ray.train.collective import broadcast_from_rank_zero

    context = train.get_context()
    rank, link = context.get_world_rank(), config["link"]
    folder = Path(config["folder"])
    if Path(config["cwd"]).is_dir():
        os.chdir(config["cwd"])  # relative paths of the plan are the driver's
    apart = config["storage"] is not None
    if not (folder / config["token"]).exists():
        if not apart:
            raise NoRunFolder(
                f"{socket.gethostname()} does not see {folder}: put `paths.runs` on a disk that "
                "all nodes share, or give `launch.storage`"
            )
        bring_back(train.get_checkpoint(), Plan.from_dict(_json(config["plan"])), folder)
    meeting = None
    if rank == 0:
        starts = ray.get(link.start.remote())
        meeting = {"host": ray.util.get_node_ip_address(), "port": _free_port(), "starts": starts}
    meeting = broadcast_from_rank_zero(meeting)
    variables = {
        **os.environ,
        **config["environment"],
        **{name: os.environ[name] for name in ("CUDA_VISIBLE_DEVICES",) if name in os.environ},
        "RANK": str(rank),
        "LOCAL_RANK": str(context.get_local_rank()),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
        "MASTER_ADDR": str(meeting["host"]),
        "MASTER_PORT": str(meeting["port"]),
        RESTART: str(meeting["starts"]),
        environment.DRIVER_PID: str(os.getpid()),
        environment.APART: "1" if apart else "",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", *worker_arguments(folder, config["stage"])],
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
        stderr=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
        preexec_fn=processes.die_with_parent,
    )
    pipes = _pass_on(process, link) if rank == 0 else []
    code = _look_after(process, rank, RunFolder(folder), config)
    for pipe in pipes:
        pipe.join(10)
    if code not in (0, 130):
        raise RankFailed(f"rank {rank} on {socket.gethostname()} ended with exit code {code}")
    if apart:
        send(folder if rank == 0 else None, None)


def _look_after(
    process: subprocess.Popen[bytes], rank: int, run: RunFolder, config: Mapping[str, Any]
) -> int:
    """Wait for the worker; meanwhile all ranks agree, once a second, on what rank 0 heard.

    A rank whose worker failed leaves at once: the others are then ended by Ray.
    """
    import ray
    from ray.train.collective import broadcast_from_rank_zero

    stopped, sent = False, 0
    while True:
        code = process.poll()
        if code not in (None, 0, 130):
            return int(code)
        news: dict[str, Any] | None = None
        if rank == 0:
            newest = next(iter(run.checkpoints()), None) if config["storage"] else None
            news = {
                "over": code is not None,
                "stop": ray.get(config["link"].asked.remote()),
                "step": newest.step if newest else 0,
            }
        news = broadcast_from_rank_zero(news)
        assert news is not None  # noqa: S101 - rank 0 gave it
        if news["stop"] and not stopped:
            stopped = True
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        if news["over"]:
            return process.wait()
        if config["storage"] and news["step"] > sent:
            sent = news["step"]
            send(run.path if rank == 0 else None, sent)
        time.sleep(_TICK)


def _pass_on(process: subprocess.Popen[bytes], link: Any) -> list[threading.Thread]:
    """What the worker writes goes to the driver, piece by piece."""

    def follow(stream: str, pipe: IO[bytes]) -> None:
        for line in iter(pipe.readline, b""):
            link.say.remote(stream, line.decode(errors="replace"))

    made = []
    for name, pipe in (("out", process.stdout), ("err", process.stderr)):
        assert pipe is not None  # noqa: S101 - both were asked for
        made.append(threading.Thread(target=follow, args=(name, pipe), daemon=True))
        made[-1].start()
    return made


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _json(text: str) -> dict[str, Any]:
    import json

    found: dict[str, Any] = json.loads(text)
    return found
