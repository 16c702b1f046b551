"""Data files looked at before anything is loaded: rows, shape, digests, and every faulty line.

In: a data section. Out: `DataFacts` and diagnostics LF501-LF506, LF509. Each file is read once,
line by line; the result is remembered by the file's size and time, so a second plan does not read
it again. Samples are made elsewhere (`build/data.py`); nothing here tokenises.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llmforge.compiler.facts.digests import remember, remembered, stat_key
from llmforge.compiler.facts.rows import detect_shape, explain_no_shape, row_fault
from llmforge.diagnostics import Diagnostic, near
from llmforge.schema.data import BuiltinData, DataSpec, Fields, JsonlData
from llmforge.version import __version__

_FAULTS_SHOWN = 5
"""Faulty lines told one by one per file; the rest are counted."""


@dataclass(frozen=True)
class FileFacts:
    """One file, as it was when the plan was made."""

    sha256: str
    rows: int
    bytes: int


@dataclass(frozen=True)
class DataFacts:
    """What the data section stands for."""

    shape: str
    train_rows: int
    evaluation_rows: int
    files: dict[str, FileFacts] = field(default_factory=dict)
    """By path as written in the settings."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "rows": {"train": self.train_rows, "evaluation": self.evaluation_rows},
            "files": {path: asdict(facts) for path, facts in self.files.items()},
        }


def look_at(data: DataSpec, cache: Path) -> tuple[DataFacts | None, list[Diagnostic]]:
    """Facts of a data section; None when a file is unusable."""
    if isinstance(data, BuiltinData):
        return _builtin(data, cache)
    if isinstance(data, JsonlData):
        return _jsonl(data, cache)
    return None, []


def as_paths(value: str | list[str] | None) -> list[str]:
    """One path, several, or none."""
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def held_out(rows: int, fraction: float) -> int:
    """Rows held out of `rows`: the rounded share, at least one, never all."""
    if fraction == 0 or rows < 2:
        return 0
    return min(max(1, round(rows * fraction)), rows - 1)


def _capped(rows: int, limit: int | None) -> int:
    return rows if limit is None else min(rows, limit)


def builtin_digest() -> str:
    """Digest of the generator's own source: other code, other conversations."""
    folder = Path(__file__).parents[2] / "samples"
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _builtin(data: BuiltinData, cache: Path) -> tuple[DataFacts | None, list[Diagnostic]]:
    key = f"{builtin_digest()}|{data.rows}|{data.generator_seed}|{data.eval_fraction}"
    known = remembered(cache, "builtin.json", key)
    if not isinstance(known, list):
        from llmforge.samples.conversations import generate, split

        rows = generate(data.generator_seed, data.rows)
        try:
            fraction = data.eval_fraction
            held = split(rows, data.generator_seed, fraction)[1] if fraction else []
        except ValueError as error:
            found = Diagnostic(
                "LF509", str(error), key="data.eval_fraction", hint="data.eval_fraction=0.1"
            )
            return None, [found]
        known = [len(rows) - len(held), len(held)]
        remember(cache, "builtin.json", key, known)
    facts = DataFacts(
        "messages",
        _capped(known[0], data.max_train_rows),
        _capped(known[1], data.max_eval_rows),
    )
    return facts, []


def _jsonl(data: JsonlData, cache: Path) -> tuple[DataFacts | None, list[Diagnostic]]:
    found: list[Diagnostic] = []
    files: dict[str, FileFacts] = {}
    shape: str | None = None if data.shape == "auto" else data.shape
    counts = {"train": 0, "evaluation": 0}
    for role in ("train", "evaluation"):
        for path in as_paths(getattr(data, role)):
            key = f"data.{role}"
            facts, file_shape, problems = _scan(path, key, data.fields, shape, cache)
            found += problems
            if facts is not None and file_shape is not None:
                shape = shape or file_shape
                files[path] = facts
                counts[role] += facts.rows
    if any(d.is_error for d in found) or shape is None:
        return None, found
    train, evaluation = counts["train"], counts["evaluation"]
    if data.evaluation is None:
        evaluation = held_out(train, data.eval_fraction)
        train -= evaluation
    return (
        DataFacts(
            shape,
            _capped(train, data.max_train_rows),
            _capped(evaluation, data.max_eval_rows),
            files,
        ),
        found,
    )


