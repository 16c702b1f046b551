"""Where a value came from: data types shared by everything that writes or shows values.

In: nothing. Out: `Origin` (one writer of one key) and `Origins` (key -> chain, first writer
first, the last one won). `compose/origins.py` fills them from files and overrides, the compiler
adds derived and probed ones; nothing here reads files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

OriginKind = Literal["file", "override", "derived", "probed", "api"]


@dataclass(frozen=True)
class Origin:
    """One writer of one key."""

    kind: OriginKind
    where: str
    """`conf/lora/small.yaml` for a file, the override text, or the name of the pass or probe."""
    value: Any = None
    line: int | None = None
    """1-based line, files only."""
    reason: str = ""
    """Why: the sentence a derive pass gives, or which choice brought a file in."""
    reads: tuple[str, ...] = ()
    """Keys a derived value was computed from."""

    @property
    def place(self) -> str:
        """`file:line`, `command line`, or `derived by <pass>`."""
        if self.kind == "file":
            return self.where if self.line is None else f"{self.where}:{self.line}"
        if self.kind == "override":
            return "command line"
        if self.kind == "api":
            return f"python call ({self.where})"
        return f"{self.kind} by {self.where}"

    def to_dict(self) -> dict[str, Any]:
        out: dict[str, Any] = {"kind": self.kind, "where": self.where, "value": self.value}
        if self.line is not None:
            out["line"] = self.line
        if self.reason:
            out["reason"] = self.reason
        if self.reads:
            out["reads"] = list(self.reads)
        return out

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Origin:
        return cls(
            kind=data["kind"],
            where=data["where"],
            value=data.get("value"),
            line=data.get("line"),
            reason=data.get("reason", ""),
            reads=tuple(data.get("reads", ())),
        )


@dataclass
class Origins:
    """Chains of origins by dotted key; the last entry of a chain is the one in force."""

    chains: dict[str, list[Origin]] = field(default_factory=dict)

    def add(self, key: str, origin: Origin) -> None:
        self.chains.setdefault(key, []).append(origin)

    def chain(self, key: str) -> tuple[Origin, ...]:
        """The key's chain; a key without one borrows that of its nearest parent."""
        parts = key.split(".")
        for cut in range(len(parts), 0, -1):
            found = self.chains.get(".".join(parts[:cut]))
            if found:
                return tuple(found)
        return ()

    def copy(self) -> Origins:
        return Origins({key: list(chain) for key, chain in self.chains.items()})

    def drop(self, prefix: str) -> None:
        """Forget the chains of `prefix` and of everything below it."""
        for key in [k for k in self.chains if k == prefix or k.startswith(prefix + ".")]:
            del self.chains[key]

    def to_dict(self) -> dict[str, list[dict[str, Any]]]:
        return {key: [o.to_dict() for o in self.chains[key]] for key in sorted(self.chains)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Origins:
        return cls({key: [Origin.from_dict(o) for o in chain] for key, chain in data.items()})


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten nested mappings to `(dotted key, value)`; lists and empty mappings are leaves."""
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, tree
