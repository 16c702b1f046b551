"""Faults of rows and parts as findings: place, sample, the key to blame, a hint to paste.

In: `Fault`s of the readers. Out: diagnostics. Readers name settings relative to their source
(`fields.prompt`); here they become keys of the configuration.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from llmforge.diagnostics import Diagnostic, Severity
from llmforge.schema.data import CsvSource, HubSource, MixData, Source, SqlSource, TextSource
from llmforge.sources.base import Fault, Unusable
from llmforge.sources.select import mended

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
_NO_SHAPE = "fields.prompt=<column> fields.completion=<column>"
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
    """The first bad rows, those of the same fault together, and how many more there are."""
    found = []
    alike: dict[tuple[str, str, str | None], list[str]] = {}
    for place, fault in faults:
        alike.setdefault((fault.code, fault.what, fault.hint), []).append(place)
    for place, fault in faults:
        same = alike[fault.code, fault.what, fault.hint]
        if place != same[0]:
            continue
        if others := same[1:]:
            fault = replace(fault, notes=(*fault.notes, f"so it is at {', '.join(others)}"))
        where = f"{place}, column {fault.column}" if fault.column else place
        joint = ": " if fault.what.startswith("`") else " "
        found.append(_finding(f"{where}{joint}{fault.what}", fault, prefix, key))
    more = bad - len(faults)
    if found and more > 0:
        last = found[-1]
        rows = f"{more:,} more faulty rows" if more > 1 else "1 more faulty row"
        found[-1] = replace(last, notes=(*last.notes, f"{rows} in {name}"))
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


def counted(found: Diagnostic, bad: int, hopeless: bool) -> Diagnostic:
    """A bad row's finding whose hint allows for all bad rows, or for none where that cannot help.

    Args:
        bad: rows that cannot be used, of the whole section.
        hopeless: every row of some part has the same fault.
    """
    one = ", or let it go with data.max_bad_rows=1"
    if found.hint is None or one not in found.hint or (bad == 1 and not hopeless):
        return found
    all_ = "" if hopeless else f", or let all {bad:,} go with data.max_bad_rows={bad}"
    return replace(found, hint=found.hint.replace(one, all_))


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


def all_held_out(rows: int, sources: Mapping[str, Source]) -> Diagnostic:
    """LF502: rows there are, but none to train on."""
    folds = [(name, source.fold) for name, source in sources.items() if source.fold is not None]
    if not folds:
        key = f"data.sources.{next(iter(sources))}.train" if "" not in sources else "data.train"
        hint = pasted("train=<file>", key.removesuffix(".train"))
        return Diagnostic("LF502", "no source gives rows to train on", key=key, hint=hint)
    name, fold = folds[0]
    prefix = f"data.sources.{name}" if name else "data"
    return Diagnostic(
        "LF502",
        f"no row is left to train on: the fold column `{fold}` holds out all {rows:,}",
        key=f"{prefix}.fold",
        hint=pasted("fold=null", prefix),
    )


def bad_condition(
    text: str, conditions: Sequence[str], prefix: str, error: ValueError
) -> Diagnostic:
    """LF516: one of the conditions cannot be read; the hint holds all, that one mended."""
    guess = mended(text)
    kept = [guess or "" if each == text else each for each in conditions]
    quoted = ", ".join('"' + each.replace('"', '\\"') + '"' for each in kept if each)
    return Diagnostic(
        "LF516",
        f"`{text}` is not a condition: {error}",
        key=f"{prefix}.select",
        hint=pasted(shlex.quote(f"data.select=[{quoted}]"), prefix),
    )


def unfit_weights(data: MixData) -> list[Diagnostic]:
    """LF518: weights that name other sources than there are."""
    given, known = set(data.weights or ()), set(data.sources)
    if given == known:
        return []
    notes = tuple(
        f"{what}: {', '.join(sorted(names))}"
        for what, names in (("no weight", known - given), ("no such source", given - known))
        if names
    )
    even = ",".join(f"{name}:1.0" for name in data.sources)
    gone = "".join(f" ~data.weights.{name}" for name in sorted(given - known))
    blamed = next(iter(sorted(given - known) or sorted(given)), None)  # a leaf has an origin
    return [
        Diagnostic(
            "LF518",
            "data.weights must name every source, and nothing else",
            key="data.weights" if blamed is None else f"data.weights.{blamed}",
            notes=notes,
            hint=f"'++data.weights={{{even}}}'{gone}",
        )
    ]
