"""Faults of rows and parts as findings: place, sample, the key to blame, a hint to paste.

In: `Fault`s of the readers. Out: diagnostics. Readers name settings relative to their source
(`fields.prompt`); here they become keys of the configuration.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from llmforge.diagnostics import Diagnostic, Severity
from llmforge.schema.data import CsvSource, HubSource, Source, SqlSource, TextSource
from llmforge.sources.base import Fault, Unusable

_OWN = {
    name
    for spec in (Source, CsvSource, TextSource, SqlSource, HubSource)
    for name in spec.model_fields
} | {"name", "path", "options", "refresh"}
# an override, not a file: `train.jsonl` in a command begins like a setting
_SETTING = rf"((?:{'|'.join(sorted(_OWN))})(?:\.\w+)*=)"
_RELATIVE = re.compile(rf"(?<![\w./+-]){_SETTING}")
_OF_DATA = re.compile(rf"(?<![\w./+-])\+*data\.{_SETTING}")
_KIND = re.compile(r"(?<![\w./+-])data=(\w+)")
_NO_SHAPE = "fields.prompt=<column> fields.completion=<column>, or fields.text=<column>"
"""Where no column's name tells what it holds."""


def tell(problem: Unusable, prefix: str, key: str) -> Diagnostic:
    """A part that cannot be read at all."""
    fault = problem.fault
    return _finding(f"{problem.name} {fault.what}", fault, prefix, key)


def row_findings(
    faults: Sequence[tuple[str, Fault]],
    bad: int,
    name: str,
    prefix: str,
    key: str,
) -> list[Diagnostic]:
    """The first bad rows one by one, and how many more there are."""
    found = []
    for place, fault in faults:
        where = f"{place}, column {fault.column}" if fault.column else place
        joint = ": " if fault.what.startswith("`") else " "
        found.append(_finding(f"{where}{joint}{fault.what}", fault, prefix, key))
    more = bad - len(faults)
    if found and more > 0:
        last = found[-1]
        notes = (*last.notes, f"{more} more faulty rows in {name}")
        found[-1] = Diagnostic(last.code, last.message, key=last.key, notes=notes, hint=last.hint)
    return found


def _finding(message: str, fault: Fault, prefix: str, key: str) -> Diagnostic:
    sample = (f"it reads: {fault.sample}",) if fault.sample else ()
    hint = fault.hint or (_NO_SHAPE if fault.code == "LF506" else None)
    return Diagnostic(
        fault.code,
        message,
        key=f"{prefix}.{fault.key or key}",
        notes=(*sample, *fault.notes),
        hint=pasted(hint, prefix) if hint else None,
    )


def pasted(hint: str, prefix: str) -> str:
    """A hint with its settings as keys of the configuration: `fields.text=body` becomes
    `data.fields.text=body`, or `++data.sources.maths.fields.text=body` for a source of a mix, which
    lists only what differs from its option, so that the key may have to be added."""
    hint = _RELATIVE.sub(r"data.\1", hint)
    if prefix == "data":
        return hint
    # the one option that is no kind by itself
    hint = hint.replace("data=tsv", """data=csv 'data.delimiter="\\t"'""")
    hint = _OF_DATA.sub(rf"++{prefix}.\1", hint)
    return _KIND.sub(rf"++{prefix}.kind=\1", hint)


def too_many(bad: int, total: int, limit: int | str | None) -> list[Diagnostic]:
    """LF512 as an error, where some were allowed and there are more; else the rows speak."""
    if limit in (0, None):
        return []
    return [
        Diagnostic(
            "LF512",
            f"{bad:,} of {total:,} rows cannot be used; {limit} may be left out",
            key="data.max_bad_rows",
            hint=f"data.max_bad_rows={bad}",
        )
    ]


def left_out(bad: int, total: int, places: Sequence[str]) -> Diagnostic:
    """LF512 as a warning: within what is allowed."""
    shown = ", ".join(places[:3])
    return Diagnostic(
        "LF512",
        f"{bad:,} of {total:,} rows cannot be used and are left out",
        Severity.WARNING,
        key="data.max_bad_rows",
        notes=(
            f"{'the first: ' if bad > 1 else ''}{shown}",
            "the receipt lists each with its reason",
        ),
    )


def no_rows(name: str, key: str, dropped: Counter[str]) -> Diagnostic:
    """LF502: nothing there, or nothing left."""
    if not dropped:
        return Diagnostic("LF502", f"{name} holds no rows", key=key, hint=f"{key}=<file>")
    reasons = ", ".join(
        f"{count:,} {reason.replace('_', ' ')}" for reason, count in dropped.items()
    )
    prefix = key.rpartition(".")[0]
    return Diagnostic(
        "LF502",
        f"{name} has no row that can be used: {reasons}",
        key=key,
        hint=pasted("select=[]", prefix) if dropped.get("not_selected") else None,
    )
