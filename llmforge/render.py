"""Findings, plans and tables as text, JSON or CI annotations.

In: data. Out: strings. Colour only on a terminal and never as the only carrier of meaning; NO_COLOR
is honoured. Nothing here prints: the command line does, data to stdout and findings to stderr.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from llmforge.diagnostics import Diagnostic, Severity
from llmforge.origins import Origin
from llmforge.plan import Plan

_COLOURS = {Severity.ERROR: "31;1", Severity.WARNING: "33;1", Severity.NOTE: "36"}


def wants_colour(stream: TextIO) -> bool:
    """A terminal that has not said no."""
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def _painted(text: str, code: str, colour: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colour else text


_OF_WORK = ("LF8", "LF9", "LF716", "LF732")
"""Begins of codes that are told by what did start: runs, and sweeps that stop in the middle."""


def findings_text(found: Sequence[Diagnostic], colour: bool = False) -> str:
    """Every finding as a block, errors first, and a line that counts them."""
    blocks = [_finding(d, colour) for d in found]
    errors = sum(d.severity is Severity.ERROR for d in found)
    warnings = sum(d.severity is Severity.WARNING for d in found)
    counts = [
        f"{n} {word}{'s' if n > 1 else ''}"
        for n, word in ((errors, "error"), (warnings, "warning"))
        if n
    ]
    if counts:
        started = any(d.code.startswith(_OF_WORK) for d in found)
        blocks.append(
            ", ".join(counts) + ("; nothing was started" if errors and not started else "")
        )
    return "\n\n".join(blocks)


def _finding(d: Diagnostic, colour: bool) -> str:
    head = _painted(f"{d.severity.value}[{d.code}]", _COLOURS[d.severity], colour)
    lines = [f"{head}: {_painted(d.message, '1', colour)}"]
    if d.origins:
        lines += _chain(d)
    lines += [f"  note: {note}" for note in d.notes]
    if d.hint:
        lines.append(f"{_painted('hint', '32;1', colour)}: {d.hint}")
    return "\n".join(lines)


_ABOUT_FILES = ("LF107", "LF108", "LF109", "LF111", "LF118")
"""Findings about a file, not about a value in it: only its place is shown."""


def _chain(d: Diagnostic) -> list[str]:
    """`--> place  key: value` for the writer in force, `replaced` for those before it."""
    width = max(len(origin.place) for origin in d.origins)
    last = d.origins[-1]
    if d.code in _ABOUT_FILES:
        return [f"  --> {last.place}"]
    lines = [f"  --> {last.place:<{width}}   {_written(last, d.key)}"]
    if last.kind in ("derived", "probed") and last.reason:
        lines[0] += f"   ({last.reason})"
    return lines + [
        f"      {origin.place:<{width}}   replaced {shown(origin.value)}"
        for origin in reversed(d.origins[:-1])
    ]


def _written(origin: Origin, key: str | None) -> str:
    """What a writer wrote: an override as it was typed, else key and value.

    An override of several keys at once is cut down to the one in question: another may be secret.
    """
    if origin.kind == "override" and "{" not in origin.where.replace("${", ""):
        return shown(origin.where)
    return f"{key}: {shown(origin.value)}" if key else shown(origin.value)


def shown(value: Any, limit: int = 60) -> str:
    """A value as it would stand in YAML, shortened."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def findings_json(found: Sequence[Diagnostic]) -> str:
    """One JSON object: `refused` and the list of findings."""
    return json.dumps(
        {"refused": any(d.is_error for d in found), "findings": [d.to_dict() for d in found]},
        indent=2,
        ensure_ascii=False,
    )


def findings_github(found: Sequence[Diagnostic]) -> str:
    """GitHub workflow commands, one annotation per finding."""
    lines = []
    for d in found:
        level = {"error": "error", "warning": "warning", "note": "notice"}[d.severity.value]
        where = _annotated(d)
        body = "\n".join((d.message, *d.notes, *([f"hint: {d.hint}"] if d.hint else [])))
        escaped = body.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
        lines.append(f"::{level} {where}title={d.code}::{escaped}")
    return "\n".join(lines)


def _annotated(d: Diagnostic) -> str:
    """The file to annotate: the one that set the value, unless the command line did."""
    for origin in reversed(d.origins):
        if origin.kind == "file":
            return f"file={origin.where}," + (f"line={origin.line}," if origin.line else "")
        if origin.kind == "override":
            break
    return ""


MARKS = {"file": " ", "override": ">", "derived": "=", "probed": "?", "api": ">"}
"""First column of a plan's table: who wrote the value."""


def plan_text(plan: Plan, verbose: bool = False) -> str:
    """Summary and table of a plan: key, value, origin."""
    keys = [(key, value) for key, value in plan.leaves() if verbose or _is_setting(plan, key)]
    width = max(len(key) for key, _ in keys)
    values = min(44, max(len(shown(value, 44)) for _, value in keys))
    lines = [*_summary(plan), ""]
    section = ""
    for key, value in keys:
        head = key.partition(".")[0]
        if head != section and "." in key:
            lines.append("")
        section = head
        chain = plan.origins.chain(key)
        last = chain[-1] if chain else None
        mark = MARKS[last.kind] if last else "!"
        text = shown(value, values)
        lines.append(f"{mark} {key:<{width}}  {text:<{values}}  {_origin_text(last)}".rstrip())
    lines += ["", "> command line   = derived   ? looked up"]
    return "\n".join(lines)


