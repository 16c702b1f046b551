"""What a person sees of a run: header, lines while it goes on, closing block.

In: plan, numbers, result. Out: text on the terminal (progress and notices to stderr, the closing
block to stdout) and the same text, plain, in the log. The terminal gets what is meant for a
person; whatever libraries print goes to the log alone.

A terminal that goes away (closed window, `| head`) ends the display, never the run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from llmforge.plan import Plan
from llmforge.run.folder import RunFolder
from llmforge.track.address import public


class Screen:
    """Where text for a person goes: terminal and log."""

    def __init__(
        self, out: TextIO | None = None, err: TextIO | None = None, log: TextIO | None = None
    ) -> None:
        """Args: stdout and stderr of the terminal, and the log; None leaves one out."""
        self.out = _console(out) if out else None
        self.err = _console(err) if err else None
        self._log = log

    @property
    def live(self) -> bool:
        """Can a progress bar be drawn?"""
        return bool(self.err and self.err.is_terminal and not self.err.is_dumb_terminal)

    def say(self, text: str | Text) -> None:
        """A notice while the run goes on."""
        self._print(self.err, text)

    def note(self, text: str) -> None:
        """For the log alone: what the progress bar shows on the terminal."""
        self._print(None, text)

    def tell(self, text: str | Text) -> None:
        """A part of the run's outcome."""
        self._print(self.out, text)

    def _print(self, console: Console | None, text: str | Text) -> None:
        if console:
            console.print(text, markup=False, highlight=False, soft_wrap=True)
        if self._log:
            print(text.plain if isinstance(text, Text) else text, file=self._log, flush=True)


class Surviving:
    """A stream that falls silent when its reader is gone, instead of raising."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._gone = False

    def write(self, text: str) -> int:
        """Write, as long as somebody reads."""
        return self._try(lambda: self._stream.write(text), len(text))

    def flush(self) -> None:
        """Flush, as long as somebody reads."""
        self._try(lambda: self._stream.flush() or 0, 0)

    def _try(self, act: Any, otherwise: int) -> int:
        if not self._gone:
            try:
                return int(act())
            except OSError as error:
                self._gone = True
                print(f"the terminal is gone ({error}); the run goes on", file=sys.stderr)
        return otherwise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def take_over(log: Path, quiet: bool) -> Screen:
    """Send this process's stdout and stderr, down to the C libraries, into the log.

    The terminal that they led to stays open for the returned screen alone, unless `quiet`.
    """
    terminal = [os.dup(1), os.dup(2)]
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    if quiet:
        for fd in terminal:
            os.close(fd)
        return Screen(log=sys.stdout)
    out, err = (os.fdopen(fd, "w", buffering=1, encoding="utf-8") for fd in terminal)
    return Screen(out, err, sys.stdout)


@contextmanager
def libraries_aside() -> Iterator[None]:
    """While it lasts, what is printed goes to stderr, down to the C libraries: stdout, which may be
    a pipe, is for answers."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _console(stream: TextIO) -> Console:
    try:
        width = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        width = 100
    safe: Any = Surviving(stream)
    return Console(file=safe, width=width, highlight=False)


def header(plan: Plan, attempt: int) -> Text:
    """Name, run id, length: all that is known before anything is loaded."""
    settings, trainer = plan.settings, plan.settings["trainer"]
    rows = _dig(plan.facts, "data", "rows") or {}
    counted = [f"{rows[side]:,} {word} rows" for side, word in _SIDES if rows.get(side)]
    if settings["data"]["streaming"]:
        counted[0] = "training rows streamed"
    processes = settings["launch"]["processes"]
    facts = [
        f"{plan.estimate['steps']:,} steps of {trainer['global_batch']} samples",
        *counted,
        f"{processes} processes" if processes != 1 else "",
        f"attempt {attempt}" if attempt > 1 else "",
    ]
    text = Text()
    text.append(plan.name, style="bold").append(f"  {plan.run_id}\n")
    return text.append(" · ".join(filter(None, facts)))


_SIDES = (("train", "training"), ("evaluation", "held-out"))


def model_line(trainable: int, total: int) -> str:
    """Trained share of the model."""
    if trainable == total:
        return f"{total:,} parameters, all trained"
    return f"{trainable:,} of {total:,} parameters trained ({trainable / total:.2%})"


