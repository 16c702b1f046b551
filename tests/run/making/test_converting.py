"""`llmforge export`: what cannot be converted is refused before anything is started."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llmforge.diagnostics import ConfigRefused
from llmforge.refs.models import Place
from llmforge.run.making import converting
from llmforge.run.making.converting import PACKAGES, wanted
from llmforge.run.making.holding import scratch, workplace
from llmforge.run.outcome import file_digests


@pytest.fixture
def model(work: Path, checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder, on a machine with the packages."""
    monkeypatch.setattr(converting, "installed_version", lambda _: "99")
    return checkpoint(work / "tiny")


def refusal(place: Place, file: Path | None = None, form: str | None = None) -> str:
    with pytest.raises(ConfigRefused) as caught:
        wanted(place, file, form)
    (found,) = caught.value.diagnostics
    return f"{found.code}: {found.message} [{found.hint}]"


def test_what_is_made_where(model: Path, work: Path) -> None:
    made = wanted(Place(model, "tiny"), None, None)
    assert (made.file, made.form) == (work / "tiny.gguf", "f32")
    made = wanted(Place(model, "tiny"), Path("other.gguf"), "q8_0")
    assert (made.file, made.form) == (work / "other.gguf", "q8_0")


def test_packages_are_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converting, "installed_version", lambda name: None if "g" in name else "1")
    assert refusal(Place(model, "tiny")) == (
        f"LF990: a GGUF file needs gguf, not installed here [pip install {' '.join(PACKAGES)}]"
    )


def test_packed_weights_and_adapters(model: Path, work: Path, checkpoint) -> None:
    adapter = shutil.copytree(model, work / "adapter")
    (adapter / "adapter_config.json").write_text("{}")
    told = refusal(Place(adapter, "mine"))
    assert told.startswith("LF972")
    assert told.endswith(f"[llmforge fuse --run {adapter}]")
    packed = checkpoint(work / "packed", quantization_config={"quant_method": "awq"})
    assert "quantized already (awq)" in refusal(Place(packed, "packed"))
    (model / "model.safetensors").write_bytes(b"\0" * 20)
    assert refusal(Place(model, "tiny")).startswith("LF961")


def test_other_files_stay(model: Path, work: Path) -> None:
    mine = work / "mine.gguf"
    mine.write_bytes(b"mine")
    assert refusal(Place(model, "tiny"), mine).startswith("LF992")
    (work / "mine.gguf.json").write_text(json.dumps({"files": {"mine.gguf": {"bytes": 9}}}))
    assert refusal(Place(model, "tiny"), mine).startswith("LF992")
    assert "is a folder" in refusal(Place(model, "tiny"), model)
    assert mine.read_bytes() == b"mine"


def moved(model: Path, file: Path, weights: bytes) -> Path:
    """As if the process had been killed after the file's move and before the record's."""
    made = wanted(Place(model, "tiny"), file, None)
    work = scratch(file)
    (work / "written").mkdir(parents=True)
    (work / "written" / file.name).write_bytes(weights)
    record = {"source_digest": "0", "form": "f32", "files": file_digests(work / "written")}
    (work / "record.json").write_text(json.dumps(record), encoding="utf-8")
    (work / "written" / file.name).replace(file)
    return made.record


def test_a_file_that_was_moved_before_its_record_is_known(model: Path, work: Path) -> None:
    file = work / "tiny.gguf"
    record = moved(model, file, b"first")
    assert wanted(Place(model, "tiny"), file, None).file == file
    assert json.loads(record.read_text())["files"][file.name]["bytes"] == 5
    # and again, over one that has a record
    moved(model, file, b"second")
    assert wanted(Place(model, "tiny"), file, None).file == file
    assert json.loads(record.read_text())["files"][file.name]["bytes"] == 6


def test_somebodys_file_in_the_place_of_one_that_was_killed_stays(model: Path, work: Path) -> None:
    file = work / "tiny.gguf"
    record = moved(model, file, b"first")
    file.write_bytes(b"other")
    assert refusal(Place(model, "tiny"), file).startswith("LF992")
    assert not record.exists()


def test_a_file_that_another_process_makes(model: Path, work: Path) -> None:
    with workplace(work / "tiny.gguf"):
        told = refusal(Place(model, "tiny"), work / "tiny.gguf")
    assert told.startswith("LF949")
    assert told.endswith(f"is being made by process {os.getpid()} [-o <another file>]")


def test_too_little_disk(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converting, "free_disk", lambda _: 1000)
    told = refusal(Place(model, "tiny"))
    assert told.startswith("LF994")
    assert "1000 bytes are free" in told


def test_the_verb(llmforge: Callable, model: Path) -> None:
    assert "--gguf" in llmforge(f"export {model}").err
    ran = llmforge("export nobody --gguf")
    assert (ran.code, "LF863" in ran.err) == (2, True)
    (model / "adapter_config.json").write_text("{}")
    ran = llmforge(f"export {model} --gguf")
    assert (ran.code, "LF972" in ran.err) == (2, True)
