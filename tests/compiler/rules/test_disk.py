"""LF211: the room a run needs, and the room there is where its folder will be."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llmforge.compiler.facts import space
from llmforge.compiler.passes import check
from llmforge.diagnostics import Diagnostic, Severity

OFTEN = ("trainer.epochs=null", "trainer.max_steps=1000", "checkpoint.every=1")
MIB = 2**20


@pytest.fixture
def disk(work: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`disk(free, total)`: the file system of the work folder, in MiB."""
    assert work == Path.cwd()

    def make(free: int, total: int = 10**6) -> None:
        usage = shutil._ntuple_diskusage(total * MIB, (total - free) * MIB, free * MIB)
        monkeypatch.setattr(space.shutil, "disk_usage", lambda _folder: usage)

    return make


def found(*overrides: str) -> list[Diagnostic]:
    return [one for one in check([*OFTEN, *overrides]).diagnostics if one.code == "LF211"]


def test_room_enough(disk: Callable[..., None]) -> None:
    disk(10**6)
    assert found("checkpoint.keep=2") == []


def test_too_full_now_is_a_warning(disk: Callable[..., None]) -> None:
    disk(500)
    (warning,) = found("checkpoint.keep=100")
    assert warning.severity is Severity.WARNING
    assert warning.message.endswith("the file system of paths.runs has 500.0 MiB free")
    assert warning.notes[0].startswith("final model ")
    assert ", 101 checkpoints of " in warning.notes[0]
    assert warning.hint == "checkpoint.keep=1"
    assert found("checkpoint.keep=1") == []


def test_too_small_for_ever_is_an_error(disk: Callable[..., None]) -> None:
    disk(500, total=501)
    (error,) = found("checkpoint.keep=100")
    assert error.severity is Severity.ERROR
    assert error.message.endswith("has 501.0 MiB")


def test_where_fewer_checkpoints_do_not_help_another_disk_does(disk: Callable[..., None]) -> None:
    disk(1)
    (warning,) = found("checkpoint.keep=100")
    assert warning.hint == "paths.runs=<a folder with more room>"


def test_a_plan_for_another_machine_says_nothing_of_this_disk(disk: Callable[..., None]) -> None:
    disk(1)
    assert found("hardware=cpu") == []


def test_a_file_system_that_does_not_tell(disk: Callable[..., None]) -> None:
    disk(0, total=0)
    assert found("checkpoint.keep=100") == []


def test_room_is_looked_up_where_the_folder_will_be(tmp_path: Path) -> None:
    known = space.space_of(tmp_path)
    assert known is not None
    assert 0 < known.free <= known.total
    there = space.space_of(tmp_path / "not" / "yet" / "there")
    assert there is not None
    assert there.total == known.total
