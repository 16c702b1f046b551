"""A trainer's checkpoints appear whole or not at all, whatever the disk does at whichever file."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llmforge.build.parts import build_parts
from llmforge.build.saving import SaveFailed
from llmforge.build.trainer import ForgeTrainer, build_trainer
from llmforge.plan import Plan
from llmforge.run import checkpoints, sealing
from llmforge.run.checkpoints import Keeper
from llmforge.run.failures import diagnose
from llmforge.stages.prepare import prepare

Trained = Callable[..., tuple[Plan, ForgeTrainer, Path]]


@pytest.fixture
def trained(make_plan, tmp_path: Path) -> Trained:
    """`trained()`: plan, trainer after two steps, the folder of its checkpoints (none yet)."""

    def make(changes: dict[str, Any] | None = None) -> tuple[Plan, ForgeTrainer, Path]:
        plan = make_plan(changes or {})
        folder = tmp_path / "checkpoints"
        trainer = build_trainer(plan, build_parts(plan, prepare(plan)), folder, [])
        trainer.keep_with(Keeper(folder, plan))
        trainer.train()
        return plan, trainer, folder

    return make


def save(trainer: ForgeTrainer, step: int, best: int | None = None) -> None:
    trainer.state.global_step = step
    trainer.state.best_global_step = best
    trainer._save_checkpoint(trainer.model, trial=None)


def whole(folder: Path) -> list[int]:
    """Steps of the checkpoints that are whole to the last byte."""
    found = checkpoints.scan(folder)
    return [one.step for one in found if not one.fault and not checkpoints.verify(one)]


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.glob(".*")]


def test_what_a_checkpoint_holds(trained: Trained) -> None:
    plan, trainer, folder = trained()
    save(trainer, 2)
    assert whole(folder) == [2]
    assert left_over(folder) == []
    names = {path.name for path in (folder / "checkpoint-2").iterdir()}
    assert names >= {
        *("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"),
        *("trainer_state.json", "tokenizer.json", "generation_config.json"),
        *(checkpoints.PLAN, sealing.MANIFEST),
    }
    assert "training_args.bin" not in names, "a pickle that nobody reads"
    facts = sealing.facts(folder / "checkpoint-2")
    assert facts["fingerprint"] == plan.fingerprint
    assert set(facts["files"]) == names - {sealing.MANIFEST}


def test_saved_twice_at_one_step(trained: Trained) -> None:
    _, trainer, folder = trained()
    save(trainer, 2)
    with torch.no_grad():
        trainer.model.get_input_embeddings().weight.zero_()
    save(trainer, 2)
    assert whole(folder) == [2]
    weights = load_file(folder / "checkpoint-2" / "model.safetensors")
    assert not weights["model.embed_tokens.weight"].any(), "the later one counts"


class TestTheBest:
    def test_is_never_pruned_nor_is_the_last(self, trained: Trained) -> None:
        _, trainer, folder = trained({"checkpoint.keep": 1})
        for step in (1, 2, 3, 4):
            save(trainer, step, best=2 if step >= 2 else 1)
        assert whole(folder) == [4, 2]

    def test_is_known_by_the_name_it_keeps(self, trained: Trained) -> None:
        _, trainer, folder = trained()
        save(trainer, 2, best=2)
        expected = str(folder / "checkpoint-2")
        assert trainer.state.best_model_checkpoint == expected
        kept = type(trainer.state).load_from_json(str(folder / "checkpoint-2/trainer_state.json"))
        assert kept.best_model_checkpoint == expected
        assert sealing.facts(folder / "checkpoint-2")["best"] == 2

    def test_the_library_takes_none_away_after_training(self, make_plan, tmp_path: Path) -> None:
        # with a limit of one it would remove the newest, and leave the best
        changes = {"checkpoint.keep": 1, "checkpoint.best": "eval_loss", "checkpoint.every": 1}
        plan = make_plan(changes | {"evaluation.every": 1, "trainer.max_steps": 4})
        plan.lowered["training_arguments"] |= {
            "save_strategy": "steps",
            "save_steps": 1,
            "save_total_limit": 1,
            "eval_strategy": "steps",
            "eval_steps": 1,
            "learning_rate": 10.0,
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_loss",
        }
        trainer = build_trainer(plan, build_parts(plan, prepare(plan)), tmp_path / "c", [])
        trainer.keep_with(Keeper(tmp_path / "c", plan))
        trainer.train()
        best = trainer.state.best_global_step
        assert best < 4, "a rate that makes it worse"
        assert whole(tmp_path / "c") == [4, best]


def failing_at(count: int, kind: int) -> Callable[[int], None]:
    """An `os.fsync` that fails at its `count`-th call."""
    real, calls = os.fsync, 0

    def fsync(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == count:
            raise OSError(kind, os.strerror(kind))
        real(handle)

    return fsync


class TestADiskThatFails:
    @pytest.mark.parametrize("kind", [errno.ENOSPC, errno.EIO])
    def test_at_every_flush_of_a_save(
        self, trained: Trained, monkeypatch: pytest.MonkeyPatch, kind: int
    ) -> None:
        plan, trainer, folder = trained()
        save(trainer, 1)
        files = len(sealing.facts(folder / "checkpoint-1")["files"])
        for count in range(1, files + 3):  # each file, the manifest, the folder
            with monkeypatch.context() as patch:
                patch.setattr("os.fsync", failing_at(count, kind))
                with pytest.raises(SaveFailed, match="checkpoint of step 2 could not") as failed:
                    save(trainer, 2)
            assert whole(folder) == [1], count
            assert left_over(folder) == [], "what was written makes room again"
            found = diagnose(failed.value, plan)
            assert found.code == "LF822"
            assert os.strerror(kind) in found.message
        save(trainer, 2)
        assert whole(folder) == [2, 1]

    def test_at_every_file_that_is_written(
        self, trained: Trained, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A limit on the size of files stops a write in the middle of each large one."""
        resource = pytest.importorskip("resource")
        signal = pytest.importorskip("signal")
        _, trainer, folder = trained()
        save(trainer, 1)
        files = sealing.facts(folder / "checkpoint-1")["files"]
        monkeypatch.setattr("sys.dont_write_bytecode", True)
        before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.SIG_IGN
        handler = signal.signal(signal.SIGXFSZ, ignored)  # the write then fails with EFBIG
        try:
            for name, entry in files.items():
                resource.setrlimit(resource.RLIMIT_FSIZE, (entry["bytes"] - 1, before[1]))
                try:
                    with pytest.raises(SaveFailed):
                        save(trainer, 2)
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, before)
                assert whole(folder) == [1], name
                assert left_over(folder) == [], name
        finally:
            signal.signal(signal.SIGXFSZ, handler)
        save(trainer, 2)
        assert whole(folder) == [2, 1]

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
    def test_that_is_really_full(self, trained: Trained, tmp_path: Path) -> None:
        mount = tmp_path / "checkpoints"
        mount.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)], check=False
        )
        if done.returncode:
            pytest.skip("this container may not mount")
        try:
            _, trainer, folder = trained()
            save(trainer, 1)
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            (folder / "ballast").write_bytes(bytes(2**20 - size - size // 2))
            with pytest.raises(SaveFailed):
                save(trainer, 2)
            assert whole(folder) == [1]
            assert left_over(folder) == []
            (folder / "ballast").unlink()
            save(trainer, 2)
            assert whole(folder) == [2, 1]
        finally:
            subprocess.run(["umount", str(mount)], check=True)


def test_without_a_keeper_the_library_saves_as_it_does(make_plan, tmp_path: Path) -> None:
    plan = make_plan()
    trainer = build_trainer(plan, build_parts(plan, prepare(plan)), tmp_path / "out", [])
    trainer.train()
    save(trainer, 2)
    assert (tmp_path / "out" / "checkpoint-2" / "model.safetensors").is_file()
    assert not (tmp_path / "out" / "checkpoint-2" / sealing.MANIFEST).exists()


WORKER = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from llmforge.build.parts import build_parts
from llmforge.build.trainer import build_trainer
from llmforge.plan import Plan
from llmforge.run.checkpoints import Keeper
from llmforge.stages.prepare import prepare
plan, out = Plan.load(sys.argv[1]), Path(sys.argv[2])
trainer = build_trainer(plan, build_parts(plan, prepare(plan)), out, [])
trainer.keep_with(Keeper(out, plan))
trainer.train(resume_from_checkpoint=sys.argv[3] if len(sys.argv) > 3 else None)
"""


@pytest.mark.slow
def test_two_processes_write_one_checkpoint(make_plan, settings, tmp_path: Path) -> None:
    rows = [{"messages": chat} for chat in settings.CHATS]
    plan = make_plan({"trainer.micro_batch": 2, "trainer.max_steps": 4}, rows)
    plan.lowered["training_arguments"] |= {"save_strategy": "steps", "save_steps": 1}
    file = plan.save(tmp_path / "plan.json")
    (tmp_path / "worker.py").write_text(WORKER, encoding="utf-8")
    folders = [tmp_path / "whole", tmp_path / "resumed"]

    def run(*arguments: Path) -> None:
        torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
        subprocess.run(
            [sys.executable, *torchrun, str(tmp_path / "worker.py"), str(file), *arguments],
            check=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        )

    run(folders[0])
    assert whole(folders[0]) == [4, 3]
    assert left_over(folders[0]) == []
    files = sealing.facts(folders[0] / "checkpoint-3")["files"]
    assert {"rng_state_0.pth", "rng_state_1.pth", "trainer_state.json"} <= set(files)

    run(folders[1], folders[0] / "checkpoint-3")
    digests = [
        {
            name: entry["sha256"]
            for name, entry in sealing.facts(folder / "checkpoint-4")["files"].items()
            if name.endswith(".safetensors")
        }
        for folder in folders
    ]
    assert digests[0] == digests[1]
    assert digests[0]
