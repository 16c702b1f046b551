"""One YAML file, read once: values, the line of every key, its defaults list, its faults.

In: a path. Out: `Scan`. Safe on hostile files: size, nesting and aliases are limited before any
object is built, and tags construct nothing. Never raises for what a file holds; a file that
cannot be used has `usable=False`, empty values and at least one fault.

It does not compose: packages and precedence are Hydra's business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from llmforge.compose.limits import MAX_BYTES, Fault, measure
from llmforge.compose.tree import Builder, Entry, Loader, Tree, dotted, plain
from llmforge.diagnostics import Diagnostic
from llmforge.origins import Origin


@dataclass(frozen=True)
class Include:
    """One entry of a file's defaults list."""

    raw: Any
    """As Hydra reads it."""
    line: int
    group: str
    """Group as written (`/lora`), empty for a plain `other` or `_self_` entry."""
    name: Any
    """Option (text, a list of them, or None), or the plain entry."""
    override: bool = False
    package: str | None = None

    def group_path(self, folder: str) -> str:
        """The group from the root of the search path, for a file that lies in `folder`."""
        if self.group.startswith("/") or not folder:
            return self.group.lstrip("/")
        return f"{folder}/{self.group}" if self.group else folder

    def config_path(self, folder: str) -> str | None:
        """The file this entry brings in, when it brings in exactly one."""
        if not isinstance(self.name, str) or self.override or self.name in ("_self_", "???"):
            return None
        if not self.group and self.name.startswith("/"):
            return self.name.lstrip("/")
        group = self.group_path(folder)
        return f"{group}/{self.name}" if group else self.name


@dataclass(frozen=True)
class Scan:
    """What one file says. Shared by every composition that reads the file: never mutated."""

    path: Path
    text: str = ""
    tree: Tree = field(default_factory=dict)
    """Keys with lines, without `defaults`."""
    includes: tuple[Include, ...] = ()
    has_defaults: bool = False
    faults: tuple[Fault, ...] = ()
    usable: bool = True
    stamp: tuple[int, int] = (0, 0)
    """Modification time and size of the file that was read."""

    def config(self) -> dict[Any, Any]:
        """The file as Hydra gets it: a fresh plain mapping, defaults list included."""
        out = plain(self.tree)
        if self.has_defaults:
            out["defaults"] = [include.raw for include in self.includes]
        return out

    def diagnostic(self, fault: Fault, shown: str, package: str = "") -> Diagnostic:
        """A fault of this file as the user sees it: full key, place, and the line itself."""
        lines = self.text.splitlines()
        notes = fault.notes
        if fault.line is not None and fault.line <= len(lines):
            excerpt = lines[fault.line - 1].rstrip()[:160]
            notes = (f"line {fault.line}: {excerpt}", *notes)
        origin = Origin("file", shown, fault.value, fault.line)
        place = origin.place if fault.column is None else f"{origin.place}:{fault.column}"
        return Diagnostic(
            code=fault.code,
            message=f"{fault.message} in {place}",
            key=dotted(fault.path, package) or None,
            origins=(origin,),
            notes=notes,
            hint=fault.hint,
        )


def scan(path: Path) -> Scan:
    """Read the file, or hand out the last reading while the file on disk is the same."""
    stat = path.stat()
    return _scan(path, (stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=1024)
def _scan(path: Path, stamp: tuple[int, int]) -> Scan:
    return replace(_scan_text(path, stamp[1]), stamp=stamp)


def _scan_text(path: Path, size: int) -> Scan:
    if size > MAX_BYTES:
        fault = Fault("LF109", f"file of {size} bytes is over {MAX_BYTES}")
        return Scan(path, faults=(fault,), usable=False)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        fault = Fault("LF107", f"file cannot be read: {error.strerror}")
        return Scan(path, faults=(fault,), usable=False)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        fault = Fault("LF107", f"byte {error.start} is not UTF-8", line=line)
        return Scan(path, faults=(fault,), usable=False)
    try:
        too_much = measure(text)
        return Scan(path, text, faults=(too_much,), usable=False) if too_much else _read(path, text)
    except yaml.YAMLError as error:
        return Scan(path, text, faults=(_syntax_fault(error, text),), usable=False)


def _read(path: Path, text: str) -> Scan:
    loader = Loader(text)
    node = loader.get_single_node()
    if node is None:
        return Scan(path, text)
    if not isinstance(node, yaml.MappingNode):
        empty = isinstance(node, yaml.ScalarNode) and node.value in ("", "~", "null")
        fault = Fault("LF107", "no mapping of keys to values", line=1, column=1)
        return Scan(path, text, faults=() if empty else (fault,), usable=empty)
    builder = Builder(loader, _header_faults(text))
    tree = builder.mapping(node)
    entry = tree.pop("defaults", None)
    includes = [] if entry is None else _includes(entry, node, builder.faults)
    return Scan(path, text, tree, tuple(includes), entry is not None, tuple(builder.faults))


def _header_faults(text: str) -> list[Fault]:
    """Hydra's `# @package name` lines at the top: exactly one word each."""
    found = []
    for number, line in enumerate(text[:512].splitlines(), 1):
        if line.strip() and not re.match(r"\s*#\s*@", line):
            break
        if line.strip() and len(line.strip().lstrip("#").split()) != 2:
            fault = Fault("LF107", "a header reads `# @package name`", line=number, column=1)
            found.append(fault)
    return found


def _includes(entry: Entry, root: yaml.MappingNode, faults: list[Fault]) -> list[Include]:
    """The entries Hydra can read; the others become faults and are left out."""
    if not isinstance(entry.value, list):
        message = "`defaults` must be a list such as `[base, _self_]`"
        faults.append(Fault("LF107", message, ("defaults",), entry.line, 1))
        return []
    node = next((v for k, v in reversed(root.value) if k.value == "defaults"), None)
    if node is None:
        faults.append(Fault("LF107", "`defaults` cannot come from a `<<` merge", ("defaults",)))
        return []
    found = []
    for item, item_node in zip(entry.value, node.value, strict=True):
        mark = item_node.start_mark
        include = _include(item, mark.line + 1)
        if include is None:
            message = f"defaults entry `{item}` is neither `option` nor `group: option`"
            if isinstance(item, dict) and any(isinstance(v, bool) for v in item.values()):
                message += "; YAML reads on, off, yes and no as booleans, so quote the option"
            fault = Fault("LF107", message, ("defaults",), mark.line + 1, mark.column + 1)
            faults.append(fault)
        else:
            found.append(include)
    return found


def _include(item: Any, line: int) -> Include | None:
    if isinstance(item, str):
        name, _, package = item.partition("@")
        return Include(item, line, "", name, package=package or None)
    if not isinstance(item, dict) or len(item) != 1:
        return None
    [(key, name)] = item.items()
    options = name if isinstance(name, list) else [name]
    if not isinstance(key, str) or not all(isinstance(o, str | None) for o in options):
        return None
    *keywords, group = key.split()
    group, _, package = group.partition("@")
    return Include(item, line, group, name, "override" in keywords, package or None)


def _syntax_fault(error: yaml.YAMLError, text: str) -> Fault:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    if mark is not None:
        return Fault("LF107", f"{problem}", line=mark.line + 1, column=mark.column + 1)
    position = getattr(error, "position", None)
    if isinstance(position, int):  # a reader error: libyaml counts bytes here
        line = text.encode()[:position].count(b"\n") + 1
        return Fault("LF107", f"{getattr(error, 'reason', problem)}", line=line)
    return Fault("LF107", str(problem))