def _scan(
    name: str, key: str, fields: Fields, shape: str | None, cache: Path
) -> tuple[FileFacts | None, str | None, list[Diagnostic]]:
    path = Path(name)
    if not path.is_file():
        return None, None, [_not_a_file(path, key)]
    memory = (
        f"{__version__}|{stat_key(path)}|{shape}|{json.dumps(fields.settings(), sort_keys=True)}"
    )
    known = remembered(cache, "scans.json", memory)
    if isinstance(known, Mapping):
        return FileFacts(**known["facts"]), known["shape"], []
    try:
        facts, seen, problems = _read_rows(path, key, fields, shape)
    except OSError as error:
        message = f"data file {path} cannot be read: {error.strerror}"
        return None, None, [Diagnostic("LF501", message, key=key)]
    if facts is not None and not problems:
        remember(cache, "scans.json", memory, {"facts": asdict(facts), "shape": seen})
    return facts, seen, problems


def _read_rows(
    path: Path, key: str, fields: Fields, shape: str | None
) -> tuple[FileFacts | None, str | None, list[Diagnostic]]:
    """Every line of a JSONL file, checked; the first faults told, the rest counted."""
    digest = hashlib.sha256()
    faults: list[Diagnostic] = []
    surplus = rows = size = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            digest.update(raw)
            size += len(raw)
            if not raw.strip():
                continue
            rows += 1
            fault, shape = _line_fault(raw, f"{path}:{number}", key, fields, shape)
            if fault is not None:
                if fault.code in ("LF503", "LF506"):
                    # the same mistake on every line: one finding says it all
                    return None, None, [*faults, fault]
                if len(faults) < _FAULTS_SHOWN:
                    faults.append(fault)
                else:
                    surplus += 1
    if rows == 0:
        return (
            None,
            None,
            [
                Diagnostic(
                    "LF502",
                    f"{path} holds no rows",
                    key=key,
                    notes=("only blank lines" if size else "the file is empty",),
                    hint=f"{key}=<file>",
                )
            ],
        )
    if surplus:
        last = faults[-1]
        more = f"{surplus} more faulty lines in {path}"
        faults[-1] = Diagnostic(
            last.code, last.message, key=last.key, notes=(*last.notes, more), hint=last.hint
        )
    return FileFacts(digest.hexdigest(), rows, size), shape, faults


def _line_fault(
    raw: bytes, place: str, key: str, fields: Fields, shape: str | None
) -> tuple[Diagnostic | None, str | None]:
    try:
        text = raw.decode("utf-8-sig" if place.endswith(":1") else "utf-8")
        row = json.loads(text.rstrip("\r\n"))
    except UnicodeDecodeError as error:
        return _not_utf8(raw, error, place, key), shape
    except (json.JSONDecodeError, RecursionError) as error:
        return _malformed(raw, error, place, key), shape
    if not isinstance(row, dict):
        return (
            Diagnostic(
                "LF504",
                f"{place} is not a JSON object",
                key=key,
                notes=(f"line reads: {_excerpt(raw)}",),
                hint="put one {...} object on each line",
            ),
            shape,
        )
    if shape is None:
        shape = detect_shape(row, fields)
        if shape is None:
            return explain_no_shape(row, fields, place), None
    return row_fault(row, shape, fields, place), shape


def _malformed(raw: bytes, error: Exception, place: str, key: str) -> Diagnostic:
    column = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
    reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
    return Diagnostic(
        "LF504",
        f"{place}{column} is not valid JSON: {reason}",
        key=key,
        notes=(f"line reads: {_excerpt(raw)}",),
        hint=f"mend or remove that line: sed -n {place.rpartition(':')[2]}p "
        f"{place.rpartition(':')[0]}",
    )


def _not_utf8(raw: bytes, error: UnicodeDecodeError, place: str, key: str) -> Diagnostic:
    guess = "UTF-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\x00" in raw else "ISO-8859-1"
    path = place.rpartition(":")[0]
    return Diagnostic(
        "LF503",
        f"{place} is not UTF-8: byte 0x{raw[error.start]:02x} at position {error.start}",
        key=key,
        notes=(f"it looks like {guess}",),
        hint=f"iconv -f {guess} -t UTF-8 {path} > {path}.utf8 && mv {path}.utf8 {path}",
    )


def _not_a_file(path: Path, key: str) -> Diagnostic:
    if path.is_dir():
        inside = sorted(p.name for p in path.glob("*.jsonl"))[:3]
        return Diagnostic(
            "LF501",
            f"{path} is a folder, not a file",
            key=key,
            hint=f"{key}={path / inside[0]}" if inside else None,
        )
    parent = path.parent
    guess = near(path.name, [p.name for p in parent.iterdir()]) if parent.is_dir() else []
    return Diagnostic(
        "LF501",
        f"data file {path} does not exist",
        key=key,
        notes=(f"looked from {Path.cwd()}",)
        if parent.is_dir()
        else (f"there is no folder {parent}",),
        hint=f"{key}={parent / guess[0]}" if guess else None,
    )


def _excerpt(raw: bytes) -> str:
    text = raw.decode("utf-8", "replace").strip()
    return text if len(text) <= 80 else text[:77] + "..."
