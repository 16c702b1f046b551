"""Filters on runs: `optimizer.lr>1e-4 and (status=finished or not lora.kind=none)`.

In: a text. Out: `Query`, which asks a run for values by name and says yes or no. The language:

    comparison    NAME OP VALUE     = == != < <= > >= and ~ (contains, whatever the case)
    joined by     and, or, not, ( )
    VALUE         a number, true, false, null, a word, or a text in quotes

What a run does not have compares as false, also with `!=`; `NAME=null` asks for just that. Numbers
compare as numbers, everything else as text, whatever the case. Nothing is ever evaluated: the text
is read into a tree of comparisons, and only those are done.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Values = Callable[[str], Any]
"""Value of a run by name; None for what it does not have."""

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<text>"[^"]*"|'[^']*')
    | (?P<sign><=|>=|!=|==|[=<>~()])
    | (?P<word>[^\s()=<>!~"']+)
    )""",
    re.VERBOSE,
)
_OPERATORS = ("=", "==", "!=", "<", "<=", ">", ">=", "~")
_JOINING = ("and", "or", "not")
_MOST_NESTED = 50


class QueryError(ValueError):
    """The text is no filter; `place` is where it stops being one."""

    def __init__(self, message: str, place: int) -> None:
        super().__init__(message)
        self.place = place


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    place: int


@dataclass(frozen=True)
class Comparison:
    """One `NAME OP VALUE`."""

    name: str
    operator: str
    wanted: Any

    def holds(self, values: Values) -> bool:
        """Is it so for this run?"""
        found = values(self.name)
        if self.wanted is None:
            return (found is None) == (self.operator != "!=")
        if found is None:
            return False
        if self.operator == "~":
            return str(self.wanted).lower() in _text(found)
        return _compared(found, self.operator, self.wanted)


@dataclass(frozen=True)
class Joined:
    """`and`, `or` over parts; `not` over one."""

    how: str
    parts: tuple[Comparison | Joined, ...]

    def holds(self, values: Values) -> bool:
        """Is it so for this run?"""
        answers = (part.holds(values) for part in self.parts)
        if self.how == "not":
            return not next(answers)
        return all(answers) if self.how == "and" else any(answers)


Query = Comparison | Joined


def parse(text: str) -> Query:
    """Read a filter.

    Raises:
        QueryError: it is none.
    """
    reader = _Reader(text)
    found = reader.either(0)
    reader.end()
    return found


def names(query: Query) -> list[str]:
    """Names that a filter asks for, in their order."""
    if isinstance(query, Comparison):
        return [query.name]
    return list(dict.fromkeys(name for part in query.parts for name in names(part)))


class _Reader:
    def __init__(self, text: str) -> None:
        self._tokens: list[_Token] = []
        place = 0
        while text[place:].strip():
            found = _TOKEN.match(text, place)
            if found is None:
                place += len(text[place:]) - len(text[place:].lstrip())
                raise QueryError(f"`{text[place]}` has no meaning here", place)
            kind = str(found.lastgroup)
            self._tokens.append(_Token(kind, found[kind], found.start(kind)))
            place = found.end()
        self._tokens.append(_Token("end", "", len(text)))

    def either(self, depth: int) -> Query:
        """Parts joined by `or`, the loosest."""
        parts = [self._both(depth)]
        while self._take("or"):
            parts.append(self._both(depth))
        return parts[0] if len(parts) == 1 else Joined("or", tuple(parts))

    def end(self) -> None:
        """Nothing is left."""
        left = self._tokens[0]
        if left.kind != "end":
            raise QueryError(f"`{left.text}` is too much: join comparisons by and, or", left.place)

    def _both(self, depth: int) -> Query:
        parts = [self._one(depth)]
        while self._take("and"):
            parts.append(self._one(depth))
        return parts[0] if len(parts) == 1 else Joined("and", tuple(parts))

    def _one(self, depth: int) -> Query:
        if depth > _MOST_NESTED:
            raise QueryError("too deeply nested", self._tokens[0].place)
        if self._take("not"):
            return Joined("not", (self._one(depth + 1),))
        if self._take("("):
            found = self.either(depth + 1)
            if not self._take(")"):
                raise QueryError("`)` is missing", self._tokens[0].place)
            return found
        return self._comparison()

    def _comparison(self) -> Comparison:
        name = self._tokens.pop(0)
        if name.kind != "word" or name.text in _JOINING:
            what = f"not `{name.text}`" if name.text else "and there is none"
            raise QueryError(f"a name of a setting or figure belongs here, {what}", name.place)
        sign = self._tokens.pop(0) if self._tokens[0].text in _OPERATORS else None
        if sign is None:
            signs = " ".join(_OPERATORS)
            raise QueryError(f"`{name.text}` needs one of {signs} behind it", self._tokens[0].place)
        value = self._tokens.pop(0)
        if value.kind not in ("word", "text"):
            raise QueryError(f"a value belongs behind `{sign.text}`", value.place)
        return Comparison(name.text, sign.text, _value(value))

    def _take(self, text: str) -> bool:
        token = self._tokens[0]
        if token.kind == "text" or token.text != text:
            return False
        self._tokens.pop(0)
        return True


def _value(token: _Token) -> Any:
    if token.kind == "text":
        return token.text[1:-1]
    known = {"true": True, "false": False, "null": None}
    if token.text.lower() in known:
        return known[token.text.lower()]
    number = _number(token.text)
    return token.text if number is None else number


def _compared(found: Any, operator: str, wanted: Any) -> bool:
    left, right = _number(found), _number(wanted)
    one: Any
    other: Any
    if left is not None and right is not None:
        one, other = left, right
    else:
        one, other = _text(found), _text(wanted)
    answers = {
        "=": one == other, "==": one == other, "!=": one != other, "<": one < other,
        "<=": one <= other, ">": one > other, ">=": one >= other,
    }  # fmt: skip
    return bool(answers[operator])


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _text(value: Any) -> str:
    return str(value).lower()
