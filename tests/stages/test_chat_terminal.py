"""`llmforge chat` in a real terminal: what is typed, what is seen, and Ctrl-C."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from llmforge.build.load import save_final
from llmforge.build.parts import build_parts
from llmforge.stages.prepare import prepare


class Terminal:
    """A process under a pseudo terminal, ended with the test."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.pid, self._handle = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execv(command[0], command)  # noqa: S606 - the command is this test's own
        self.seen, self._at = "", 0

    def until(self, text: str, seconds: float = 60.0) -> None:
        """Read until the text appears behind what was awaited before."""
        deadline = time.monotonic() + seconds
        while text not in self.seen[self._at :]:
            assert time.monotonic() < deadline, f"no {text!r} in {self.seen[self._at :]!r}"
            if select.select([self._handle], [], [], 0.2)[0]:
                self.seen += os.read(self._handle, 4096).decode(errors="replace")
        self._at = self.seen.index(text, self._at) + len(text)

    def type(self, text: str) -> None:
        os.write(self._handle, text.encode())

    def interrupt(self, text: str, presses: int = 20) -> None:
        """Ctrl-C, pressed again every three seconds until the text appears, as a person would.

        One press can get lost: CPython's `input` looks for signals only when its select on the
        terminal is interrupted: one that came between a key and that select is told with the next.
        """
        for _ in range(presses - 1):
            self.type("\x03")
            with suppress(AssertionError):
                self.until(text, seconds=3.0)
                return
        self.type("\x03")
        self.until(text)

    def end(self) -> int:
        """Exit code of a process that ends by itself."""
        with suppress(OSError):  # how Linux says that the other side is closed
            while os.read(self._handle, 4096):
                pass
        _, status = os.waitpid(self.pid, 0)
        os.close(self._handle)
        return os.waitstatus_to_exitcode(status)


@pytest.fixture
def model(make_plan, tmp_path: Path) -> Path:
    """A folder with an untrained model."""
    plan = make_plan()
    parts = build_parts(plan, prepare(plan))
    save_final(plan, parts, tmp_path / "final")
    assert torch.isfinite(next(parts.model.parameters())).all()
    return tmp_path / "final"


def test_a_talk_in_a_terminal(model: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "llmforge", "chat", str(model), "--log", "talk.jsonl",
        "generation=creative", "generation.min_new_tokens=90", "generation.max_new_tokens=90",
    ]  # fmt: skip
    terminal = Terminal(command, tmp_path)
    try:
        terminal.until("you> ")
        terminal.type("Hello\n")
        terminal.until("model> ")
        terminal.until("you> ")
        terminal.type("half a line")
        terminal.until("half a line")
        terminal.interrupt("Ctrl-D or /quit ends the talk")
        terminal.until("you> ")
        terminal.type("/set max_new_tokens=100\n")
        terminal.until("you> ")
        terminal.type("\x04")
        terminal.until("the talk is in talk.jsonl")
    except BaseException:
        os.kill(terminal.pid, signal.SIGKILL)
        raise
    assert terminal.end() == 0
    assert '"content": "Hello"' in (tmp_path / "talk.jsonl").read_text()


def test_over_a_pipe_stdout_has_answers_alone(model: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llmforge", "chat", str(model), "generation.max_new_tokens=4"],
        input="Hello\n/help\n", capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert "you>" not in done.stdout
    assert "/adapter NAME" in done.stderr
