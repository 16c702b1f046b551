"""A checkpoint counts only when everything it needs is there, to the last byte."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

import pytest

from llmforge.run import checkpoints


def safetensors(path: Path, size: int = 16) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, size]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as stream:
        stream.writestr("data", "x" * 100)


def whole(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    safetensors(path / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        archive(path / name)
    (path / "trainer_state.json").write_text('{"global_step": 1}', encoding="utf-8")
    return path


def faults(folder: Path) -> dict[int, str | None]:
    return {found.step: found.fault for found in checkpoints.scan(folder)}


def test_newest_first_by_number_not_by_name(tmp_path: Path) -> None:
    for step in (900, 1000, 50):
        whole(tmp_path, step)
    (tmp_path / "checkpoint-best").mkdir()
    assert [found.step for found in checkpoints.scan(tmp_path)] == [1000, 900, 50]


def test_no_folder_no_checkpoints(tmp_path: Path) -> None:
    assert checkpoints.scan(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"],
)
def test_every_file_is_needed_to_its_last_byte(tmp_path: Path, name: str) -> None:
    path = whole(tmp_path, 7)
    assert faults(tmp_path) == {7: None}
    data = (path / name).read_bytes()
    (path / name).write_bytes(data[: len(data) // 2])
    assert faults(tmp_path) == {7: f"{name} is cut short"}
    (path / name).unlink()
    missing = "no weights" if name == "model.safetensors" else f"{name} is missing"
    assert faults(tmp_path) == {7: missing}


def test_every_shard_is_needed(tmp_path: Path) -> None:
    path = whole(tmp_path, 7)
    (path / "model.safetensors").unlink()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = {"weight_map": {"a": names[0], "b": names[1]}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    safetensors(path / names[0])
    assert faults(tmp_path) == {7: f"{names[1]} is missing"}
    safetensors(path / names[1])
    assert faults(tmp_path) == {7: None}


def test_an_adapter_has_weights_of_its_own(tmp_path: Path) -> None:
    path = whole(tmp_path, 7)
    (path / "model.safetensors").rename(path / "adapter_model.safetensors")
    assert faults(tmp_path) == {7: None}


def test_a_removed_checkpoint_never_looks_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = whole(tmp_path, 7)

    def interrupted(_path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints.shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.remove(checkpoints.scan(tmp_path)[0])
    assert path.is_dir()
    assert faults(tmp_path) == {7: "trainer_state.json is missing"}
