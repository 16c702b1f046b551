"""Where a study is kept: addresses, what is wrong with them, and a journal that broke off.

In: the sweep's settings, a folder, what a storage raised. Out: an address as `run/pruning.py` opens
it, and the findings LF722 and LF726. Nothing is opened here.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llmforge.diagnostics import Diagnostic
from llmforge.schema.sweep import SweepSpec

JOURNAL = "study.journal"
"""In the sweep's folder, unless the study is kept elsewhere."""


def address_of(spec: SweepSpec) -> str:
    """Where the study is: see `Assignment.storage`, with paths of databases made whole."""
    if spec.storage == "auto":
        return JOURNAL
    local = "sqlite:///"
    if spec.storage.startswith(local) and not spec.storage.startswith(f"{local}/"):
        return local + str(Path(spec.storage.removeprefix(local)).absolute())
    return spec.storage


def storage_faults(spec: SweepSpec) -> list[Diagnostic]:
    """LF726 for an address that cannot be used, whatever is there."""
    address = spec.storage
    if "://" not in address:
        return []
    if urlsplit(address).password:
        # the value is not told: it is the secret
        return [
            Diagnostic(
                "LF726",
                "`sweep.storage` holds a password, which would be written into the sweep's folder",
                key="sweep.storage",
                notes=("name the environment variable that holds the URL instead",),
                hint="sweep.storage=env:STUDY_URL",
            )
        ]
    if address.startswith("sqlite:") and (address.endswith((":memory:", "://", ":///"))):
        return [
            Diagnostic(
                "LF726",
                "a study in memory is gone with the process, and no worker sees it",
                key="sweep.storage",
                hint="sweep.storage=auto",
            )
        ]
    return []


def differing(known: Sequence[Mapping[str, Any]], axes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why trials of one space are none of another; ends of an interval may move."""
    before, now = ({axis["key"]: axis for axis in some} for some in (known, axes))
    found = [f"`{key}` is not varied there" for key in now if key not in before]
    found += [f"`{key}` is varied there" for key in before if key not in now]
    for key in now:
        if key not in before:
            continue
        old, new = before[key], now[key]
        if "choices" in new and old.get("choices") != new["choices"]:
            there = ",".join(old["choices"]) if "choices" in old else "an interval"
            found.append(f"`{key}`: {there} there, {','.join(new['choices'])} here")
        elif "choices" not in new and (old.get("kind"), old.get("log")) != (
            new["kind"], new["log"]
        ):  # fmt: skip
            found.append(f"`{key}` is spread another way there")
    return found


def mend_journal(path: Path) -> None:
    """Take off a line that a killed process left half-written; it says nothing yet."""
    if not path.is_file():
        return
    text = path.read_bytes()
    if text and not text.endswith(b"\n"):
        os.truncate(path, text.rfind(b"\n") + 1)


def missing(error: ImportError) -> Diagnostic:
    """LF722: a package of the extra is not here."""
    return Diagnostic(
        "LF722",
        f"this sweep needs the package `{error.name or 'optuna'}`, which is not installed",
        key="sweep.kind",
        hint="pip install 'llmforge[search]'",
    )


def unusable(address: str, folder: Path, error: Exception) -> Diagnostic:
    """LF726: what the storage said."""
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    shown = address if "://" in address or address.startswith("env:") else str(folder / address)
    at_rest = "://" not in address and not address.startswith("env:")
    notes = [f"{type(error).__name__}: {said}"]
    if at_rest:
        notes.append("without it the search begins anew; runs that finished are not run again")
        hint = shlex.join(["mv", shown, f"{shown}.broken"])
    else:
        notes.append("`auto` keeps the study in the sweep's folder; runs that finished count there")
        hint = "sweep.storage=auto"
    return Diagnostic(
        "LF726",
        f"the study in {shown} cannot be used",
        key="sweep.storage",
        notes=tuple(notes),
        hint=hint,
    )
