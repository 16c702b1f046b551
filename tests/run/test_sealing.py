"""A sealed folder: any byte that changes, any file that goes, is seen."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmforge.run import sealing
from llmforge.run.sealing import MANIFEST, BrokenSeal

FILES = {
    "model.safetensors": bytes(range(200)),
    "rng_state.pth": b"random",
    "global_step7/mp_rank_00_model_states.pt": b"an engine's own folder",
    "empty": b"",
}


def sealed(folder: Path, step: int = 7) -> Path:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    sealing.seal(folder, {"step": step})
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return sealed(tmp_path / "checkpoint-7")


def test_a_whole_folder_has_no_fault(folder: Path) -> None:
    assert sealing.fault(folder) is None
    assert sealing.fault(folder, thorough=True) is None
    facts = sealing.facts(folder)
    assert facts["step"] == 7
    assert set(facts["files"]) == set(FILES)
    assert facts["files"]["model.safetensors"]["bytes"] == 200


def test_sealed_again_is_the_same_seal(folder: Path) -> None:
    before = (folder / MANIFEST).read_bytes()
    sealing.seal(folder, {"step": 7})
    assert (folder / MANIFEST).read_bytes() == before


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_dropped_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert sealing.fault(folder) == f"{name} is missing"


@pytest.mark.parametrize("name", [name for name in sorted(FILES) if FILES[name]])
def test_a_short_file_is_named_without_reading_it(folder: Path, name: str) -> None:
    (folder / name).write_bytes(FILES[name][:-1])
    assert sealing.fault(folder) == f"{name} is cut short"
    (folder / name).write_bytes(FILES[name] + b"x")
    assert sealing.fault(folder) == f"{name} is too long"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, f"{MANIFEST} is missing"),
        (b"", f"{MANIFEST} is damaged"),
        (b"[]", f"{MANIFEST} is damaged"),
        (b'{"content": {"files": {}}, "seal": ""}', f"{MANIFEST} is damaged"),
        (b"\xff", f"{MANIFEST} cannot be read"),
    ],
)
def test_a_folder_without_its_manifest_was_never_finished(
    folder: Path, content: bytes | None, fault: str
) -> None:
    (folder / MANIFEST).unlink()
    if content is not None:
        (folder / MANIFEST).write_bytes(content)
    assert str(sealing.fault(folder)).startswith(fault)
    with pytest.raises(BrokenSeal, match=fault):
        sealing.facts(folder)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_byte_flipped_anywhere_is_detected(folder: Path, data: st.DataObject) -> None:
    names = sorted([*(name for name in FILES if FILES[name]), MANIFEST])
    path = folder / data.draw(st.sampled_from(names))
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[at]))
    path.write_bytes(whole[:at] + bytes([other]) + whole[at + 1 :])
    try:
        found = sealing.fault(folder, thorough=True)
        assert found is not None
        assert path.name in found
    finally:
        path.write_bytes(whole)
    assert sealing.fault(folder, thorough=True) is None


def test_published_over_a_folder_of_the_same_name(tmp_path: Path) -> None:
    final = sealed(tmp_path / "checkpoint-7")
    (final / "left over").touch()
    staged = sealed(tmp_path / ".checkpoint-7.tmp", step=8)
    sealing.publish(staged, final)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-7"]
    assert sealing.facts(final)["step"] == 8
    assert not (final / "left over").exists()


def test_a_disk_that_does_not_take_it_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        sealed(tmp_path / "checkpoint-7")
    assert sealing.fault(tmp_path / "checkpoint-7") == f"{MANIFEST} is missing"
