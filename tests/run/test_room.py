"""Free space is compared with what the run will write, before it writes anything."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llmforge.plan import Plan
from llmforge.run import room
from llmforge.run.failures import diagnose
from llmforge.run.folder import RunFolder
from llmforge.run.room import NoRoom, check_room


def with_disk(monkeypatch: pytest.MonkeyPatch, free: int, total: int = 10**12) -> None:
    usage = shutil._ntuple_diskusage(total, total - free, free)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _folder: usage)


@pytest.fixture
def run(plan: Plan) -> RunFolder:
    return RunFolder.create(plan)


def test_the_need_is_the_plans(plan: Plan) -> None:
    assert room.need(plan) == plan.estimate["disk"]["total_bytes"] > 0


def test_too_little_is_refused_with_both_numbers(
    plan: Plan, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_disk(monkeypatch, room.need(plan) - 1)
    with pytest.raises(
        NoRoom, match=r"the run will write [\d.]+ KiB .*[\d.]+ KiB are free"
    ) as told:
        check_room(plan, run)
    found = diagnose(told.value, plan)
    assert (found.code, found.key, found.hint) == ("LF820", "paths.runs", "checkpoint.keep=1")
    with_disk(monkeypatch, room.need(plan))
    check_room(plan, run)


def test_what_lies_there_already_needs_no_more_room(
    plan: Plan, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = run.checkpoint_folder / "checkpoint-4" / "model.safetensors"
    there.parent.mkdir(parents=True)
    there.write_bytes(bytes(room.need(plan) // 2))
    with_disk(monkeypatch, room.need(plan) // 2 + 1)
    check_room(plan, run)
    there.unlink()
    with pytest.raises(NoRoom):
        check_room(plan, run)


def test_a_file_system_that_does_not_tell_is_not_in_the_way(
    plan: Plan, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_disk(monkeypatch, 0, total=0)
    check_room(plan, run)


def test_a_run_on_a_full_disk_ends_before_its_first_step(
    tiny: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from llmforge.run.signals import StopFlag
    from llmforge.stages.train import train
    from llmforge.track.protocol import NullTracker

    plan = tiny("tracking=none")
    run = RunFolder.create(plan)
    with_disk(monkeypatch, 1000)
    with pytest.raises(NoRoom):
        train(plan, run, NullTracker(), StopFlag())
    assert not run.journal.read_bytes()
    assert not run.checkpoints()
