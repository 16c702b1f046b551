"""Conditions on rows: `lang == "en"`, `score >= 0.5`, `topic in ["maths"]`, `note is not null`.

In: the texts of `data.select`. Out: `Condition`s that answer for one row's columns. The grammar is
`COLUMN OPERATOR VALUE` with a JSON value; nothing is evaluated as code.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_GRAMMAR = re.compile(
    r"\s*(?P<column>[^\s=<>!]+)\s*"
    r"(?P<operator>==|!=|<=|>=|<|>|\bnot\s+in\b|\bin\b|\bnot\s+contains\b|\bcontains\b"
    r"|\bis\s+not\s+null\b|\bis\s+null\b)"
    r"\s*(?P<value>.*)",
    re.DOTALL,
)
_WITHOUT_VALUE = ("is null", "is not null")
_NEGATIONS = {"!=": "==", "not in": "in", "not contains": "contains", "is not null": "is null"}

OPERATORS = ("==", "!=", "<", "<=", ">", ">=", "in", "not in", "contains", "not contains",
             *_WITHOUT_VALUE)  # fmt: skip


@dataclass(frozen=True)
class Condition:
    """One condition; a row without the column has null there."""

    column: str
    operator: str
    value: Any

    def meets(self, row: Mapping[str, Any]) -> bool:
        """Is it true of the row? Values of another type than the condition's are not ordered, and
        so meet no `<` or `>`; text that reads as a number is one, because CSV has only text."""
        asked = _NEGATIONS.get(self.operator, self.operator)
        return self._holds(asked, lookup(row, self.column)) is (asked == self.operator)

    def _holds(self, asked: str, found: Any) -> bool:
        if asked == "is null":
            return found is None
        if asked == "in":
            return any(_same(found, item) for item in self.value)
        if asked == "contains":
            if isinstance(found, str):
                return str(self.value) in found
            return isinstance(found, list) and any(_same(item, self.value) for item in found)
        if asked == "==":
            return _same(found, self.value)
        found = _as_number(found) if _is_number(self.value) else found
        comparable = (_is_number(found) and _is_number(self.value)) or (
            isinstance(found, str) and isinstance(self.value, str)
        )
        return comparable and _ORDER[asked](found, self.value)


def condition(text: str) -> Condition:
    """Parse one condition.

    Raises:
        ValueError: it does not fit the grammar; the message says how it would.
    """
    found = _GRAMMAR.fullmatch(text)
    if found is None:
        raise ValueError(f"expected COLUMN OPERATOR VALUE, with one of {', '.join(OPERATORS)}")
    name = " ".join(found["operator"].split())
    rest = found["value"].strip()
    if name in _WITHOUT_VALUE:
        if rest:
            raise ValueError(f"nothing may follow `{name}`")
        return Condition(found["column"], name, None)
    try:
        value = json.loads(rest)
    except ValueError:
        quoted = rest.strip("'\"")
        raise ValueError(f'`{rest}` is not a JSON value; text is written "{quoted}"') from None
    if name.endswith("in") and name != "contains" and not isinstance(value, list):
        raise ValueError(f"`{name}` needs a list: [{rest}]")
    return Condition(found["column"], name, value)


_SLOPPY = re.compile(
    r"\s*(?P<column>[^\s=<>!]+)\s*(?P<operator>=+|<>|!=|<=|>=|<|>|\bnot\s+in\b|\bin\b"
    r"|\bnot\s+contains\b|\bcontains\b)\s*(?P<value>.+)",
    re.DOTALL,
)
_MEANT = {"=": "==", "===": "==", "<>": "!="}


def mended(text: str) -> str | None:
    """What a condition that cannot be read was most likely meant to be: one `=` for two, text
    without its double quotes, a list where one value stands. None if that gives none either."""
    found = _SLOPPY.fullmatch(text)
    if found is None:
        return None
    name = " ".join(_MEANT.get(found["operator"], found["operator"]).split())
    rest = found["value"].strip()
    for written in (
        rest,
        rest.replace("'", '"'),
        json.dumps(rest.strip("'\""), ensure_ascii=False),
    ):
        for value in (written, f"[{written}]"):
            made = f"{found['column']} {name} {value}"
            try:
                condition(made)
            except ValueError:
                continue
            return made
    return None


def lookup(row: Mapping[str, Any], column: str) -> Any:
    """A column's value, or one inside it: `meta.lang`, `answers.0`. None where there is none."""
    if column in row:
        return row[column]
    here: Any = row
    for part in column.split("."):
        if isinstance(here, Mapping) and part in here:
            here = here[part]
        elif isinstance(here, list) and part.isdigit() and int(part) < len(here):
            here = here[int(part)]
        else:
            return None
    return here


def has(row: Mapping[str, Any], column: str) -> bool:
    """Is the column there, if only as null?"""
    if column in row:
        return True
    parent, _, last = column.rpartition(".")
    inside = lookup(row, parent) if parent else None
    return last in inside if isinstance(inside, Mapping) else lookup(row, column) is not None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _same(found: Any, wanted: Any) -> bool:
    if _is_number(wanted):
        found = _as_number(found)
        return _is_number(found) and found == wanted
    return type(found) is type(wanted) and bool(found == wanted)
