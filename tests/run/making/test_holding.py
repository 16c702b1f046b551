"""Two processes never make something at one place; one that was killed holds nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmforge.run.making.holding import PlaceBusy, holder, scratch, workplace

HOLD = """
import sys, time
from pathlib import Path
from llmforge.run.making.holding import workplace
with workplace(Path(sys.argv[1])) as work:
    (work / "half").write_text("made")
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holding(place: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a place until its stdin ends."""
    words = [sys.executable, "-c", HOLD, str(place)]
    process = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def beside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_second_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    place = tmp_path / "out"
    assert holder(place) is None
    with holding(place) as first:
        assert holder(place) == f"process {first.pid}"
        with pytest.raises(PlaceBusy) as busy, workplace(place, "fuse.folder"):
            raise AssertionError("two hold it")
        assert str(busy.value) == f"{place} is being made by process {first.pid}"
        assert busy.value.hint == "fuse.folder=<another folder>"
        assert (scratch(place) / "half").read_text() == "made"
        with workplace(tmp_path / "other"):  # another place is free
            pass
        first.communicate()
        assert first.returncode == 0
    assert beside(tmp_path) == []


def test_what_a_killed_process_held_is_free_and_cleared(tmp_path: Path) -> None:
    place = tmp_path / "out"
    with holding(place) as first:
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert beside(tmp_path) == [".out.making", ".out.making.lock"]
        assert holder(place) is None
        with workplace(place) as work:
            assert beside(work) == []
    assert beside(tmp_path) == []


def test_a_swap_that_was_killed_is_settled(tmp_path: Path) -> None:
    place, old = tmp_path / "out", tmp_path / ".out.17.old"
    old.mkdir()
    with workplace(place):
        assert beside(tmp_path) == [".out.making", ".out.making.lock", "out"]
    old.mkdir()
    with workplace(place):
        assert not old.exists(), "the new one stands"
