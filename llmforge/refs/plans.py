"""Plans and runs by reference: a plan file, a run, or a set of overrides.

In: a text of the command line. Out: a `Plan`, a run folder. Findings are diagnostics (LF116,
LF809). The heavy parts are imported where they are needed.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmforge.diagnostics import ConfigRefused, Diagnostic, did_you_mean
from llmforge.plan import Plan, PlanUnreadable

if TYPE_CHECKING:
    from llmforge.run.ledger import RunFolder

RUNS = "runs"
"""Where runs are looked for when nothing else is said; `paths.runs` as shipped."""


def load_plan(path: str | Path) -> Plan:
    """A saved plan.

    Raises:
        ConfigRefused: LF116 when it is missing or unreadable.
    """
    try:
        plan = Plan.load(path)
        plan.spec  # noqa: B018 - typed here, so that a plan of another version is refused now
    except FileNotFoundError:
        folder = Path(path).parent
        there = [str(p) for p in folder.glob("*.json")]
        raise _refused(
            "LF116",
            f"plan file {path} does not exist",
            did_you_mean(str(path), there),
            f"llmforge plan -o {path}",
        ) from None
    except PlanUnreadable as error:
        raise _refused("LF116", str(error), hint=f"llmforge plan -o {path}") from error
    except OSError as error:
        raise _refused("LF116", f"{path} cannot be read: {error.strerror}") from error
    return plan


def _refused(
    code: str, message: str, notes: tuple[str, ...] = (), hint: str | None = None
) -> ConfigRefused:
    return ConfigRefused([Diagnostic(code, message, notes=notes, hint=hint)])


def run_of(ref: str, runs: str = RUNS) -> RunFolder:
    """The run folder a reference names.

    Raises:
        ConfigRefused: LF809 when there is none.
    """
    from llmforge.run.ledger import find_run

    try:
        return find_run(ref, Path(runs))
    except LookupError as error:
        raise _refused("LF809", str(error.args[0]), hint="llmforge runs") from error


def plan_of(ref: str, config_dirs: Sequence[str] = ()) -> Plan:
    """The plan that a plan file, a run, or quoted overrides stand for."""
    from llmforge.compiler.passes import compile_plan

    if Path(ref).is_file() or (ref.endswith(".json") and "=" not in ref):
        return load_plan(ref)
    if "=" in ref or not ref.strip():
        return compile_plan(shlex.split(ref), config_dirs)
    return run_of(ref).plan()


def plan_to_run(parsed: argparse.Namespace) -> Plan | None:
    """The plan that `--plan` or `--run` names; None for neither."""
    if parsed.plan is None and parsed.ref is None:
        return None
    if parsed.overrides:
        raise _refused(
            "LF116",
            "a saved plan runs exactly as it is; overrides cannot change it",
            hint=f"llmforge plan {shlex.join(parsed.overrides)} -o plan.json",
        )
    return load_plan(parsed.plan) if parsed.plan else run_of(parsed.ref).plan()