def _is_setting(plan: Plan, key: str) -> bool:
    return key.partition(".")[0] in plan.settings


def _origin_text(origin: Origin | None) -> str:
    if origin is None:
        return ""
    if origin.kind in ("derived", "probed"):
        return origin.reason or origin.place
    return origin.place


def _summary(plan: Plan) -> list[str]:
    estimate, data, model = plan.estimate, plan.facts["data"], plan.facts["model"]
    hardware, trainer = plan.settings["hardware"], plan.settings["trainer"]
    lines = [f"plan {plan.run_id}"]
    if model:
        share = estimate.get("trainable_parameters")
        total = estimate["total_parameters"]
        trained = f", {share:,} trained ({share / total:.2%})" if share not in (None, total) else ""
        lines.append(f"  model      {model['architecture']}, {total:,} parameters{trained}")
    lines += _base_summary(plan)
    if data:
        rows = data["rows"]
        lines.append(
            f"  data       {rows['train']:,} training rows, {rows['evaluation']:,} held out, "
            f"shape {data['shape']}"
        )
    if "steps" in estimate:
        lines.append(
            f"  length     {estimate['steps']:,} optimizer steps of {trainer['global_batch']} "
            f"samples ({trainer['micro_batch']} x {trainer['accumulation']} x "
            f"{plan.settings['launch']['processes']})"
        )
        lines.append(
            f"  records    {estimate['evaluations']} evaluations during training, {_saves(plan)}"
        )
    lines.append(f"  hardware   {hardware['count']} x {hardware['name']}")
    if "memory" in estimate:
        lines += memory_text(estimate["memory"])
    if "disk" in estimate:
        disk = estimate["disk"]
        largest = disk.get("total_bytes", disk["model_bytes"])
        lines.append(
            f"  disk       model {size_text(disk['model_bytes'])}, checkpoint "
            f"{size_text(disk['checkpoint_bytes'])}, together at most {size_text(largest)}"
        )
    lines.append(f"  folder     {plan.run_folder}")
    return lines


def _base_summary(plan: Plan) -> list[str]:
    """The run that trains the model: name, length, memory; and the run that trains its model."""
    lines = []
    base = plan.base_plan
    while base is not None:
        steps, memory = base.estimate.get("steps"), base.estimate.get("memory")
        told = [f"trained by {base.run_id}"]
        if steps is not None:
            told.append(f"{steps:,} steps")
        if memory is not None:
            needed = memory["peak_bytes"] + memory["outside_bytes"] + memory["slack_bytes"]
            told.append(f"{size_text(needed)} of memory")
        lines.append(f"             {', '.join(told)}")
        base = base.base_plan
    return lines


def _saves(plan: Plan) -> str:
    """How many checkpoints; of those by the clock only how often, since nobody knows how many."""
    count, every = plan.estimate["checkpoints"], plan.settings["checkpoint"]["every"]
    return f"a checkpoint every {every}" if count is None else f"{count} checkpoints"


PHASES = ("load", "step", "evaluation", "save")


def memory_text(memory: Mapping[str, Any]) -> list[str]:
    """The memory sheet of one device: a line that sums up, and terms by phase in GiB."""
    phases = [name for name in PHASES if name in memory]
    needed = memory["peak_bytes"] + memory["outside_bytes"] + memory["slack_bytes"]
    lines = [
        f"  memory     {size_text(needed)} of {size_text(memory['available_bytes'])} per device: "
        f"{size_text(memory['peak_bytes'])} at the {memory['peak_phase']}, "
        f"{size_text(memory['outside_bytes'])} outside the allocator, "
        f"{size_text(memory['slack_bytes'])} for gaps"
    ]
    names = list(dict.fromkeys(name for phase in phases for name in memory[phase]))
    names.sort(key=lambda name: -max(memory[phase].get(name, 0) for phase in phases))
    rows = [
        [name.replace("_", " "), *(_gib(memory[phase].get(name)) for phase in phases)]
        for name in names
    ]
    rows.append(["total", *(_gib(sum(memory[phase].values())) for phase in phases)])
    widths = [max(len(row[i]) for row in [["", *phases], *rows]) for i in range(len(phases) + 1)]
    for row in [["GiB", *phases], *rows]:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append((" " * 13 + "  ".join(cells)).rstrip())
    for name, amount in memory.get("host", {}).items():
        lines.append(f"             in main memory: {name.replace('_', ' ')} {size_text(amount)}")
    return lines


def _gib(amount: int | None) -> str:
    if not amount:
        return ""
    return f"{amount / 2**30:.2f}" if amount >= 2**30 / 200 else "<0.01"


def size_text(amount: int) -> str:
    """Bytes in the unit that suits them: `1.5 GiB`, `16 MiB`."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if amount >= size:
            value = amount / size
            return f"{value:.1f} {unit}" if value < 100 else f"{value:,.0f} {unit}"
    return f"{amount} bytes"


def table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> str:
    """Columns aligned with two spaces between them."""
    everything = [list(head), *[list(row) for row in rows]]
    widths = [max(len(row[i]) for row in everything) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in everything
    )


def emit(text: str, stream: TextIO | None = None) -> None:
    """Write a block with a final newline; a closed pipe ends quietly."""
    target = stream or sys.stdout
    try:
        target.write(text + "\n")
        target.flush()
    except BrokenPipeError:
        # the reader (`head`) has seen enough; keep the interpreter from complaining at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), target.fileno())
