"""What the user is told when something is wrong: data only, no printing.

In: nothing. Out: `Diagnostic`, the one shape of every user-facing finding, and `ConfigRefused`,
the one exception that carries a batch of them. Rendering lives in `render.py`; the texts behind
`llmforge explain CODE` live in `codes/` and in the rules' own docstrings.

This module does not decide anything: rules and passes do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from llmforge.origins import Origin


class Severity(StrEnum):
    """How much a finding weighs: an error refuses the plan, the others do not."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Diagnostic:
    """One finding, complete enough to be rendered as text, JSON or a CI annotation."""

    code: str
    """`LF` and three digits; the first digit is the family (see `codes/`)."""
    message: str
    """One line, lower case, standing alone; names the fault, never the cure."""
    severity: Severity = Severity.ERROR
    key: str | None = None
    """Dotted config key the finding is about, if it is about one."""
    origins: tuple[Origin, ...] = ()
    """Chain of the key's origins, first writer first; filled in by the compiler when left empty."""
    notes: tuple[str, ...] = ()
    hint: str | None = None
    """An override to paste (`trainer.global_batch=128`), or a command."""

    @property
    def is_error(self) -> bool:
        return self.severity is Severity.ERROR

    def to_dict(self) -> dict[str, object]:
        """JSON form; stable, used by `check --format json` and inside plans."""
        return {
            "code": self.code,
            "severity": self.severity.value,
            "message": self.message,
            "key": self.key,
            "origins": [origin.to_dict() for origin in self.origins],
            "notes": list(self.notes),
            "hint": self.hint,
        }


@dataclass
class ConfigRefused(Exception):
    """The user's configuration cannot work; holds every finding, exit code 2."""

    diagnostics: Sequence[Diagnostic] = field(default_factory=list)

    def __str__(self) -> str:
        return "; ".join(f"{d.code}: {d.message}" for d in self.diagnostics)


def refuse_on_error(diagnostics: Iterable[Diagnostic]) -> None:
    """Raise `ConfigRefused` with all findings if any of them is an error."""
    found = list(diagnostics)
    if any(d.is_error for d in found):
        raise ConfigRefused(found)


def near(word: str, candidates: Iterable[str], limit: int = 3) -> list[str]:
    """Names close enough to `word` to be what was meant, best first."""
    return difflib.get_close_matches(str(word), sorted(set(candidates)), n=limit, cutoff=0.55)


def did_you_mean(word: str, candidates: Iterable[str]) -> tuple[str, ...]:
    """A note listing near matches, or nothing when there are none."""
    found = near(word, candidates)
    return (f"did you mean {' or '.join(f'`{name}`' for name in found)}?",) if found else ()
