"""Before the first step the model is saved and read back; what cannot be kept is not trained."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmforge.build import load as load_module
from llmforge.build.parts import build_parts
from llmforge.build.rehearsal import Rehearsal, compare, rehearse
from llmforge.build.saving import SaveFailed
from llmforge.build.trainer import ForgeTrainer, build_trainer
from llmforge.plan import Plan
from llmforge.stages.prepare import prepare


@pytest.fixture
def ready(make_plan, tmp_path: Path):
    """`ready()`: plan, trainer with a rehearsal, and the lines it says."""

    def make(changes: dict[str, Any] | None = None) -> tuple[Plan, ForgeTrainer, list[str]]:
        plan = make_plan(changes or {})
        told: list[str] = []
        rehearsal = Rehearsal(plan, tmp_path / ".rehearsal", tmp_path / "model", told.append)
        parts = build_parts(plan, prepare(plan))
        trainer = build_trainer(plan, parts, tmp_path / "out", [rehearsal])
        rehearsal.trainer = trainer
        return plan, trainer, told

    return make


@pytest.mark.parametrize("adapter", ["full", "lora", "tied", "untied"])
def test_saved_and_read_back_and_removed(ready, settings, tmp_path: Path, adapter: str) -> None:
    changes: dict[str, Any] = {"lora": settings.LORA} if adapter == "lora" else {}
    changes |= {"model.tie_embeddings": adapter != "untied"}
    _, trainer, told = ready(changes)
    trainer.train()
    assert trainer.state.global_step == 2
    (line,) = told
    assert line.startswith("the model can be saved: 0.")
    assert " MB written and read back in " in line
    assert not (tmp_path / ".rehearsal").exists()
    assert not (tmp_path / "model").exists()


def test_what_is_learnt_does_not_depend_on_it(ready, make_plan, settings, tmp_path: Path) -> None:
    changes = {"lora": settings.LORA | {"dropout": 0.5}}
    _, watched, _ = ready(changes)
    watched.train()
    plan = make_plan(changes)
    plain = build_trainer(plan, build_parts(plan, prepare(plan)), tmp_path / "plain", [])
    plain.train()
    found, expected = watched.model.state_dict(), plain.model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    config = watched.model.peft_config["default"]
    assert (
        config.base_model_name_or_path == plain.model.peft_config["default"].base_model_name_or_path
    )


def test_not_where_a_run_goes_on(ready, tmp_path: Path) -> None:
    _, trainer, told = ready({"trainer.max_steps": 2})
    trainer.train()
    trainer._save_checkpoint(trainer.model, trial=None)
    trainer.args.max_steps = 3
    told.clear()
    trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert trainer.state.global_step == 3
    assert told == []


@pytest.mark.parametrize("kind", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_disk_that_does_not_take_it_ends_the_run_before_its_first_step(
    ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: int
) -> None:
    def refused(_path: Path) -> None:
        raise OSError(kind, os.strerror(kind))

    monkeypatch.setattr(load_module, "sync", refused)
    _, trainer, told = ready()
    with pytest.raises(SaveFailed, match=os.strerror(kind)):
        trainer.train()
    assert trainer.state.global_step == 0
    assert told == []
    assert not (tmp_path / ".rehearsal").exists()


def test_a_folder_that_cannot_be_made(ready, tmp_path: Path) -> None:
    plan, trainer, told = ready()
    (tmp_path / "file").touch()
    with pytest.raises(SaveFailed, match="could not be saved before the first step"):
        rehearse(plan, trainer, tmp_path / "file" / "x", tmp_path / "model", told.append)


def test_a_model_that_cannot_be_saved(ready, monkeypatch: pytest.MonkeyPatch) -> None:
    _, trainer, _ = ready()

    def refuses(*_arguments: Any, **_options: Any) -> None:
        raise NotImplementedError("this model has no way to be saved")

    monkeypatch.setattr(trainer.model, "save_pretrained", refuses)
    with pytest.raises(SaveFailed, match="no way to be saved"):
        trainer.train()
    assert trainer.state.global_step == 0


class TestReadingBack:
    @pytest.fixture
    def saved(self, ready, tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
        plan, trainer, _ = ready()
        load_module.write_model(plan, trainer, tmp_path / "saved", tmp_path / "model")
        return tmp_path / "saved", dict(trainer.model.state_dict())

    def test_the_same(self, saved) -> None:
        compare(*saved)

    def test_one_weight_differs_in_one_bit(self, saved) -> None:
        folder, held = saved
        name = "model.norm.weight"
        held[name] = held[name].clone()
        held[name].view(torch.int32)[0] ^= 1
        with pytest.raises(ValueError, match=f"{name} in model.safetensors is not what"):
            compare(folder, held)

    def test_not_a_number_is_equal_to_itself(self, saved) -> None:
        folder, held = saved
        file = folder / "model.safetensors"
        weights = load_file(file)
        weights["model.norm.weight"][0] = float("nan")
        save_file(weights, file, metadata={"format": "pt"})
        compare(folder, held | weights)

    def test_cut_short(self, saved) -> None:
        folder, held = saved
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-4])
        with pytest.raises(Exception, match=r"(?i)incomplete|invalid|offset"):
            compare(folder, held)

    def test_nothing_there(self, saved) -> None:
        folder, held = saved
        (folder / "model.safetensors").unlink()
        with pytest.raises(ValueError, match="no weights"):
            compare(folder, held)
