"""How fast a run goes, and the bar that shows it.

In: step borders and figures, from `callbacks.py`. Out: tokens per second, time left, and a
progress bar on a terminal. Evaluations and saves are left out of the speed.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

REDRAW = 0.1
"""Seconds between two updates of the bar: a step of a small model takes less than drawing it."""


class Screen(Protocol):
    """Where text for a person goes."""

    err: Console | None

    @property
    def live(self) -> bool:
        """Can a bar be drawn?"""

    def say(self, text: str | Text) -> None:
        """One line."""

    def note(self, text: str) -> None:
        """One line for the log alone."""


class Pace:
    """Speed of the training itself."""

    def __init__(self, tokens_per_step: float) -> None:
        """Args: tokens of an average optimizer step, padding not counted."""
        self._tokens = tokens_per_step
        self.seconds = 0.0
        """Time spent in optimizer steps since `start`."""
        self.steps = 0
        self._step = 0
        self._mark: float | None = None
        """Since when time counts; None while it does not."""

    def start(self, step: int) -> None:
        """Training begins, or goes on, after `step` optimizer steps."""
        self._step, self._mark = step, None
        self.seconds, self.steps = 0.0, 0

    def begin(self) -> None:
        """A step begins; its time counts from the end of the last one when nothing was between."""
        if self._mark is None:
            self._mark = time.perf_counter()

    def pause(self) -> None:
        """Something else goes on until the next `begin`."""
        self._mark = None

    def end(self, step: int) -> None:
        """A step ended."""
        now = time.perf_counter()
        if self._mark is not None:
            self.seconds += now - self._mark
        self.steps += step - self._step
        self._step, self._mark = step, now

    @property
    def tokens_per_second(self) -> float | None:
        """None before the first step."""
        return self._tokens * self.steps / self.seconds if self.seconds and self._tokens else None

    def seconds_left(self, last_step: int) -> float | None:
        """Of training, at the average speed so far."""
        if not self.steps:
            return None
        return self.seconds / self.steps * max(0, last_step - self._step)


class TrainingBar:
    """One bar: steps, loss, rate, speed, time left."""

    def __init__(self, screen: Screen, total: int, done: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[figures]}"),
            console=screen.err,
            auto_refresh=False,
        )
        self._total = total
        self._task = self._progress.add_task("training", total=total, completed=done, figures="")
        self._figures = self._speed = ""
        self._drawn = 0.0
        self._progress.start()

    def figures(self, loss: float, rate: float | None) -> None:
        """The newest loss and learning rate; drawn with the next step."""
        self._figures = f"loss {loss:.4f}" + (f"  lr {rate:.2e}" if rate is not None else "")

    def step(self, step: int, pace: Pace) -> None:
        """Move on to `step`."""
        now = time.monotonic()
        if now - self._drawn < REDRAW and step != self._total:
            return
        self._drawn = now
        left, speed = pace.seconds_left(self._total), pace.tokens_per_second
        self._speed = f"{speed:,.0f} tokens/s" if speed else ""
        clock = f"{left // 60:.0f}:{left % 60:02.0f} left" if left is not None else ""
        self._draw("training", clock, completed=step)

    def evaluating(self) -> None:
        """Say why the bar stands still."""
        now = time.monotonic()
        if now - self._drawn >= REDRAW:
            self._drawn = now
            self._draw("measuring")

    def close(self) -> None:
        """Leave the bar on the screen, with the last figures."""
        self._draw("trained  ")
        self._progress.stop()

    def _draw(self, word: str, clock: str = "", **changes: Any) -> None:
        figures = "  ".join(filter(None, (self._figures, self._speed, clock)))
        self._progress.update(
            self._task, description=word, figures=figures, refresh=True, **changes
        )
