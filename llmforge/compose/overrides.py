"""Override texts, read once before Hydra sees them.

In: the texts of the command line. Out: `Override`s that Hydra can take, and a diagnostic for
each that it cannot: text outside its grammar or a sweep (LF112), an unknown option (LF102), a
group chosen twice (LF113), a key that would run code (LF110).

Whether a key exists is not known before composition: `repair.py` looks at that.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override as HydraOverride

from llmforge.compose.grammar import sweep, unreadable
from llmforge.compose.library import PRIMARY, Library
from llmforge.compose.scan import scan
from llmforge.compose.tree import FORBIDDEN, dotted, forbidden
from llmforge.diagnostics import Diagnostic, did_you_mean, near
from llmforge.origins import Origin

Kind = Literal["set", "add", "force", "delete"]
_NOTHING = ("null", "none", "off", "no", "false", "")
_PREFIX: dict[Kind, str] = {"set": "", "add": "+", "force": "++", "delete": "~"}


@dataclass(frozen=True)
class Override:
    """One override that parses."""

    text: str
    kind: Kind
    key: str
    """Dotted key, or the group's path."""
    package: str | None
    value: Any
    is_group: bool
    """Chooses an option instead of setting a value."""

    @property
    def target(self) -> str:
        """`group@package`, as Hydra names the choice."""
        return self.key if self.package is None else f"{self.key}@{self.package}"

    @property
    def for_hydra(self) -> bool:
        """Whether it configures Hydra itself."""
        return self.key == "hydra" or self.key.startswith(("hydra.", "hydra/"))

    @property
    def picks_files(self) -> bool:
        """Whether it decides which files are read."""
        return self.is_group or self.key == "hydra.searchpath"

    @property
    def for_grammar(self) -> str:
        """The text as Hydra is given it; the user's own stays the origin."""
        forced = self.kind == "force" and not self.text.startswith(_PREFIX["force"])
        return f"{_PREFIX['force']}{self.text}" if forced else self.text

    def origin(self) -> Origin:
        """The override as a writer of its key."""
        return Origin("override", self.text, self.value)

    def choosing(self, option: str) -> Override:
        """The same choice of another option."""
        text = f"{_PREFIX[self.kind]}{self.target}={option}"
        return replace(self, text=text, value=option)

    def forced(self) -> Override:
        """The same, and names that no file has are added."""
        return replace(self, kind="force")


@dataclass
class Parsed:
    """The readable overrides, and what was wrong with the others."""

    overrides: list[Override] = field(default_factory=list)
    diagnostics: list[Diagnostic] = field(default_factory=list)
    clouded: set[str] = field(default_factory=set)
    """Sections whose content cannot be judged, since what should fill them was not found."""


def parse(texts: Sequence[str], library: Library) -> Parsed:
    """Sort the overrides of one composition. Raises nothing for what the texts hold."""
    out = Parsed()
    # options in Hydra's own search path are not ours to list: Hydra will say when one is missing
    known = None if any("hydra.searchpath" in text for text in texts) else library
    parser = OverridesParser.create()
    for text in texts:
        try:
            raw = parser.parse_override(text)
        except Exception as error:  # Hydra's grammar, ANTLR and casts raise anything
            out.diagnostics.append(unreadable(text, error, parser))
            continue
        if raw.is_sweep_override():
            out.diagnostics.append(sweep(text, raw))
            continue
        override = _typed(text, raw, library)
        if fault := _fault(override):
            out.diagnostics.append(fault)
        elif known and override.is_group and override.kind != "delete" and not override.for_hydra:
            _choose(override, known, out)
        else:
            out.overrides.append(override)
    _drop_rivals(out, texts)
    return out


def _typed(text: str, raw: HydraOverride, library: Library) -> Override:
    kind: Kind = "set"
    if raw.is_delete():
        kind = "delete"
    elif raw.is_force_add():
        kind = "force"
    elif raw.is_add():
        kind = "add"
    value: Any = raw.value()
    key = re.sub(r"\[(\w+)\]", r".\1", raw.key_or_group)  # Hydra 1.4 reads `list[0]` as well
    is_group = not isinstance(value, dict) and (
        key.startswith("hydra/") or (key != "hydra" and library.is_group(key))
    )
    return Override(text, kind, key, raw.package, value, is_group)


def _fault(override: Override) -> Diagnostic | None:
    """What no config could make right."""
    if not override.key:
        return Diagnostic(
            "LF112",
            f"override `{override.text}` names no key",
            origins=(override.origin(),),
        )
    if any(not isinstance(key, str | int | float) for key in _keys(override.value)):
        return Diagnostic(
            "LF112",
            f"override `{override.text}` has a mapping with `null` for a key",
            key=override.key,
            origins=(override.origin(),),
        )
    if override.for_hydra:
        return None
    parts = tuple(override.key.split("."))
    bad = next((p for p in parts if p in FORBIDDEN), None)
    path = parts if bad else next(forbidden(override.value, parts), None)
    return code_running_key(path, (override.origin(),)) if path else None


