"""A process of its own for what the compiler must not do itself: import datasets, run user code.

In: the name of one of our modules and a request. Out: its answer; both are JSON. What the child
prints is kept apart from the answer, and a child that dies takes nothing with it: the death becomes
`Unusable`, with the last line that it printed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import llmforge
from llmforge.sources.base import Fault, Unusable, excerpt

_ALWAYS = {
    "PYTHONSAFEPATH": "1",  # a `random.py` in the user's folder is not Python's
    "PYTHONUNBUFFERED": "1",
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",  # nothing phones home
}


def ask(module: str, request: Mapping[str, Any], name: str, code: str) -> dict[str, Any]:
    """Run `python -m module` in the working folder, give it the request, return its answer.

    Args:
        module: one of ours, whose `__main__` calls `answer`.
        request: anything that JSON can write.
        name: what the answer is about, for messages.
        code: of the fault when the process dies without an answer.

    Raises:
        Unusable: what the child raised, or its death.
    """
    done = subprocess.run(
        [sys.executable, "-m", module],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=_environment(),
        check=False,
    )
    try:
        found = json.loads(done.stdout)
    except ValueError as error:
        raise _died(done, name, code) from error
    told = found.get("unusable")
    if told:
        fault = told["fault"] | {"notes": tuple(told["fault"]["notes"])}
        raise Unusable(told["name"], Fault(**fault))
    answered: dict[str, Any] = found["answer"]
    return answered


def answer(handle: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """The child's half: read the request, write what `handle` makes of it, or its `Unusable`."""
    # libraries and user code print to stdout as they like; the answer needs a way of its own
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        try:
            found: dict[str, Any] = {"answer": handle(json.load(sys.stdin))}
        except Unusable as problem:
            found = {"unusable": {"name": problem.name, "fault": asdict(problem.fault)}}
        json.dump(found, out)


def _environment() -> dict[str, str]:
    found = os.environ | _ALWAYS
    root = Path(llmforge.__file__).resolve().parent.parent
    if root.name not in ("site-packages", "dist-packages"):
        # a plain checkout: the child finds the package where this process did
        found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), found.get("PYTHONPATH")]))
    return found


def _died(done: subprocess.CompletedProcess[str], name: str, code: str) -> Unusable:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    ended = f"with exit code {done.returncode}"
    if done.returncode < 0:
        ended = f"by {signal.Signals(-done.returncode).name}"
    notes = (f"the last that it printed: {excerpt(lines[-1])}",) if lines else ()
    return Unusable(name, Fault(code, f"ended its process {ended}", notes=notes))
