"""Addresses of tracking stores: made absolute, made public, locked.

In: a tracking URI. Out: what `record.py` and `ui.py` need to know of it. Imports no MLflow.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def is_server(uri: str) -> bool:
    """Is the address that of a running server?"""
    return uri.startswith(("http://", "https://"))


def absolute_uri(uri: str) -> str:
    """A relative SQLite path becomes absolute: processes may have other working folders."""
    prefix = "sqlite:///"
    if not uri.startswith(prefix) or uri.removeprefix(prefix).startswith(("/", ":")):
        return uri
    return f"{prefix}{Path(uri.removeprefix(prefix)).absolute()}"


def artifact_location(uri: str, experiment: str) -> str | None:
    """Where a new experiment keeps files: beside a local database; a server decides itself."""
    if is_server(uri):
        return None
    file = uri.removeprefix("sqlite:///")
    base = Path(file).parent if file != uri and file.startswith("/") else Path.cwd()
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in experiment)
    return (base / "mlartifacts" / safe).as_uri()


def public(uri: str) -> str:
    """The address without user name and password."""
    scheme, mark, rest = uri.partition("://")
    place, slash, path = rest.partition("/")
    return f"{scheme}{mark}{place.rpartition('@')[2]}{slash}{path}"


@contextmanager
def one_at_a_time(uri: str) -> Iterator[None]:
    """Two processes that create the tables of one new database at once would both fail."""
    if is_server(uri):
        yield
        return
    digest = hashlib.sha256(uri.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"llmforge-{os.getuid()}-{digest}.lock"
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