def code_running_key(path: tuple[Any, ...], origins: tuple[Origin, ...]) -> Diagnostic:
    """LF110, for files and overrides alike."""
    name = next(str(part) for part in path if part in FORBIDDEN)
    section = dotted(path[: path.index(name)])
    return Diagnostic(
        "LF110",
        f"`{name}` would let configuration run code",
        key=dotted(path),
        origins=origins,
        notes=("components are named by `kind`, and looked up in llmforge's registry",),
        hint=f"{section}.kind=<name>" if section else "kind=<name>",
    )


def _choose(override: Override, library: Library, out: Parsed) -> None:
    """Keep a choice whose option exists; else report it and go on with the nearest one."""
    chosen = override.value if isinstance(override.value, list) else [override.value]
    known = library.option_names(override.key)
    unknown = [o for o in chosen if not isinstance(o, str) or not _has(library, override.key, o)]
    if not unknown:
        out.overrides.append(override)
        return
    wrong = unknown[0]
    best = near(str(wrong), known, limit=1)
    out.diagnostics.append(unknown_option(library, override.key, wrong, override.origin()))
    if best and not isinstance(override.value, list):
        out.overrides.append(override.choosing(best[0]))
    else:
        out.clouded.add(override.package or override.key.replace("/", "."))


def unknown_option(
    library: Library, group: str, wrong: Any, origin: Origin, known: list[str] | None = None
) -> Diagnostic:
    """LF102 for an option that no config dir has, of those `known` if Hydra listed some."""
    known = known or library.option_names(group)
    name = "null" if wrong is None else str(wrong)
    notes = (*did_you_mean(name, known), f"options of `{group}`: {', '.join(known) or 'none'}")
    best = near(name, known, limit=1)
    if not best and len(known) == 1:
        best = known
    if not best and name.lower() in _NOTHING:
        best = ["none"] if "none" in known else _usual(library, group)
        if best and best != ["none"]:
            notes = (f"`{group}` cannot be left out; `{best[0]}` is the usual choice", *notes)
    return Diagnostic(
        "LF102",
        f"group `{group}` has no option `{name}`",
        key=group.replace("/", "."),
        origins=(origin,),
        notes=notes,
        hint=f"{group}={best[0]}" if best else None,
    )


def _usual(library: Library, group: str) -> list[str]:
    """What the primary config chooses of a group, if it names an option."""
    primary = library.find(PRIMARY)
    includes = scan(primary).includes if primary else ()
    return [i.name for i in includes if i.group == group and isinstance(i.name, str)]


def _has(library: Library, group: str, option: str) -> bool:
    # an interpolated option is Hydra's to resolve, `???` asks for a choice
    return "${" in option or option == "???" or library.find(f"{group}/{option}") is not None


def override_text(key: str, value: Any) -> str | None:
    """The override that sets a scalar, ready to paste; None for a list or a mapping."""
    if isinstance(value, dict | list):
        return None
    if value is None or isinstance(value, bool):
        return f"{key}={json.dumps(value)}"
    text = str(value)
    plain = not isinstance(value, str) or re.fullmatch(r"[A-Za-z_][\w./-]*", text)
    return shlex.quote(f"{key}={text}" if plain else f"{key}={json.dumps(text)}")


def _drop_rivals(out: Parsed, texts: Sequence[str]) -> None:
    """LF113: of two different options for one group the last is kept, as Hydra would.

    A stand-in for an unknown option is nobody's rival: it is reported already.
    """
    last: dict[str, Override] = {}
    kept: list[Override] = []
    for override in out.overrides:
        rival = last.get(override.target)
        if override.is_group and override.kind == "set":
            last[override.target] = override
            if rival is not None:
                kept.remove(rival)
                if rival.value != override.value and {rival.text, override.text} <= set(texts):
                    out.diagnostics.append(_rivals(rival, override))
        kept.append(override)
    out.overrides = kept


def _rivals(first: Override, second: Override) -> Diagnostic:
    return Diagnostic(
        "LF113",
        f"group `{first.target}` is chosen twice: `{first.text}` and `{second.text}`",
        key=first.key.replace("/", "."),
        origins=(first.origin(), second.origin()),
        hint=second.text,
    )


def _keys(value: Any) -> list[Any]:
    """Every mapping key in a value, however deep."""
    if isinstance(value, dict):
        return [*value, *(key for below in value.values() for key in _keys(below))]
    if isinstance(value, list):
        return [key for below in value for key in _keys(below)]
    return []
