"""From what a person types to a page: a sweep, a run, or `last`.

In: a reference and where runs lie. Out: the path of a page that was written. Findings are
LF743: there is no such sweep or run, or the page cannot be written.
"""

from __future__ import annotations

from pathlib import Path

from llmforge.diagnostics import ConfigRefused, Diagnostic, near
from llmforge.plan import PlanUnreadable
from llmforge.report.run_page import write_run_page
from llmforge.report.sweep_page import write_sweep_page
from llmforge.run.ledger import SWEEPS, find_run

_MARK = "sweep.json"
_FEW = 3
"""Sweeps that are named when none is called like what was asked for."""


def write_report(ref: str, runs: Path, target: Path | None = None) -> Path:
    """Write the page of what `ref` means.

    Args:
        ref: folder or name of a sweep, or the start of one; folder or id of a run, or the start of
            one; `last`, the run touched last, or the sweep that it is a trial of.
        target: where to; else `report.html` in the folder itself.

    Raises:
        ConfigRefused: LF743, or LF116 for a plan of another version.
    """
    sweep = find_sweep(ref, runs)
    try:
        if sweep is not None:
            return write_sweep_page(sweep, target)
        run = find_run(ref, runs)
        if ref == "last" and (run.path.parent / _MARK).is_file():
            return write_sweep_page(run.path.parent, target)
        return write_run_page(run.path, target)
    except LookupError as error:
        raise _unknown(ref, runs, str(error.args[0])) from error
    except PlanUnreadable as error:
        raise _refused("LF116", str(error)) from error
    except OSError as error:
        place = target or "the page"
        raise _refused("LF743", f"{place} cannot be written: {error.strerror}",
                       hint=f"llmforge report {ref} -o report.html") from error  # fmt: skip


def find_sweep(ref: str, runs: Path) -> Path | None:
    """The folder of the sweep that a text names; None when it names none, or several."""
    if (Path(ref) / _MARK).is_file():
        return Path(ref)
    known = sweeps(runs)
    exact = [path for path in known if path.name == ref]
    starts = [path for path in known if path.name.startswith(ref)]
    return (exact or starts)[0] if exact or len(starts) == 1 else None


def sweeps(runs: Path) -> list[Path]:
    """Folders of sweeps beside the runs."""
    return sorted(file.parent for file in (runs.parent / SWEEPS).glob(f"*/{_MARK}"))


def _unknown(ref: str, runs: Path, why: str) -> ConfigRefused:
    """What there is instead: sweeps that begin so or are called nearly so, else the newest."""
    newest_first = sorted(sweeps(runs), key=lambda path: path.stat().st_mtime, reverse=True)
    known = [path.name for path in newest_first]
    begun = [name for name in known if name.startswith(ref)]
    close = [*begun, *near(ref, known)] or known[:_FEW]
    several = len(begun) > 1
    message = f"{len(begun)} sweeps begin with `{ref}`" if several else "there is no such sweep"
    return _refused(
        "LF743",
        message if several else f"{message}, and {why}",
        tuple(f"there is a sweep `{name}`" for name in dict.fromkeys(close)),
        f"llmforge report {close[0]}" if close else "llmforge runs",
    )


def _refused(
    code: str, message: str, notes: tuple[str, ...] = (), hint: str | None = None
) -> ConfigRefused:
    return ConfigRefused([Diagnostic(code, message, notes=notes, hint=hint)])
