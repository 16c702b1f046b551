"""A real PostgreSQL for tests: a cluster of one's own, on a free port of the loopback, gone after.

Not a test module: tests load it by path (folders of tests are no packages) and use `cluster()`.
PostgreSQL refuses to run as root, so as root it runs as `postgres` or `nobody`.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

USER = "tester"
PASSWORD = "s3cret/with:odd@letters"


@dataclass(frozen=True)
class Cluster:
    """A running server with an empty database `postgres`."""

    folder: Path
    port: int

    @property
    def socket_url(self) -> str:
        """By the socket in its folder: trusted, without a password."""
        return f"postgresql+psycopg://{USER}@/postgres?host={self.folder}&port={self.port}"

    def tcp_url(self, password: str) -> str:
        """By the loopback: asks for the password; `password` is written as a URL needs it."""
        return f"postgresql+psycopg://{USER}:{password}@127.0.0.1:{self.port}/postgres"


def binary(name: str) -> str | None:
    """Path of a program of the server: on PATH, or where Debian keeps the newest one."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    return shutil.which(name) or (str(debian[0]) if debian else None)


def why_not() -> str | None:
    """Why there can be no server here; None when there can."""
    missing = [name for name in ("initdb", "pg_ctl") if binary(name) is None]
    if missing:
        return f"PostgreSQL's {' and '.join(missing)} not found: apt-get install postgresql"
    if importlib.util.find_spec("psycopg") is None:
        return "the driver is not installed: pip install 'llmforge[sql]'"
    if os.geteuid() == 0 and _as_whom() is None:
        return "PostgreSQL does not run as root, and there is no other user here"
    return None


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Make, start, hand over, stop, remove."""
    # a short path of its own: the name of a socket may have no more than 107 bytes
    folder = Path(tempfile.mkdtemp(prefix="llmforge-pg-", dir="/tmp"))
    try:
        if os.geteuid() == 0:
            who = pwd.getpwnam(_as_whom() or "")
            os.chown(folder, who.pw_uid, who.pw_gid)
        secret = folder / "password"
        secret.write_text(PASSWORD, encoding="utf-8")
        secret.chmod(0o644)
        data = str(folder / "data")
        _run("initdb", "-D", data, "-U", USER, "-E", "UTF8", "--locale=C", "--no-sync",
             "--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={secret}")  # fmt: skip
        port = _free_port()
        options = f"-k {folder} -p {port} -c listen_addresses=127.0.0.1 -c fsync=off"
        log = str(folder / "log.txt")
        _run("pg_ctl", "-D", data, "-w", "-t", "60", "-l", log, "-o", options, "start")
        try:
            yield Cluster(folder, port)
        finally:
            _run("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _as_whom() -> str | None:
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in known), None)


def _run(name: str, *arguments: str) -> None:
    options: dict[str, Any] = {}
    if os.geteuid() == 0:
        who = pwd.getpwnam(_as_whom() or "")
        options = {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}
    done = subprocess.run(
        [str(binary(name)), *arguments],
        cwd="/tmp",
        # a file and not a pipe: the server inherits it and would keep a pipe open for ever
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        check=False,
        **options,
    )
    if done.returncode:
        raise RuntimeError(f"{name} {' '.join(arguments)} ended with {done.returncode}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
