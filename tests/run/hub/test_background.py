"""Uploads beside a training: nothing waits for them, and the newest checkpoint wins."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from llmforge.plan import Plan
from llmforge.run.folder import RunFolder
from llmforge.run.hub import BackgroundPush, order_of
from llmforge.run.hub.record import entries

if TYPE_CHECKING:
    from stand_in_hub import StandIn

PUSH = ("tracking=none", "hub=push", "hub.repository=me/model", "hub.wait=0.01")


class Training:
    """What a training does to its run folder, without the training."""

    def __init__(self, plan: Plan) -> None:
        self.run = RunFolder.create(plan)
        self.said: list[str] = []
        order = order_of(plan)
        assert order is not None
        self.push = BackgroundPush(plan, self.run, order, self.said.append)

    def save(self, step: int) -> Path:
        folder = self.run.checkpoint_folder / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        save_file({"step": torch.full((1000,), step)}, folder / "model.safetensors")
        (folder / "config.json").write_text("{}", encoding="utf-8")
        self.push.saved(step)
        return folder


@pytest.fixture
def training(tiny: Callable[..., Plan], hub: StandIn) -> Iterator[Training]:
    found = Training(tiny(*PUSH, "hub.when=every_save"))
    yield found
    found.push.close(10)


def wait_for(ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not ready():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def test_a_checkpoint_that_is_pruned_meanwhile_arrives_whole(
    training: Training, hub: StandIn
) -> None:
    hub.trouble("POST", "/preupload/", 0.5)  # slow: the content is read afterwards
    folder = training.save(4)
    content = (folder / "model.safetensors").read_bytes()
    shutil.rmtree(folder)

    wait_for(lambda: entries(training.run))

    assert entries(training.run)[0]["error"] is None
    assert hub.files("me/model")["model.safetensors"] == content
    assert training.said[0].startswith("checkpoint-4 is on the hub: me/model@")


def test_a_save_does_not_wait_and_a_newer_one_takes_the_place_of_one_that_does(
    training: Training, hub: StandIn
) -> None:
    go_on = threading.Event()
    hub.trouble("POST", "/api/repos/create", go_on)
    training.save(4)
    wait_for(lambda: hub.asked)
    for step in (8, 12, 16):
        training.save(step)
    assert entries(training.run) == [], "all are saved, and the first is still on its way"
    go_on.set()

    wait_for(lambda: len(entries(training.run)) == 2)

    assert [entry["source"] for entry in entries(training.run)] == [
        *("checkpoint-4", "checkpoint-16"),
    ]
    assert list((training.run.path / ".push").iterdir()) == []


def test_the_same_failure_is_told_once(training: Training, hub: StandIn) -> None:
    hub.users.clear()
    for step in (4, 8):
        training.save(step)
        wait_for(lambda count=step // 4: len(entries(training.run)) == count)

    assert training.push.close(10)
    assert [found.code for found in training.push.warnings] == ["LF920"]
    assert len(training.run.record().warnings) == 1


def test_closing_gives_up_after_its_patience(training: Training, hub: StandIn) -> None:
    go_on = threading.Event()
    hub.trouble("POST", "/api/repos/create", go_on)
    training.save(4)
    wait_for(lambda: hub.asked)
    training.save(8)

    assert not training.push.close(0.05)
    go_on.set()
    assert training.push.close(30)
    assert [entry["source"] for entry in entries(training.run)] == ["checkpoint-4"]


def test_a_checkpoint_that_cannot_be_read_is_a_warning(training: Training) -> None:
    training.run.path.joinpath(".push").write_text("in the way", encoding="utf-8")
    training.save(4)
    assert [found.code for found in training.push.warnings] == ["LF901"]
    assert threading.active_count() < 50
    training.run.path.joinpath(".push").unlink()
