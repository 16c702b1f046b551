"""Launch settings that cannot be meant, beyond those of the gallery."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmforge.compiler.passes import check

QUEUED = ("launch=slurm", "launch.executor=local", "launch.wait=false", "hardware=cpu")


def told(*overrides: str) -> list[tuple[str, str | None, str | None]]:
    found = check(["hardware=cpu", *overrides]).diagnostics
    return [(d.code, d.key, d.hint) for d in found if d.code.startswith("LF45")]


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
def test_there_is_no_such_port(work: Path, port: str) -> None:
    many = ("launch=torchrun", "launch.processes=2", f"launch.rendezvous=node-a:{port}")
    assert told(*many) == [("LF453", "launch.rendezvous", "launch.rendezvous=node-a:29500")]
    assert told(*many, "launch.rendezvous=node-a:29500") == []


@pytest.mark.usefixtures("everything_installed")
def test_nobody_would_be_there_to_fuse(work: Path) -> None:
    after = ("lora=small", "fuse.after_training=true")
    assert told(*QUEUED) == []
    assert told(*QUEUED, *after) == [("LF456", "launch.wait", "launch.wait=true")]
    assert told(*QUEUED, *after, "launch.wait=true") == []