def memory_line(memory: Mapping[str, float]) -> str:
    """Measured peak memory beside what the plan foretold."""
    line = f"memory: {memory['measured_bytes'] / 2**30:.2f} GiB at most"
    if "foretold_bytes" in memory:
        foretold = memory["foretold_bytes"] / 2**30
        line += f", {foretold:.2f} GiB foretold ({memory['error']:+.1%})"
    return line


def _figures(result: Mapping[str, Any]) -> Text:
    """Losses and shares, before and after."""
    text = Text()
    baseline = result.get("baseline") or {}
    rows = [
        ("training loss", result.get("first_train_loss"), result.get("train_loss"), "{:.3f}"),
        ("held-out loss", baseline.get("eval_loss"), result.get("eval_loss"), "{:.3f}"),
        (
            "held-out perplexity",
            baseline.get("eval_perplexity"),
            result.get("eval_perplexity"),
            "{:,.2f}",
        ),
        ("exact match", baseline.get("exact_match"), result.get("exact_match"), "{:.1%}"),
    ]
    sets = [key for key in result if key.startswith("eval_") and key.endswith("_loss")]
    for key in sets:
        if key != "eval_loss":  # one line for each of several evaluation sets
            name = f"  {key.removeprefix('eval_').removesuffix('_loss')}"
            rows.insert(2, (name, baseline.get(key), result[key], "{:.3f}"))
    for name, before, after, form in rows:
        if after is not None:
            text.append(f"\n{name:<20}")
            if before is not None:
                text.append(f"{form.format(before)} -> ")
            text.append(form.format(after), style="bold")
    return text


def closing(
    plan: Plan,
    run: RunFolder,
    result: Mapping[str, Any],
    warnings: Sequence[Mapping[str, Any]] = (),
) -> Text:
    """What came out, where it is, and what to do next."""
    text = _figures(result)
    if ended := result.get("stopped_early"):
        text.append(f"\n\n{ended['words']}; the best model was kept")
    for sample in result.get("samples") or ():
        for name in ("prompt", "answer", "reference"):
            start = "\n\n" if name == "prompt" else "\n"
            text.append(f"{start}{name:<11}", style="dim").append(_one_line(sample.get(name)))
    for warning in warnings:
        text.append(f"\n\nwarning[{warning['code']}]", style="yellow")
        text.append(f": {warning['message']}")
    text.append(f"\n\neverything is in  {_short(run.path)}")
    tracking = plan.settings["tracking"]
    if tracking["kind"] == "mlflow":
        default = tracking["uri"] == "sqlite:///mlflow.db"
        place = "" if default else f" tracking.uri={public(tracking['uri'])}"
        text.append("\nsee it in MLflow  ").append(f"llmforge ui{place}", style="bold")
    text.append("\nask the model     ")
    text.append(f'llmforge generate --run {run.run_id} "..."', style="bold")
    return text


def rows_line(report: Mapping[str, Any]) -> str:
    """Samples and tokens of a preparation."""
    sides = [(word, report.get(side)) for side, word in _SIDES]
    return ", ".join(
        f"{side['used']:,} {word} samples of {side['tokens']:,} tokens"
        for word, side in sides
        if side
    )


def figures(found: Mapping[str, Any]) -> str:
    """The numbers among an evaluation's figures, one a line."""
    numbers = {k: v for k, v in found.items() if isinstance(v, int | float)}
    return "\n".join(f"{name:<20}{value:,.6g}" for name, value in numbers.items())


def made(found: Mapping[str, Any]) -> str:
    """What was made of a model: its folder, its summary, or else its figures one a line."""
    from llmforge.run.making.order import numbers

    lines = list(found.get("summary") or ())
    lines = lines or [f"{name:<28}{value:,.6g}" for name, value in numbers(found).items()]
    place = _short(Path(found["target"]))
    ask = f'ask it  llmforge generate --run {place} "..."'
    return "\n".join([f"{found['label']} -> {place}", *lines, ask])


def _one_line(value: Any) -> str:
    return " ⏎ ".join(str(value if value is not None else "").strip().splitlines())


def _short(path: Path) -> str:
    """The path as seen from the working folder, when it lies below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _dig(tree: Any, *keys: str) -> Any:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree
