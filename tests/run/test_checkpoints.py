"""Checkpoints appear whole, old ones go last, and what a kill leaves behind is cleared away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmforge.plan import Plan
from llmforge.run import checkpoints, sealing
from llmforge.run.checkpoints import Keeper


@pytest.fixture
def save(plan: Plan, tmp_path: Path) -> Callable[..., Path]:
    """`save(7)`: what a trainer does at step 7, without a trainer."""

    def write(step: int, best: int | None = None) -> Path:
        keeper = Keeper(tmp_path, plan)
        keeper.begin(step)
        folder = keeper.staging(step) / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(bytes(step))
        keeper.finish(step, best)
        return keeper.final(step)

    return write


def steps(folder: Path) -> list[int]:
    return [found.step for found in checkpoints.scan(folder) if not found.fault]


def test_newest_first_by_number_not_by_name(save, tmp_path: Path) -> None:
    for step in (900, 1000):
        save(step)
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "broken-checkpoint-5").mkdir()
    assert [found.step for found in checkpoints.scan(tmp_path)] == [1000, 900]


def test_no_folder_no_checkpoints(tmp_path: Path) -> None:
    assert checkpoints.scan(tmp_path / "nowhere") == []
    checkpoints.tidy(tmp_path / "nowhere")


def test_a_checkpoint_says_whose_it_is(save, plan: Plan) -> None:
    folder = save(7, best=7)
    facts = sealing.facts(folder)
    assert (facts["step"], facts["best"]) == (7, 7)
    assert (facts["run_id"], facts["fingerprint"]) == (plan.run_id, plan.fingerprint)
    assert Plan.load(folder / checkpoints.PLAN).to_json() == plan.to_json()
    assert checkpoints.PLAN in facts["files"]


def test_the_newest_are_kept_and_the_best_and_the_last(save, plan: Plan, tmp_path: Path) -> None:
    assert plan.spec.checkpoint.keep == 2
    save(4, best=4)
    for step in (8, 12, 16):
        save(step, best=4)
    assert steps(tmp_path) == [16, 12, 4]
    save(20, best=20)
    assert steps(tmp_path) == [20, 16]


def test_pruning_never_takes_the_last(save, tmp_path: Path) -> None:
    save(4)
    save(8)
    assert checkpoints.prune(tmp_path, keep=1) == [4]
    assert checkpoints.prune(tmp_path, keep=0) == []
    assert steps(tmp_path) == [8]


def test_a_broken_checkpoint_does_not_count_as_one_of_the_kept(save, tmp_path: Path) -> None:
    save(4)
    broken = save(8)
    (broken / "model.safetensors").unlink()
    save(12)
    assert steps(tmp_path) == [12, 4]


def test_content_is_read_only_when_asked(save, tmp_path: Path) -> None:
    folder = save(7)
    (folder / "model.safetensors").write_bytes(b"1234567")
    (found,) = checkpoints.scan(tmp_path)
    assert found.fault is None
    assert checkpoints.verify(found) == "model.safetensors is damaged"


def test_a_removed_checkpoint_never_looks_whole(
    save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(7)
    (found,) = checkpoints.scan(tmp_path)

    def interrupted(_path: Path, *_options: bool, **_more: bool) -> None:
        if _path.exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.remove(found)
    assert checkpoints.scan(tmp_path) == []
    checkpoints.tidy(tmp_path)
    assert list(tmp_path.glob(".checkpoint*")) == []


def test_a_broken_one_is_set_aside_and_not_lost(save, tmp_path: Path) -> None:
    save(7)
    (found,) = checkpoints.scan(tmp_path)
    aside = checkpoints.set_aside(found)
    assert aside == tmp_path / "broken-checkpoint-7"
    assert (aside / "model.safetensors").read_bytes() == bytes(7)
    assert checkpoints.scan(tmp_path) == []


class TestAKillBetweenTwoNames:
    def test_half_written(self, save, plan: Plan, tmp_path: Path) -> None:
        save(4)
        keeper = Keeper(tmp_path, plan)
        keeper.begin(8)
        (keeper.staging(8) / "checkpoint-8").mkdir()
        assert steps(tmp_path) == [4]
        checkpoints.tidy(tmp_path)
        assert [path.name for path in tmp_path.glob("*checkpoint*")] == ["checkpoint-4"]

    def test_replaced_but_not_yet_there(self, save, tmp_path: Path) -> None:
        save(4).rename(tmp_path / ".checkpoint-4.old")
        checkpoints.tidy(tmp_path)
        assert steps(tmp_path) == [4]

    def test_replaced_and_not_yet_cleared_away(self, save, tmp_path: Path) -> None:
        save(4).rename(tmp_path / ".checkpoint-4.old")
        save(4)
        (tmp_path / ".checkpoint-4.old").mkdir()
        checkpoints.tidy(tmp_path)
        assert [path.name for path in tmp_path.glob("*checkpoint*")] == ["checkpoint-4"]


def test_a_failed_save_is_cleared_away(save, plan: Plan, tmp_path: Path) -> None:
    save(4)
    keeper = Keeper(tmp_path, plan)
    keeper.begin(8)
    keeper.abandon(8)
    assert [path.name for path in tmp_path.glob("*checkpoint*")] == ["checkpoint-4"]
