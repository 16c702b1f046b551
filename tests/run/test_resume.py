"""From where a run goes on: the newest whole checkpoint, and only of this very run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmforge.plan import Plan
from llmforge.run import checkpoints, sealing
from llmforge.run.checkpoints import Keeper
from llmforge.run.failures import diagnose
from llmforge.run.folder import RunFolder
from llmforge.run.resume import ResumeRefused, Verdict, choose, judge


def save(plan: Plan, run: RunFolder, *steps: int) -> None:
    """What a trainer does at these steps, without a trainer."""
    for step in steps:
        keeper = Keeper(run.checkpoint_folder, plan)
        keeper.begin(step)
        folder = keeper.staging(step) / f"checkpoint-{step}"
        folder.mkdir()
        for name in ("model.safetensors", "optimizer.pt", "trainer_state.json"):
            (folder / name).write_bytes(bytes(range(100)))
        keeper.finish(step)


@pytest.fixture
def run(plan: Plan) -> RunFolder:
    return RunFolder.create(plan)


def chosen(plan: Plan, run: RunFolder) -> tuple[int | None, list[str]]:
    told: list[str] = []
    found = choose(plan, run, told.append)
    return (found.step if found else None), told


def test_nothing_to_go_on_from(plan: Plan, run: RunFolder) -> None:
    assert chosen(plan, run) == (None, [])


def test_the_newest(plan: Plan, run: RunFolder) -> None:
    save(plan, run, 4, 8)
    assert chosen(plan, run) == (8, ["going on after step 8 (checkpoint-8)"])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(bytes(data))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def drop(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(("damage", "word"), [(flip, "damaged"), (cut, "cut"), (drop, "missing")])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", checkpoints.PLAN, sealing.MANIFEST]
)
def test_the_one_before_a_broken_one(
    plan: Plan, run: RunFolder, name: str, damage: Callable[[Path], None], word: str
) -> None:
    save(plan, run, 4, 8)
    damage(run.checkpoint_folder / "checkpoint-8" / name)
    step, told = chosen(plan, run)
    assert step == 4
    passed, going_on = told
    assert passed.startswith(f"checkpoint at step 8 is passed over: {name} is ")
    assert word in passed or name == sealing.MANIFEST
    assert "kept as broken-checkpoint-8" in passed
    assert going_on == "going on after step 4 (checkpoint-4)"
    assert [found.step for found in run.checkpoints()] == [4]


def test_without_resume_nothing_is_left(tiny: Callable[..., Plan]) -> None:
    plan = tiny("tracking=none", "checkpoint.resume=false")
    run = RunFolder.create(plan)
    save(plan, run, 4, 8)
    assert chosen(plan, run) == (None, [])
    assert list(run.checkpoint_folder.iterdir()) == []


class TestChangedSettings:
    """Run folders are named by the fingerprint, so only what leaves it alone can differ here."""

    def test_bookkeeping_is_safe(self, tiny: Callable[..., Plan], run: RunFolder) -> None:
        save(tiny("tracking=none"), run, 4)
        now = tiny("tracking=none", "trainer.log_every=3", "checkpoint.keep=5")
        assert now.run_id == run.run_id
        step, told = chosen(now, run)
        assert step == 4
        assert "changed since the checkpoint, safe: trainer.log_every: 2 -> 3" in told
        assert "changed since the checkpoint, safe: checkpoint.keep: 2 -> 5" in told

    def test_speed_is_unsafe_up_to_rounding(self, tiny, run: RunFolder) -> None:
        save(tiny("tracking=none"), run, 4)
        now = tiny("tracking=none", "launch.threads=2")
        assert now.run_id == run.run_id
        step, told = chosen(now, run)
        assert step == 4
        assert told[0] == "changed since the checkpoint, unsafe: launch.threads: 1 -> 2"

    @pytest.mark.parametrize("change", ["optimizer.lr=0.5", "data.max_train_rows=30", "seed=9"])
    def test_numerics_and_data_name_another_folder(self, tiny, run: RunFolder, change: str) -> None:
        other = tiny("tracking=none", change)
        assert other.run_id != run.run_id
        save(other, run, 4)  # copied by hand into a folder that is not its own
        with pytest.raises(ResumeRefused, match="checkpoint-4 belongs to another run") as refused:
            chosen(tiny("tracking=none"), run)
        assert other.run_id in str(refused.value)
        key = change.partition("=")[0]
        assert any(note.startswith(f"refused: {key}: ") for note in refused.value.notes)
        found = diagnose(refused.value, tiny("tracking=none"))
        assert (found.code, found.hint) == ("LF821", "checkpoint.resume=false")
        assert found.notes == refused.value.notes
        assert [kept.step for kept in run.checkpoints()] == [4]  # refused is not removed

    def test_what_is_measured_only_is_safe(self, tiny, run: RunFolder) -> None:
        other = tiny("tracking=none", "evaluation.samples=2")
        assert other.run_id != run.run_id
        assert other.stages["train"] == tiny("tracking=none").stages["train"]
        save(other, run, 4)
        step, told = chosen(tiny("tracking=none"), run)
        assert step == 4
        assert "changed since the checkpoint, safe: evaluation.samples: 2 -> 1" in told

    def test_another_sharding_cannot_read_the_state(
        self, compiled: Callable[..., Plan], work: Path
    ) -> None:
        gpu = ("hardware=a100_80gb", "launch=torchrun", "launch.processes=1")
        before, after = compiled(*gpu, "deepspeed=stage2"), compiled(*gpu)
        assert before.run_id == after.run_id
        assert work == Path.cwd()
        run = RunFolder.create(after)
        save(before, run, 4)
        with pytest.raises(ResumeRefused, match="laid out for other settings") as refused:
            chosen(after, run)
        assert str(refused.value.key).startswith("deepspeed.")
        verdicts = {str(found).partition(":")[0]: found.verdict for found in judge(before, after)}
        assert verdicts["deepspeed.kind"] is Verdict.REFUSED

    def test_another_version_of_the_code(self, plan: Plan, run: RunFolder) -> None:
        save(plan, run, 4)
        folder = run.checkpoint_folder / "checkpoint-4"
        old = Plan.from_dict({**plan.to_dict(), "stages": dict.fromkeys(plan.stages, "0" * 64)})
        old.save(folder / checkpoints.PLAN)
        facts = {**sealing.facts(folder), "fingerprint": old.fingerprint}
        sealing.seal(folder, facts)
        with pytest.raises(ResumeRefused, match="another run") as refused:
            chosen(plan, run)
        assert "no setting differs" in refused.value.notes[0]

    def test_a_plan_that_nobody_can_read_any_more(self, plan: Plan, run: RunFolder) -> None:
        save(plan, run, 4)
        folder = run.checkpoint_folder / "checkpoint-4"
        (folder / checkpoints.PLAN).write_text("{}", encoding="utf-8")
        facts = sealing.facts(folder)
        sealing.seal(folder, facts)
        assert chosen(plan, run)[0] == 4, "of the same fingerprint"
        sealing.seal(folder, {**facts, "fingerprint": "0" * 64})
        with pytest.raises(ResumeRefused, match="another run"):
            chosen(plan, run)


def test_a_folder_copied_to_another_place_goes_on(
    plan: Plan, run: RunFolder, tmp_path: Path
) -> None:
    save(plan, run, 4)
    shutil.copytree(run.path, tmp_path / "moved" / run.run_id)
    assert chosen(plan, RunFolder.open(tmp_path / "moved" / run.run_id))[0] == 4


def test_a_disk_that_fills_up_costs_the_steps_since_the_last_checkpoint(
    tiny: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    from llmforge.run.signals import StopFlag
    from llmforge.stages.train import train
    from llmforge.track.protocol import NullTracker

    torch.set_num_threads(1)  # bit-equality needs one count
    plan = tiny("tracking=none", "lora=small", "lora.r=2", "lora.dropout=0.5")
    runs = [RunFolder(tmp_path / name / plan.run_id) for name in ("whole", "failed")]
    for run in runs:
        run.path.mkdir(parents=True)
        plan.save(run.plan_file)
    train(plan, runs[0], NullTracker(), StopFlag())

    seal = sealing.seal

    def full_at_step_8(folder: Path, facts: dict[str, Any]) -> None:
        if facts["step"] == 8:
            raise OSError(28, "No space left on device")
        seal(folder, facts)

    with monkeypatch.context() as patch:
        patch.setattr(sealing, "seal", full_at_step_8)
        with pytest.raises(RuntimeError, match="checkpoint of step 8 could not be written") as told:
            train(plan, runs[1], NullTracker(), StopFlag())
    assert diagnose(told.value, plan).code == "LF822"
    assert [found.step for found in runs[1].checkpoints()] == [4]
    assert not runs[1].manifest.exists()

    train(plan, runs[1], NullTracker(), StopFlag())
    weights = [
        {path.name: path.read_bytes() for path in run.model.rglob("*.safetensors")} for run in runs
    ]
    assert weights[0] == weights[1]
    assert weights[0]
